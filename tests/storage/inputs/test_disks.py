import errno
import os

import pytest

from sam_pipeline.errors import InputError
from sam_pipeline.storage.inputs.disks import check_seen, common_folder
from sam_pipeline.storage.inputs.source_object import Location, SourceObject


def images(*uris):
    return [SourceObject(uri, 1, None) for uri in uris]


@pytest.mark.parametrize(
    ("uris", "folder"),
    [
        (["file:///in/day-01/a.jpg", "file:///in/day-02/a.jpg"], "/in"),
        (["file:///in/a b/%20.jpg"], "/in/a b"),
        (["/in/a.jpg"], "/in"),
        (["file:///a/1.jpg", "file:///b/1.jpg"], None),
        (["file:///a/1.jpg", "s3://b/1.jpg"], None),
        (["s3://b/1.jpg"], None),
        ([], None),
    ],
)
def test_the_folder_that_holds_all(uris, folder):
    assert common_folder(images(*uris)) == folder


def test_members_are_where_their_archive_is_and_bad_entries_nowhere():
    member = SourceObject("file:///in/a.tar#x/1.jpg", 1, None, Location("file:///in/a.tar", "tar", 0, 1))
    bad = SourceObject("file:///lists/l.csv#row-0", None, None, error="no name")
    assert common_folder([bad, member]) == "/in"


def test_a_folder_that_is_gone_or_empty_is_not_seen(tmp_path):
    folder = tmp_path / "in"
    (folder / "x").mkdir(parents=True)
    check_seen(str(folder))
    (folder / "x").rmdir()
    with pytest.raises(InputError, match=rf"does not see {folder}, .* \(it is empty\); mount it on every machine"):
        check_seen(str(folder))
    folder.rmdir()
    with pytest.raises(InputError, match=r"\(No such file or directory\)"):
        check_seen(str(folder))


def test_a_dead_mount_is_not_seen_and_a_folder_that_must_not_be_listed_is(monkeypatch):
    def failing(number):
        def scandir(folder):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "scandir", scandir)

    failing(errno.EACCES)
    check_seen("/in")
    failing(errno.ENOTCONN)
    with pytest.raises(InputError, match="Transport endpoint is not connected"):
        check_seen("/in")
