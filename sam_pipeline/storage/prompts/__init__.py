"""Prompts from files: boxes of a detector, points of an annotator, masks of an earlier prediction, regions."""
