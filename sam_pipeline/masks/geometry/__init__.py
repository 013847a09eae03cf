"""Crops, grids and frames of coordinates."""
