"""Objects in storage: names, retries, reading by ranges."""
