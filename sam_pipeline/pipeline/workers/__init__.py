"""What runs in the tasks and actors."""
