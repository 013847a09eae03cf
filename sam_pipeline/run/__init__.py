"""A run as Python sees it: its rows, and what is made of them."""
