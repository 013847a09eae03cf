"""Listing object stores: page by page, and several prefixes at once."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from sam_pipeline.storage.inputs.listing.disk_listing import ListingPage, Retry
from sam_pipeline.storage.inputs.listing.path_pattern import PathPattern

_AT_ONCE = 16

# Up to this many prefixes are listed one by one, in parallel; with more, a request for each would take longer than one
# listing of all.
_MAX_SPLIT = 2000
_FEW = 16
_MAX_LEVELS = 3

# Those of S3 and Azure, of Google, of Hugging Face, and of what has none.
_ETAG_NAMES = ("ETag", "etag", "blob_id", "mtime", "last_modified")


@dataclass(frozen=True)
class _Request:
    """What to ask a store for: one page of what is below a prefix."""

    prefix: str
    """A path of fsspec; ends in a slash if it is a folder."""
    one_level: bool
    """Only what is directly there, with the prefixes below it; else everything below."""
    level: int = 0
    """How many levels above it were listed one by one."""
    token: str | None = None
    """Where the last page ended."""
    without_own: bool = False
    """Leave out what is directly there: another request gave it."""


@dataclass
class _StorePage:
    infos: list[Mapping[str, Any]]
    """Objects, in fsspec's form."""
    prefixes: list[str] = field(default_factory=list)
    """Prefixes below, each with a slash at its end."""
    token: str | None = None
    tables: set[str] = field(default_factory=set)
    """Folders of Delta tables that it tells of, and nothing of what is in them."""


def walk_store(
    filesystem: Any, pattern: PathPattern, is_wanted: Callable[[str], bool], retry: Retry
) -> Iterator[ListingPage]:
    """List what is below a prefix, or matches a glob, but nothing in folders of Delta tables.

    With one exception: where a thousand objects of a table sort before its `_delta_log`, the first of them are listed.

    Raises:
        FileNotFoundError: nothing there; PermissionError, where an empty listing would not say so.
    """
    is_s3 = "s3" in _protocols(filesystem)
    list_page = partial(_s3_page if is_s3 else _page, filesystem)
    # Hugging Face limits the number of requests, and a listing of all below takes the fewest.
    is_split = "hf" not in _protocols(filesystem) or pattern.is_level_by_level
    # S3 lists by the beginnings of names, others by folders.
    start = pattern.stem if is_s3 and pattern.is_glob else f"{pattern.root.rstrip('/')}/"
    is_empty = True
    for request, page in _pages(list_page, _Request(start, one_level=is_split), pattern, retry):
        found = ListingPage()
        for table in page.tables:
            found.passed_over.add("table folder", table)
        for prefix in page.prefixes:
            if (hidden := pattern.hidden_folder(prefix)) is not None:
                found.passed_over.add("hidden folder", hidden)
        for info in page.infos:
            name = info["name"]
            # Empty objects whose key ends in a slash are the folder markers of S3 consoles.
            if info["type"] != "file" or name.endswith("/"):
                continue
            if not pattern.matches(name):
                if (hidden := pattern.hidden_folder(name)) is not None:
                    found.passed_over.add("hidden folder", hidden)
                continue
            if request.without_own and "/" not in name[len(request.prefix) :]:
                continue
            if name.rstrip("/") == pattern.path.rstrip("/") or is_wanted(name.rsplit("/", 1)[-1]):
                found.files.append((name, info.get("size"), etag_of(info)))
            else:
                found.num_others += 1
        is_empty = is_empty and not (found.files or found.num_others or found.passed_over.folders)
        yield found
    if is_empty and not pattern.is_glob:
        # An object of that name, or an error where an empty prefix would say nothing.
        info = retry(partial(filesystem.info, pattern.path), is_first=True)
        if info["type"] == "file":
            yield ListingPage([(info["name"], info.get("size"), etag_of(info))])


def folder_names(filesystem: Any, folder: str) -> Iterator[str]:
    """Names of files and folders that are directly in a folder, a page at a time; none where there is no such folder.

    Raises:
        NotADirectoryError: it is a file on a disk.
    """
    if "file" in _protocols(filesystem):
        with suppress(FileNotFoundError), os.scandir(folder) as entries:
            yield from (entry.name for entry in entries)
        return
    list_page = _s3_page if "s3" in _protocols(filesystem) else _page
    request = _Request(f"{folder.rstrip('/')}/", one_level=True)
    while True:
        page = list_page(filesystem, request)
        paths = [info["name"] for info in page.infos] + page.prefixes
        names = (path.rstrip("/")[len(request.prefix) :] for path in paths)
        yield from filter(None, names)  # the marker of a folder has the folder's name
        if page.token is None:
            return
        request = replace(request, token=page.token)


