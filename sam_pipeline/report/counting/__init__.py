"""Figures of masks that come in parts: memory does not grow with their number."""
