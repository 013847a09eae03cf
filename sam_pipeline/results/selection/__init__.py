"""Which masks of a run are wanted."""
