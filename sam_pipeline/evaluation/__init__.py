"""Masks of a run against ground truth: average precision, average recall, and how well each image's objects are met."""
