"""No input may lie where the output keeps its tables."""

from __future__ import annotations

import os
from glob import has_magic

from sam_pipeline.errors import ConfigError
from sam_pipeline.storage.inputs.listing.path_pattern import PathPattern
from sam_pipeline.storage.layout import table_uris
from sam_pipeline.storage.objects.filesystem import StorageOptions, join_uri, open_filesystem


def check_apart(input_uri: str, output: str, storage_options: StorageOptions) -> None:
    """Refuse an output whose tables would lie among the images of the input.

    An output in a folder of its own below the input is fine: listing leaves its tables out.

    Args:
        input_uri: a folder or prefix, a glob, or a file.
        output: folder of the run.
        storage_options: of fsspec.

    Raises:
        ConfigError: the input is the output itself, or lies where a table of it is.
    """
    protocol, path = _place(input_uri, storage_options)
    begins = [path, _resolved(protocol, PathPattern(path, is_glob=True).root)] if has_magic(path) else [path]
    for uri in table_uris(output):
        if any(_is_at_or_below((protocol, begin), _place(uri, storage_options)) for begin in begins):
            raise ConfigError(f"the input {input_uri} lies where the output keeps a table ({uri}); use another output")
    if (protocol, path) == _place(output, storage_options):
        raise ConfigError(
            f"the output {output} is the folder of the images; use another output, such as {join_uri(output, 'run')}"
        )


def _place(uri: str, storage_options: StorageOptions) -> tuple[str, str]:
    """(kind of storage, path in it), the same for all names of one place."""
    filesystem, path = open_filesystem(uri, storage_options)
    protocol = filesystem.protocol if isinstance(filesystem.protocol, str) else filesystem.protocol[0]
    return protocol, _resolved(protocol, path)


def _resolved(protocol: str, path: str) -> str:
    return os.path.realpath(path) if protocol == "file" else path.rstrip("/")


def _is_at_or_below(place: tuple[str, str], folder: tuple[str, str]) -> bool:
    return place[0] == folder[0] and f"{place[1]}/".startswith(f"{folder[1].rstrip('/')}/")
