"""Texts of exports, made of columns."""
