"""The networks of SAM and MobileSAM."""
