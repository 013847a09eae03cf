"""Where images and results live: fsspec, Pillow, pyarrow and deltalake. Neither torch nor Ray is imported here."""
