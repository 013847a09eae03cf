"""The Delta tables of an output."""
