"""The run itself. The only package that imports Ray."""
