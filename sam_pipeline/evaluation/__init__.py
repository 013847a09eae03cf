"""Masks of a run against ground truth: average precision, average recall, how well each image matches."""
