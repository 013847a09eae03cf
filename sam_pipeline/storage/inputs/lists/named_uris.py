"""The URIs that a list of images names: made absolute, and refused where following them would be unsafe.

Whoever wrote the list is not always who runs the pipeline. So a list kept elsewhere may not name files of this machine,
a name may not climb out of the folder it is relative to, and a URI with a credential is neither fetched nor stored.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import pyarrow as pa
import pyarrow.compute as pc

from sam_pipeline.errors import ConfigError
from sam_pipeline.safety.clean_text import is_encodable, one_line
from sam_pipeline.safety.uri_rules import HTTP_SCHEMES, check_uri, local_path
from sam_pipeline.storage.inputs.source_object import SOURCE_SCHEMA, SourceOptions
from sam_pipeline.storage.objects.filesystem import absolute_uri, protocol_of

MAX_NAME_LENGTH = 2**13
"""Characters; keys of stores and paths of disks are shorter."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,20}")
_LATER_CHAIN = re.compile(r"::[^/]*://")

# A file: URI with %XX or with one slash, what may be half a URI, and what may hold a signature.
_ODD = r"(?is)^file:.*%|^[a-z][a-z0-9+.-]+:(?:[^/]|/[^/]|$)|x-(?:amz|goog)-"

# What needs no second look; the rest goes through NamedUris.resolve, one by one. No colon beside another: a chain; no
# question mark or ampersand, behind which a signature could stand; no user name.
_PATH = r"(?:[^?&:\x00]|:[^?&:\x00])*"
_PLAIN_FILE = r"file:///[^\x00]*"
_PLAIN_REMOTE = (
    rf"(?:s3|s3a|gs|gcs|az|hf)://[^/?&:@\x00]+/{_PATH}|memory://[^/?&:@\x00]*/{_PATH}|abfss?://[^/?&:\x00]+/{_PATH}"
)
_PLAIN_HTTP = rf"https?://[^/?&@\x00]+/{_PATH}"
# An image root above all buckets of a store, such as s3://.
_ALL_BUCKETS = re.compile(r"(\w+)://+", re.ASCII)
# A segment of a path that is empty, `.` or `..`, or a slash at the end.
_UNCLEAN = r"(?s)^[a-z0-9]+://.*/\.{0,2}(?:/|$)"


