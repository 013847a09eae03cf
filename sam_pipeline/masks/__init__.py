"""The mask engine: prompts in, scored RLE masks out. No Ray, and no files."""
