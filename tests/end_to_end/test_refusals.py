"""What cannot work fails within seconds, with exit code 2 and one clear line."""

import pytest

from tests.end_to_end.settings import SETTINGS

QUICK_S = 60
"""Seconds on a busy machine; a cluster that starts, or retries that give up, would take longer."""


def assert_refused(finished, *clues):
    assert finished.exit_code == 2, finished.stderr
    assert finished.stderr.startswith("error: ")
    assert finished.stderr.count("\n") == 1, finished.stderr
    assert finished.stdout == ""
    assert finished.elapsed_s < QUICK_S
    for clue in clues:
        assert clue in finished.stderr


@pytest.fixture
def bucket(s3):
    bucket = s3.create_bucket()
    s3.put(bucket, "photos/notes.txt", b"no image")
    s3.put(bucket, "pictures/1.jpg", b"never read")
    return bucket


@pytest.mark.s3
@pytest.mark.parametrize(
    ("input_path", "clue"),
    [
        ("no-such-bucket/photos", "no-such-bucket/photos"),
        ("{bucket}/nothing/here", "nothing/here"),
        ("{bucket}/photos", "no images in"),
    ],
    ids=["missing bucket", "empty prefix", "no image below the prefix"],
)
def test_an_s3_input_without_images_is_one_line(s3, bucket, start, input_path, clue):
    input_uri = "s3://" + input_path.format(bucket=bucket)
    arguments = ("--input", input_uri, "--output", f"s3://{bucket}/out", *SETTINGS)
    assert_refused(start("annotate", *arguments, env=s3.env).wait(), clue)
    assert s3.list_keys(bucket, "out/") == []


@pytest.mark.s3
@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
@pytest.mark.parametrize("local", ["input", "output"])
def test_a_wrong_s3_key_is_one_line_without_the_secret(s3, bucket, start, photos, tmp_path, variable, local):
    input_uri = str(photos) if local == "input" else f"s3://{bucket}/pictures"
    output = str(tmp_path / "out") if local == "output" else f"s3://{bucket}/out"
    env = {**s3.env, variable: "0123456789abcdef"}
    finished = start("annotate", "--input", input_uri, "--output", output, *SETTINGS, env=env).wait()
    assert_refused(finished, bucket)
    assert s3.secret_key not in finished.stderr


@pytest.mark.s3
def test_a_missing_output_bucket_is_one_line(s3, start, photos):
    arguments = ("--input", photos, "--output", "s3://no-such-bucket/out", *SETTINGS)
    assert_refused(start("annotate", *arguments, env=s3.env).wait(), "s3://no-such-bucket/out")


def test_an_output_below_a_file_is_one_line(start, photos, tmp_path):
    (tmp_path / "file").write_text("in the way")
    finished = start("annotate", "--input", photos, "--output", tmp_path / "file" / "out", *SETTINGS).wait()
    assert_refused(finished, str(tmp_path / "file"))


@pytest.mark.parametrize("content", [b"", b"<html>404 Not Found</html>", bytes(1000)], ids=["empty", "HTML", "zeros"])
def test_a_corrupt_checkpoint_is_one_line(start, photos, tmp_path, content):
    checkpoint = tmp_path / "weights.pth"
    checkpoint.write_bytes(content)
    arguments = ("--input", photos, "--output", tmp_path / "out", "--checkpoint", checkpoint, "--model-type", "vit_t")
    assert_refused(start("annotate", *arguments).wait(), str(checkpoint))
