"""`python -m sam_pipeline` is `sam-pipeline`."""

from sam_pipeline.cli.commands import main

if __name__ == "__main__":
    main()
