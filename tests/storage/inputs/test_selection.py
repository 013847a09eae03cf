import random

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from sam_pipeline.config import SelectionConfig
from sam_pipeline.errors import InputError
from sam_pipeline.storage.inputs import selection
from sam_pipeline.storage.inputs.selection import select, take_rows
from sam_pipeline.storage.inputs.source_object import SOURCE_SCHEMA, Location, SourceObject, source_table
from tests.storage.inputs.listings import list_images

LETTERS = [f"s3://bucket/in/{letter}.jpg" for letter in "abcdefghij"]


def table(*uris):
    return source_table(SourceObject(uri, number, f"etag {number}") for number, uri in enumerate(uris))


def member(container, name):
    return SourceObject(f"{container}#{name}", 5, None, Location(container, "range", 0, 5))


def chosen(images, **options):
    return select(images, SelectionConfig(**options)).images["uri"].to_pylist()


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("*.jpg", [True, True, False, True]),
        ("a.jpg", [True, False, False, False]),
        ("a*", [True, False, True, False]),
        ("?.jpg", [True, True, False, False]),
        ("[ab].jpg", [True, True, False, False]),
        ("[a-b].*", [True, True, True, False]),
        ("[!a].jpg", [False, True, False, False]),
        ("[]]", [False] * 4),
        ("A.jpg", [False] * 4),
        ("s3://bucket/in/*", [True, True, True, False]),
        ("bucket/in/*", [True, True, True, False]),
        ("*/in/*", [True, True, True, False]),
        ("**/in/**", [True, True, True, False]),
        ("in/**", [True, True, True, False]),
        ("bucket/**", [True] * 4),
        ("bucket/**/*.jpg", [True, True, False, True]),
        ("s3://bucket/**/a.*", [True, False, True, False]),
        ("in/a.jpg", [True, False, False, False]),
        ("in/?.jpg", [True, True, False, False]),
        ("n/a.jpg", [False] * 4),
        ("*in*", [False] * 4),
        ("bucket/*.jpg", [False] * 4),
        ("s3://*/a.jpg", [False] * 4),
        ("bucket/in", [False] * 4),
        ("s3:/*/bucket/in/b.jpg", [False] * 4),
        ("*ucket/in/b.jpg", [False, True, False, False]),
        ("in*.jpg", [False] * 4),
        ("", [False] * 4),
        ("a.jpg ", [False] * 4),
    ],
)
def test_a_pattern_is_for_the_whole_uri_or_the_end_of_it(pattern, matches):
    uris = ["s3://bucket/in/a.jpg", "s3://bucket/in/b.jpg", "s3://bucket/in/a.png", "s3://bucket/out/long.jpg"]
    expected = [uri for uri, match in zip(uris, matches, strict=True) if match]
    assert chosen(table(*uris), include=[pattern]) == sorted(expected)
    selected = select(table(*uris), SelectionConfig(exclude=[pattern]))
    assert selected.images["uri"].to_pylist() == sorted(set(uris) - set(expected))
    assert selected.num_excluded == len(expected)


@pytest.mark.parametrize(
    "name", ["a.b", "a+b", "(a)", "a|b", "a\\b", "a^b$", "{a}", "a#b", "a b", "é-日本", "a\nb", "[a]", "a&&b"]
)
def test_what_is_no_wildcard_stands_for_itself(name):
    images = table(f"file:///in/{name}", "file:///in/axb", "file:///in/ab", "file:///in/a", "file:///in/aa")
    pattern = name.replace("[", "[[]")
    assert chosen(images, include=[pattern]) == [f"file:///in/{name}"]
    assert chosen(images, include=[f"/in/{pattern}"]) == [f"file:///in/{name}"]


def test_characters_in_brackets_stand_for_themselves():
    images = table(*(f"file:///in/{character}" for character in "a^]\\-&~["))
    assert chosen(images, include=[r"[\^]"]) == ["file:///in/\\", "file:///in/^"]
    assert chosen(images, include=["[]]", "[[]", "[&&~]", "[a-]"]) == sorted(
        f"file:///in/{character}" for character in "][&~a-"
    )
    assert chosen(images, include=["[!^]"]) == sorted(f"file:///in/{character}" for character in "a]\\-&~[")


