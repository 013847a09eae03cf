"""Annotate a bucket on a Ray cluster: `ray job submit -- python jobs/annotate.py --input … --output …`.

Takes the flags of `sam-pipeline annotate`; submitting the same job again resumes it.
"""

from __future__ import annotations

import sys

from sam_pipeline.cli.commands import main

if __name__ == "__main__":
    sys.argv.insert(1, "annotate")
    main()
