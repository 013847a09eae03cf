"""Files with many images inside: tar, zip, Parquet."""