def test_any_and_all_patterns():
    images = table("s3://b/1.jpg", "s3://b/2.png", "s3://b/3.gif")
    assert chosen(images, include=["*.jpg", "*.png"]) == ["s3://b/1.jpg", "s3://b/2.png"]
    assert chosen(images, exclude=["*.jpg", "*.png"]) == ["s3://b/3.gif"]
    selected = select(images, SelectionConfig(include=["*.jpg", "*.png"], exclude=["1*"]))
    assert (selected.images["uri"].to_pylist(), selected.num_excluded) == (["s3://b/2.png"], 2)


def test_the_name_of_a_member_is_a_last_part_and_that_of_an_object_is_not_divided():
    images = source_table(
        [
            member("s3://b/x.tar", "cat.jpg"),
            member("s3://b/x.tar", "sub/cat.jpg"),
            SourceObject("s3://b/a#cat.jpg", 1, None),
        ]
    )
    assert chosen(images, include=["cat.jpg"]) == ["s3://b/x.tar#cat.jpg", "s3://b/x.tar#sub/cat.jpg"]
    assert chosen(images, include=["x.tar#*"]) == ["s3://b/x.tar#cat.jpg"]
    assert chosen(images[:2], include=["s3://b/x.tar#**"]) == ["s3://b/x.tar#cat.jpg", "s3://b/x.tar#sub/cat.jpg"]
    assert chosen(images, include=["x.tar/**"]) == ["s3://b/x.tar#cat.jpg", "s3://b/x.tar#sub/cat.jpg"]
    assert chosen(images, include=["sub/*"]) == ["s3://b/x.tar#sub/cat.jpg"]
    assert chosen(images, include=["a#cat.jpg"]) == ["s3://b/a#cat.jpg"]


@pytest.mark.parametrize("pattern", ["[z-a]", "a**", "in/**.jpg"])
def test_a_pattern_that_means_nothing_is_an_input_error(pattern):
    with pytest.raises(InputError, match="cannot understand the pattern ") as caught:
        select(table(*LETTERS), SelectionConfig(include=[pattern]))
    assert repr(pattern) in str(caught.value)


def test_patterns_that_match_nothing_are_named(caplog):
    images = table("s3://b/1.jpg", "s3://b/2.png")
    assert chosen(images, include=["*.jpg", "*.tif"], exclude=["2.*", "val/*"]) == ["s3://b/1.jpg"]
    assert caplog.messages == [
        "no image matches the pattern '*.tif' of include",
        "no image matches the pattern 'val/*' of exclude",
    ]


