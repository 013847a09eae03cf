"""Inputs of every kind, each made into the same table of images to plan."""
