"""The commands that use the masks of a run."""