@pytest.mark.parametrize("pattern", ["*.jpg", "*/*.jpg", "**/*.jpg", "a/[!b].jpg", "a/**", "?/c.*", "**"])
def test_a_pattern_means_the_same_in_the_input(pattern, tmp_path):
    for name in ("b.jpg", "a/b.jpg", "a/c.jpg", "a/d/c.jpg", "a/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    as_input = list_images(f"{tmp_path}/{pattern}", {}).images["uri"].to_pylist()
    everything = list_images(str(tmp_path), {}).images
    assert chosen(everything, include=[f"{tmp_path}/{pattern}"]) == as_input


def test_images_are_put_in_the_order_of_their_uris_with_all_that_is_known():
    uris = ["s3://b/c", "s3://b/B", "s3://b/é", "s3://b/a/z", "s3://b/a"]
    images = source_table(
        SourceObject(uri, number, str(number), Location(uri, "parquet", number, None, "x"), None, "{}")
        for number, uri in enumerate(uris)
    )
    expected = sorted(images.to_pylist(), key=lambda row: row["uri"])
    assert select(images, SelectionConfig()).images.to_pylist() == expected
    assert select(images, SelectionConfig()).images.schema == SOURCE_SCHEMA
    assert [row["uri"] for row in expected] == ["s3://b/B", "s3://b/a", "s3://b/a/z", "s3://b/c", "s3://b/é"]


def test_of_images_with_the_same_uri_the_first_is_kept():
    images = pa.concat_tables([table("b", "a", "b"), table("b", "c", "a")])
    selected = select(images, SelectionConfig())
    assert selected.num_twice == 3
    assert selected.images.select(["uri", "size_bytes"]).to_pylist() == [
        {"uri": "a", "size_bytes": 1},
        {"uri": "b", "size_bytes": 0},
        {"uri": "c", "size_bytes": 1},
    ]
    assert select(table("a", "a", "b"), SelectionConfig(limit=2)).num_twice == 1
    assert select(table("a", "a", "b", "b"), SelectionConfig(exclude=["b"])).num_twice == 1


def test_a_limit_takes_the_first_in_order():
    shuffled = table(*random.Random(1).sample(LETTERS, 10))
    assert chosen(shuffled, limit=3) == LETTERS[:3]
    assert chosen(shuffled, limit=3, exclude=["a.jpg"]) == LETTERS[1:4]
    assert chosen(shuffled, limit=100) == LETTERS
    assert chosen(table("a", "a", "b"), limit=2) == ["a", "b"]


def test_a_sample_depends_on_the_uris_and_the_seed_only():
    drawn = chosen(table(*LETTERS), sample=4, seed=7)
    assert drawn == sorted(drawn)
    assert len(set(drawn)) == 4
    shuffled = random.Random(1).sample(LETTERS, 10)
    assert chosen(table(*shuffled, *shuffled), sample=4, seed=7) == drawn
    others = {tuple(chosen(table(*LETTERS), sample=4, seed=seed)) for seed in range(20)}
    assert len(others) > 10
    assert chosen(table(*LETTERS), sample=100) == LETTERS
    # NumPy does not promise it; a change would make another plan of the same command.
    assert [uri[-5] for uri in drawn] == ["f", "g", "i", "j"]


def test_every_image_is_sampled_as_often():
    counts = np.zeros(10)
    for seed in range(500):
        for uri in chosen(table(*LETTERS), sample=3, seed=seed):
            counts[LETTERS.index(uri)] += 1
    assert counts.min() > 100
    assert counts.max() < 200


def test_nothing_is_chosen_from_nothing():
    for images in (
        SOURCE_SCHEMA.empty_table(),
        table("a.png"),
        pa.table({field.name: pa.chunked_array([], field.type) for field in SOURCE_SCHEMA}, schema=SOURCE_SCHEMA),
    ):
        selected = select(images, SelectionConfig(include=["*.jpg"], sample=3))
        assert (selected.images, selected.num_twice) == (SOURCE_SCHEMA.empty_table(), 0)
        assert select(images, SelectionConfig(include=["*.jpg"], limit=3)).images.num_rows == 0


def test_rows_are_taken_across_parts(monkeypatch):
    monkeypatch.setattr(selection, "_ROWS_AT_ONCE", 3)
    images = pa.concat_tables([table(*LETTERS[:4]), table(*LETTERS[4:])])
    order = np.array([9, 0, 4, 4, 3, 8, 1], dtype=np.uint64)
    taken = take_rows(images, order)
    assert taken["uri"].to_pylist() == [LETTERS[row] for row in order]
    assert taken.schema == SOURCE_SCHEMA
    assert take_rows(images, order[:0]) == SOURCE_SCHEMA.empty_table()


def test_rows_are_taken_from_more_strings_than_one_array_can_hold():
    # Table.take would fail here: an array of strings holds 2 GiB.
    long = "x" * (1 << 20)
    part = table(*(f"{number:03}{long}" for number in range(140)))
    images = pa.concat_tables([part] * 15)
    taken = take_rows(images, np.array([images.num_rows - 1, 0], dtype=np.uint64))
    assert pc.utf8_slice_codeunits(taken["uri"], 0, 3).to_pylist() == ["139", "000"]
