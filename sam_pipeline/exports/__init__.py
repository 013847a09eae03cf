"""Runs written in the formats of others: exporting.py goes through the run, a module in formats/ writes each format."""
