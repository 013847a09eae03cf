"""Masks as polygons, and what is lost on the way."""
