"""What the README's figures are measured with; `python -m jobs.benchmark --help` lists the commands."""
