import pytest

from sam_pipeline.safety.clean_text import one_line, printable, without_credentials

GONE = "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("plain é 日本 🙂", "plain é 日本 🙂"),
        ("\x1b]0;owned\x07\x1b[31m.jpg", f"{GONE}]0;owned{GONE}{GONE}[31m.jpg"),
        ("a\nb\rc\x85d\u2028e", f"a{GONE}b{GONE}c{GONE}d{GONE}e"),
        ("\x9b31m", f"{GONE}31m"),
        ("gpj.\u202eexe\u2066\u200f\u061c", f"gpj.{GONE}exe{GONE}{GONE}{GONE}"),
        ("half \ud800 pair", f"half {GONE} pair"),
    ],
)
def test_what_does_not_print_is_replaced(text, clean):
    assert printable(text) == clean


@pytest.mark.parametrize(
    ("line", "clean"),
    [
        ("404 https://h/a.jpg?X-Amz-Signature=canary gone", "404 https://h/a.jpg gone"),
        ("via http://user:canary@proxy:3128 to https://key:canary@h/a", "via http://proxy:3128 to https://h/a"),
        ("cannot read s3://key:can/ary@bucket/a or s3:/key:canary@b", "cannot read s3://bucket/a or s3:/b"),
        ("at https://host:8443/photo@2x.jpg, s3://b/a:b@c.jpg", "at https://host:8443/photo@2x.jpg, s3://b/a:b@c.jpg"),
        ("sent Authorization: AWS4-HMAC-SHA256 Signature=canary", "sent Authorization: (removed)"),
        ("[('authorization', 'Bearer canary')]", "[('authorization', (removed)"),
        ("X-Amz-Signature=canary&x=1", "X-Amz-Signature=(removed)&x=1"),
        ("what? no idea, user@host", "what? no idea, user@host"),
        (
            "host:h x-amz-date:1 x-amz-security-token:ca/na+ry= x",
            "host:h x-amz-date:1 x-amz-security-token:(removed) x",
        ),
        ("{'X-Amz-Security-Token': 'canary', 'a': 1}", "{'X-Amz-Security-Token': '(removed)', 'a': 1}"),
        ("x-amz-security-token:canary</StringToSign>", "x-amz-security-token:(removed)</StringToSign>"),
    ],
)
def test_credentials_are_removed(line, clean):
    assert without_credentials(line) == clean


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("do either:\n  - this\n\t- or  that\n", "do either: - this - or that"),
        (" \n\n after \n", "after"),
        ("", "OSError"),
        ("x" * 1000, "x" * 300),
        ("it failed: Traceback (most recent call last):\n  File x, line 1\nValueError: y", "it failed:"),
        (
            "403\nhttps://u:canary@h/a?sig=canary\nAuthorization: Bearer canary",
            "403 https://h/a Authorization: (removed)",
        ),
        ("x-amz-security-token:\n  canary", "x-amz-security-token: (removed)"),
        (
            "Json error: Truncated record\n   0: <unknown>\n   1: start_thread\n             at ./create.c:442:8\n",
            "Json error: Truncated record",
        ),
    ],
)
def test_an_error_becomes_one_line(message, line):
    assert one_line(OSError(message)) == line
