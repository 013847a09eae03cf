"""A place for archives that counts what is read of it: the base of the Store that each test module of archives has."""

import uuid

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

from sam_pipeline.config import InputConfig
from sam_pipeline.storage.inputs.source_object import SOURCE_SCHEMA, SourceObject, SourceOptions, object_of_row
from sam_pipeline.storage.objects.local_files import LocalFiles


class ArchiveStore:
    """A folder of its own on one of two filesystems. Test modules derive their Store from it and say how to index."""

    suffix: str
    list_images: staticmethod

    def __init__(self, kind, tmp_path, monkeypatch):
        self.root = f"file://{tmp_path}" if kind == "local" else f"memory:///bucket-{uuid.uuid4()}"
        self.filesystem, self.path = fsspec.core.url_to_fs(self.root)
        self.ranges = []
        self.fail = None
        driver = LocalFiles if kind == "local" else MemoryFileSystem
        real = driver.cat_file

        def cat_file(filesystem, path, start=None, end=None, **options):
            self.ranges.append((start, end))
            if self.fail is not None:
                raise self.fail
            return real(filesystem, path, start=start, end=end, **options)

        monkeypatch.setattr(driver, "cat_file", cat_file)

    def put(self, data, name=None, size_bytes=None):
        name = name or f"a{self.suffix}"
        self.filesystem.pipe_file(f"{self.path}/{name}", data)
        return SourceObject(f"{self.root}/{name}", len(data) if size_bytes is None else size_bytes, "etag")

    def index(self, *data, keep=(), **options):
        containers = [
            item if isinstance(item, SourceObject) else self.put(item, f"{number:05d}{self.suffix}")
            for number, item in enumerate(data)
        ]
        self.ranges.clear()
        tables = list(self.list_images(containers, SourceOptions({}, InputConfig(keep=tuple(keep))), **options))
        assert all(table.schema == SOURCE_SCHEMA for table in tables)
        return [object_of_row(row) for table in tables for row in table.to_pylist()]

    @property
    def num_bytes(self):
        return sum(end - start for start, end in self.ranges)


def names(images):
    return [image.uri.partition("#")[2] for image in images]
