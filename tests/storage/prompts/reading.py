"""Reading prompt files for tests."""

import pyarrow as pa

from sam_pipeline.config import PromptConfig
from sam_pipeline.storage.prompts.prompt_files import read_prompts
from sam_pipeline.storage.prompts.prompt_rows import KEYED_PROMPTS, PromptOptions


def prompt_options(uri, storage=None, planned_from=None, **settings):
    return PromptOptions(storage or {}, PromptConfig(prompts=str(uri), **settings), planned_from)


def read_rows(uri, read=read_prompts, storage=None, **options):
    """All rows, as they are."""
    parts = list(read(str(uri), prompt_options(uri, storage, **options)))
    assert all(part.schema == KEYED_PROMPTS for part in parts)
    return pa.concat_tables(parts).to_pylist()
