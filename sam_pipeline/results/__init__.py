"""What a run has found, for reading: which of its masks are wanted, its images, its categories."""
