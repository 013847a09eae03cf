"""Looking after an output: its status, its check, and what nobody needs any more."""
