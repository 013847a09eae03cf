"""The input: what can be listed, what a listing names, and its bytes and pixels."""