@dataclass(frozen=True)
class NamedUris:
    """How the names in one list are to be understood."""

    list_uri: str
    """URI of the list, which names the images that have no URI of their own: list_uri#row-17."""
    root: str
    """URI, with a slash at its end, that relative names start from."""
    allow_http: bool

    def resolve(self, name: str | None) -> str:
        """The URI that a name stands for.

        Raises:
            ConfigError: it must not be followed; the message does not repeat it.
        """
        if name is None or not name or name.isspace():
            raise ConfigError("no URI here: it is null, empty or not text")
        if len(name) > MAX_NAME_LENGTH:
            raise ConfigError(f"a name of more than {MAX_NAME_LENGTH} characters")
        if "\0" in name:
            raise ConfigError("the name holds a NUL character")
        if name[:5].lower() == "file:":
            return self._local(local_path(name) or "")
        if "://" in name:
            return self._checked(name)
        check_uri(name)
        if name.startswith("/"):
            return self._local(name)
        return self._relative(name)

    def table(self, names: pa.Array, first_row: int, extra: pa.Array | None = None) -> pa.Table:
        """Images of a part of the list; a name that must not be followed becomes an image with an error.

        Args:
            names: strings, as the list has them, with nulls.
            first_row: the number of the first in the list, from 0.
            extra: JSON objects that go with them.

        Returns:
            A table of SOURCE_SCHEMA in the order of the names.
        """
        uris, errors = self._resolve_all(names, first_row)
        nothing = {field.name: pa.nulls(len(names), field.type) for field in SOURCE_SCHEMA}
        columns = {**nothing, "uri": uris, "error": errors}
        if extra is not None:
            columns["extra"] = extra
        return pa.table(columns, schema=SOURCE_SCHEMA)

    def _resolve_all(self, names: pa.Array, first_row: int) -> tuple[pa.Array, pa.Array]:
        """URIs and errors of names: plain names are resolved all at once by Arrow, the rest one by one by resolve."""
        is_short = pc.less_equal(pc.utf8_length(names), MAX_NAME_LENGTH)
        has_scheme = pc.match_substring(names, "://")
        is_absolute = pc.and_not(pc.starts_with(names, "/"), has_scheme)
        is_relative = pc.invert(pc.or_(has_scheme, is_absolute))
        below_root = pc.binary_join_element_wise(self.root, pc.replace_substring_regex(names, r"^(?:\./)+", ""), "")
        on_disk = pc.binary_join_element_wise("file://", names, "")
        uris = pc.if_else(has_scheme, names, pc.if_else(is_absolute, on_disk, below_root))
        is_plain = pc.and_not(
            pc.match_substring_regex(uris, self._plain),
            pc.or_(pc.match_substring_regex(uris, _UNCLEAN), pc.or_(pc.utf8_is_space(names), pc.equal(names, ""))),
        )
        is_plain = pc.and_not(is_plain, pc.match_substring_regex(names, _ODD))
        if not self._is_local:
            is_plain = pc.and_(is_plain, pc.or_(is_relative, pc.invert(pc.starts_with(uris, "file:"))))
        is_plain = pc.fill_null(pc.and_(is_plain, is_short), False)
        errors = pa.nulls(len(names), pa.string())
        if pc.all(is_plain).as_py():
            return uris, errors
        is_other = pc.invert(is_plain)
        others = [self._resolve_or_say(name) for name in names.filter(is_other).to_pylist()]
        rows = pc.indices_nonzero(is_other).to_pylist()
        named = [uri or f"{self.list_uri}#row-{first_row + row}" for (uri, _), row in zip(others, rows, strict=True)]
        uris = pc.replace_with_mask(uris, is_other, pa.array(named, pa.string()))
        errors = pc.replace_with_mask(errors, is_other, pa.array([error for _, error in others], pa.string()))
        return uris, errors

    def _resolve_or_say(self, name: str | None) -> tuple[str | None, str | None]:
        try:
            return self.resolve(name), None
        except ConfigError as error:
            return None, _clean(str(error))

    @property
    def _is_local(self) -> bool:
        return protocol_of(self.list_uri) == "file"

    @cached_property
    def _plain(self) -> str:
        kinds = [_PLAIN_FILE, _PLAIN_REMOTE, *([_PLAIN_HTTP] if self.allow_http else [])]
        return f"(?s)^(?:{'|'.join(kinds)})$"

    def _checked(self, uri: str) -> str:
        scheme, _, rest = uri.partition("://")
        if "::" in scheme or _LATER_CHAIN.search(uri):
            raise ConfigError("chained URIs are not supported: give the URI of the files themselves")
        if not _SCHEME.fullmatch(scheme):
            # Not shown, as check_uri would: this may be any text, and so a credential.
            raise ConfigError("what stands before :// is not the scheme of a URI")
        scheme = scheme.lower()
        check_uri(f"{scheme}://{rest}", other_schemes=HTTP_SCHEMES)
        if scheme in HTTP_SCHEMES and not self.allow_http:
            raise ConfigError(f"{scheme}:// images are fetched only with --allow-http")
        return f"{scheme}://{rest}"

    def _local(self, path: str) -> str:
        if not self._is_local:
            raise ConfigError("a list that is not on this machine must not name files of it")
        return _file_uri(path)

    def _relative(self, name: str) -> str:
        is_file = protocol_of(self.root) == "file"
        if ".." in name.split("/") and not (is_file and self._is_local):
            raise ConfigError("a relative name must not hold `..`, which leads out of its folder")
        if is_file:
            return _file_uri(f"{self.root.removeprefix('file://')}{name}")
        return self._checked(self.root + "/".join(segment for segment in name.split("/") if segment != "."))


def named_uris(list_uri: str, source_options: SourceOptions) -> NamedUris:
    """How the names in a list are to be understood.

    Args:
        list_uri: an absolute path or a URI, as a listing names it.
        source_options: image_root and allow_http are used.

    Raises:
        ConfigError: an image_root that is not a place to read images from.
    """
    where = _uri_of(list_uri)
    root = where.rpartition("/")[0]
    if source_options.images.image_root is not None:
        root = source_options.images.image_root
        if source_options.images.allow_http and protocol_of(root) in HTTP_SCHEMES:
            check_uri(root, other_schemes=HTTP_SCHEMES)
        elif _ALL_BUCKETS.fullmatch(root):
            absolute_uri(f"{root}a-bucket")  # is the scheme one that can be read?
            root = f"{protocol_of(root)}://"
        else:
            root = _uri_of(absolute_uri(root))
    return NamedUris(where, root if root.endswith("/") else f"{root}/", source_options.images.allow_http)


def names_of(values: Iterable[object]) -> pa.Array:
    """Values of JSON as names: null where a value is not text, or holds half a surrogate pair."""
    return pa.array(
        [value if isinstance(value, str) and is_encodable(value) else None for value in values], pa.string()
    )


@lru_cache
def _clean(message: str) -> str:
    # A million rows may be wrong in one way.
    return one_line(ConfigError(message))


def _uri_of(place: str) -> str:
    return place if "://" in place else f"file://{place}"


def _file_uri(path: str) -> str:
    # As unstrip_protocol of fsspec writes it, and as a listing of the folder would: without `..` and double slashes.
    return f"file:///{posixpath.normpath(path).lstrip('/')}"
