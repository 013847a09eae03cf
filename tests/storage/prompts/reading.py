"""Reading prompt files for tests."""

import pyarrow as pa

from sam_pipeline.storage.prompts.prompt_files import read_prompts
from sam_pipeline.storage.prompts.prompt_rows import KEYED_PROMPTS, PromptOptions


def read_rows(uri, read=read_prompts, storage=None, **options):
    """All rows, as they are."""
    parts = list(read(str(uri), PromptOptions(storage or {}, **options)))
    assert all(part.schema == KEYED_PROMPTS for part in parts)
    return pa.concat_tables(parts).to_pylist()
