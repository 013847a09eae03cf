"""What commands start in a process of its own, and what watches it."""
