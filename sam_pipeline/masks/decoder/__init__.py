"""The mask decoder for many prompts of one image."""
