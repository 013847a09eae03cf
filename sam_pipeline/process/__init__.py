"""The process of a command: its parent, and how it ends."""
