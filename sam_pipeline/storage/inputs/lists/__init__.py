"""Lists that name images."""
