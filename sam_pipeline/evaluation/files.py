"""Figures written to files that were not there before."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping
from functools import partial
from typing import Any

from sam_pipeline.errors import OutputError, SamPipelineError
from sam_pipeline.evaluation.figures import Evaluation
from sam_pipeline.safety.clean_text import one_line, printable
from sam_pipeline.safety.uri_rules import local_path
from sam_pipeline.storage.layout import check_apart
from sam_pipeline.storage.objects.filesystem import StorageOptions, absolute_uri, open_filesystem
from sam_pipeline.storage.objects.retrying import retried


def check_absent(place: str, output: str, storage_options: StorageOptions) -> None:
    """Refuse to write where something is, or where a run keeps its tables.

    Args:
        place: of the file.
        output: folder of the run.
        storage_options: of fsspec.

    Raises:
        OutputError: there is a file or folder.
        ConfigError: the URI is refused, or lies in a table.
        StorageUnavailableError: the storage did not answer.
    """
    uri = absolute_uri(place)
    check_apart(uri, output, storage_options)
    filesystem, path = open_filesystem(uri, storage_options)
    if retried(partial(filesystem.exists, path), what=f"look for {uri}"):
        raise OutputError(f"{place} exists; give another name, or delete it")
    if local_path(uri) is not None and not os.path.isdir(os.path.dirname(uri)):
        raise OutputError(f"cannot write {place}: its folder does not exist")


def json_text(evaluation: Evaluation) -> str:
    """All figures and the worst images, as JSON."""
    return json.dumps(evaluation.by_name(), indent=2, ensure_ascii=True, allow_nan=False) + "\n"


def csv_text(evaluation: Evaluation) -> str:
    """One line for each image, with the names of its figures in the first."""
    rows = [each.by_name() for each in evaluation.images]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    """A value of the table; text begins with nothing that a spreadsheet takes for a formula."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text[:1] in "=+-@" else text


def write_texts(texts: Mapping[str, str], storage_options: StorageOptions) -> None:
    """Write files that check_absent has found absent.

    Args:
        texts: by path or URI.
        storage_options: of fsspec.

    Raises:
        OutputError: one cannot be written, or was made meanwhile.
        StorageUnavailableError: the storage did not answer.
    """
    for place, text in texts.items():
        uri = absolute_uri(place)
        try:
            if local_path(uri) is not None:
                _write_local(uri, text.encode())
            else:
                filesystem, path = open_filesystem(uri, storage_options)
                put = partial(filesystem.pipe_file, path, text.encode())
                retried(put, what=f"write {uri}", denied_is_final=False)
        except SamPipelineError:
            raise
        except Exception as error:
            raise OutputError(f"cannot write {place}: {one_line(error)}") from error


def _write_local(path: str, content: bytes) -> None:
    with open(path, "xb") as file:
        try:
            file.write(content)
            file.flush()
        except OSError:
            os.unlink(path)  # half of it, and made a moment ago
            raise
