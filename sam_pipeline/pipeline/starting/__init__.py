"""What a start settles before its first image."""
