"""What scripts/amg.py of segment_anything does: the masks of a few images as files, in one process, without Ray."""
