"""Names for the image ids of a detector's results, from the COCO file that has both."""

from __future__ import annotations

import logging

import pyarrow as pa
import pyarrow.compute as pc

from sam_pipeline.errors import InputError
from sam_pipeline.safety.clean_text import is_encodable
from sam_pipeline.storage.inputs.listing.files import list_files
from sam_pipeline.storage.inputs.source_object import SourceObject
from sam_pipeline.storage.objects.filesystem import StorageOptions
from sam_pipeline.storage.objects.object_reading import read_json
from sam_pipeline.storage.prompts.prompt_values import text_key

logger = logging.getLogger(__name__)


def list_image_names(uri: str, storage_options: StorageOptions) -> list[SourceObject]:
    """The file that names are read from, whatever its suffix, with its size and ETag.

    Raises:
        InputError: nothing there.
        StorageUnavailableError: the storage did not answer for two minutes.
    """
    return list_files(uri, storage_options, (".json", ".json.gz"), what="names of images")


def read_image_names(uri: str, storage_options: StorageOptions) -> pa.Table:
    """Read which file each image id stands for.

    Args:
        uri: of a COCO file with a list of `images`.
        storage_options: of the storage.

    Returns:
        (N,) rows with the columns id and file_name, both text; each id once, with its first name.

    Raises:
        InputError: nothing there, not JSON, or without an image that has an id and a file_name.
        StorageUnavailableError: the storage did not answer for two minutes.
    """
    content = read_json(uri, storage_options)
    names = names_by_id(content.get("images") if isinstance(content, dict) else None)
    if not names:
        raise InputError(f"no image in {uri} has an id and a file_name: prompt_images is a COCO file that has both")
    return pa.table({"id": pa.array(names.keys(), pa.string()), "file_name": pa.array(names.values(), pa.string())})


def names_by_id(images: object) -> dict[str, str]:
    """The file_name of each id in the `images` of a COCO file, as text; of an id that comes twice, the first.

    Images without an id or a name are passed over, and so are those whose name or id holds half a surrogate pair.
    """
    names: dict[str, str] = {}
    for image in images if isinstance(images, list) else []:
        if isinstance(image, dict) and isinstance(name := image.get("file_name"), str) and is_encodable(name):
            image_id = text_key(image.get("id"))
            if image_id is not None:
                names.setdefault(image_id, name)
    return names


def with_image_names(keyed: pa.Table, names: pa.Table) -> pa.Table:
    """Put names in the place of image ids. Ids without a name are counted in the log, and their rows name no image.

    Args:
        keyed: (N,) rows of KEYED_PROMPTS.
        names: from read_image_names.

    Returns:
        The same rows, none of which has an id as its key.
    """
    keys, are_ids = keyed["key"], keyed["is_image_id"]
    ids, file_names = (names[name].combine_chunks() for name in ("id", "file_name"))
    positions = pc.index_in(pc.if_else(are_ids, keys, None), value_set=ids)
    unknown = keys.filter(pc.and_(are_ids, pc.and_(keys.is_valid(), pc.is_null(positions))))
    if num_unknown := len(unknown):
        logger.warning("%d rows have an image_id without a name, such as %s, and are left out", num_unknown, unknown[0])
    columns = dict(zip(keyed.column_names, keyed.columns, strict=True))
    columns["key"] = pc.if_else(are_ids, pc.take(file_names, positions), keys)
    columns["is_image_id"] = pa.repeat(pa.scalar(False), keyed.num_rows)
    return pa.table(columns, schema=keyed.schema)
