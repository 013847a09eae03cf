"""From low-resolution logits to masks at full resolution."""
