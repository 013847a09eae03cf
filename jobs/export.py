"""Export a run on a Ray cluster: `ray job submit -- python jobs/export.py OUTPUT DEST --format …`.

Takes the arguments of `sam-pipeline export` and writes the same files; submitting the same job again goes on with it.
"""

from __future__ import annotations

import sys

from sam_pipeline.cli.commands import main

if __name__ == "__main__":
    sys.argv[1:1] = ["export", "--on-ray"]
    main()
