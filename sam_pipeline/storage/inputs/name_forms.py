r"""Other ways to write the name of a file that lists and prompts may mean: `%20`, backslashes, decomposed letters.

A disk of a Mac has `é` as two characters (NFD), most else as one (NFC). Programs on Windows write `train\1.jpg`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc

_ESCAPE = r"%[0-9A-Fa-f]{2}"
_PLACE = re.compile(r"[A-Za-z0-9+.-]+://[^/]*/")


def one_form(names: pa.Array) -> pa.Array:
    """Names in one form, equal for names that mean the same.

    Args:
        names: large strings, with nulls.
    """
    has_escape = pc.fill_null(pc.match_substring_regex(names, _ESCAPE), False)
    if pc.any(has_escape).as_py():
        decoded = [unquote(name) for name in names.filter(has_escape).to_pylist()]
        names = pc.replace_with_mask(names, has_escape, pa.array(decoded, names.type))
    return pc.replace_substring(pc.utf8_normalize(names, form="NFC"), "\\", "/")


def other_forms(uri: str) -> Iterator[str]:
    """Other URIs that may be meant, none of which leaves the place of the first; of most URIs there are none."""
    place = _PLACE.match(uri)
    start = 0 if place is None else place.end()
    seen = {uri[start:]}
    plain = unquote(uri[start:]) if re.search(_ESCAPE, uri[start:]) else uri[start:]
    for path in (uri[start:], plain, uri[start:].replace("\\", "/"), plain.replace("\\", "/")):
        for form in (path, unicodedata.normalize("NFC", path), unicodedata.normalize("NFD", path)):
            if form not in seen and "\0" not in form and not {"", ".", ".."} & set(form.split("/")):
                seen.add(form)
                yield uri[:start] + form