def etag_of(info: Mapping[str, Any]) -> str | None:
    """What fsspec's listing or info has that changes when the object does."""
    # Not by truth: 0 is a time too, which reproducible builds give to files.
    etag = next((info[name] for name in _ETAG_NAMES if info.get(name) not in (None, "")), None)
    return None if etag is None else str(etag).strip('"')


def _pages(
    list_page: Callable[[_Request], _StorePage], first: _Request, pattern: PathPattern, retry: Retry
) -> Iterator[tuple[_Request, _StorePage]]:
    """All pages in any order, sixteen requests at a time; what is held does not grow with the number of objects."""
    waiting = deque([first])
    prefixes: dict[str, list[str]] = {}
    running: dict[Future[_StorePage], _Request] = {}
    tables: set[str] = set()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        while waiting or running:
            while waiting and len(running) < _AT_ONCE:
                request = waiting.popleft()
                call = partial(retry, partial(list_page, request), is_first=request is first)
                running[pool.submit(call)] = request
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                request, page = running.pop(future), _without_tables(future.result(), pattern, tables)
                yield request, page
                wanted = [prefix for prefix in page.prefixes if pattern.may_hold(prefix[:-1])]
                if pattern.is_level_by_level:
                    waiting += (_Request(prefix, True) for prefix in wanted)
                else:
                    prefixes.setdefault(request.prefix, []).extend(wanted)
                if page.token is not None:
                    waiting.appendleft(replace(request, token=page.token))
                elif not pattern.is_level_by_level:
                    below_it = prefixes.pop(request.prefix)
                    waiting += _split(request, [each for each in below_it if not each.startswith(tuple(tables))])


def _without_tables(page: _StorePage, pattern: PathPattern, tables: set[str]) -> _StorePage:
    """A page without what is in folders of Delta tables.

    Args:
        page: as the store gives it.
        pattern: what is listed.
        tables: such folders that earlier pages told of, with a slash at the end; those of this page are added.
    """
    names = [*page.prefixes, *(info["name"] for info in page.infos)]
    found = {table for name in names if (table := pattern.table_folder(name)) is not None}
    tables |= {f"{table}/" for table in found}
    starts = tuple(tables)
    infos = [info for info in page.infos if not info["name"].startswith(starts)]
    return _StorePage(infos, [prefix for prefix in page.prefixes if not prefix.startswith(starts)], page.token, found)


def _split(request: _Request, prefixes: list[str]) -> Iterator[_Request]:
    """How to list what is below the prefixes that a request gave."""
    if len(prefixes) > _MAX_SPLIT:
        yield _Request(request.prefix, one_level=False, without_own=True)
        return
    level = request.level + 1
    one_level = len(prefixes) < _FEW and level < _MAX_LEVELS
    yield from (_Request(prefix, one_level, level) for prefix in prefixes)


def _s3_page(filesystem: Any, request: _Request) -> _StorePage:
    # Not find, which holds all objects at once, about 1 KB each.
    bucket, _, _ = filesystem.split_path(request.prefix)
    arguments = {"Bucket": bucket, "Prefix": request.prefix[len(bucket) + 1 :], **filesystem.req_kw}
    if request.one_level:
        arguments["Delimiter"] = "/"
    if request.token is not None:
        arguments["ContinuationToken"] = request.token
    answer = filesystem.call_s3("list_objects_v2", **arguments)
    return _StorePage(
        [
            {"name": f"{bucket}/{entry['Key']}", "size": entry["Size"], "ETag": entry.get("ETag"), "type": "file"}
            for entry in answer.get("Contents", ())
        ],
        [f"{bucket}/{entry['Prefix']}" for entry in answer.get("CommonPrefixes", ())],
        answer["NextContinuationToken"] if answer.get("IsTruncated") else None,
    )


def _page(filesystem: Any, request: _Request) -> _StorePage:
    """Everything at once: fsspec has no pages."""
    path = request.prefix.rstrip("/")
    try:
        if not request.one_level:
            return _StorePage(list(filesystem.find(path, detail=True).values()))
        infos = filesystem.ls(path, detail=True)
    except FileNotFoundError:
        return _StorePage([])  # the caller asks for an object of that name
    finally:
        filesystem.invalidate_cache(path)  # some hold all they have listed
    folders = [info["name"].rstrip("/") for info in infos if info["type"] == "directory"]
    return _StorePage(
        [info for info in infos if info["type"] != "directory"],
        [f"{folder}/" for folder in folders if folder != path],
    )


def _protocols(filesystem: Any) -> tuple[str, ...]:
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)
