"""`sam-pipeline` with the fake engine in SAM's place: the same commands, flags, graph, tables and exit codes.

The engine's instructions are JSON in the environment variable FAKE_ENGINE.
"""

import json
import os
from functools import partial

from sam_pipeline.cli import commands as cli
from sam_pipeline.pipeline import annotate
from sam_pipeline.pipeline.estimating import estimate, sample
from tests.faults.fake_engine import Instructions, fake_backend

if __name__ == "__main__":
    instructions = Instructions(**json.loads(os.environ.get("FAKE_ENGINE", "{}")))
    backend = fake_backend(instructions)
    annotate.annotate = partial(annotate.annotate, backend=backend)
    estimate.estimate = partial(estimate.estimate, backend=backend)
    sample._SAMPLE_S = 10.0  # images of tests are more alike than others
    cli.main()
