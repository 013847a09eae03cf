"""Text that comes from outside, made fit to be printed, logged and stored.

Names of files and messages of errors come from whoever filled a bucket or answered a request. They may hold escape
sequences that a terminal obeys, characters that turn the order of letters around, and URLs that hold credentials.
"""

from __future__ import annotations

import re

_MAX_LENGTH = 300

# A password may hold slashes; what follows a colon and is all digits up to a slash is a port.
_USER_OF_URL = re.compile(r"(:/{1,2})(?:[^/\s@]*|[^/\s@:]*:(?!\d*/)[^\s@]*)@")
# To the end of the word, wherever it begins: a URL's path may hold spaces.
_QUERY = re.compile(r"\?\S*")
# S3 answers a wrong signature with what was signed, the session token among it; a signature is good for an hour.
_SIGNED = re.compile(r"(x-(?:amz|goog)-(?:security-token|signature|credential)\W+)[^\s'\"<>&,;]+", re.IGNORECASE)
_AUTHORIZATION = re.compile(r"(\bauthorization['\"]?\s*[:=,]\s*).*", re.IGNORECASE)

_TRACEBACK = "Traceback (most recent call last)"

# The arrows with which delta-rs draws the causes of an error, one line each.
_DELTA_ARROW = re.compile("\\s*\x1b\\[31m\N{DOWNWARDS ARROW WITH TIP RIGHTWARDS}\x1b\\[0m\\s*")

# What delta-rs puts below a message where RUST_BACKTRACE is set.
_RUST_FRAMES = re.compile(r"\n\s+0: .*", re.DOTALL)


def printable(text: str) -> str:
    """Replace what is not printable: control characters, line breaks, and marks that change the direction of text."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def is_encodable(text: str) -> bool:
    """Whether text can be stored as UTF-8. Text with half a surrogate pair, as in some JSON and file names, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def without_credentials(line: str) -> str:
    """Remove from a line what may hold credentials: user names and queries of URLs, signatures and tokens."""
    if "://" in line:
        line = _QUERY.sub("", line)
    line = _AUTHORIZATION.sub(r"\1(removed)", _SIGNED.sub(r"\1(removed)", line))
    return _USER_OF_URL.sub(r"\1", line)


def error_text(error: BaseException) -> str:
    """The error's message, in which the causes that delta-rs lists are one line: "Generic S3 error: …: …"."""
    return _DELTA_ARROW.sub(": ", _RUST_FRAMES.sub("", str(error))).strip()


def one_line(error: BaseException) -> str:
    """The error's lines as one, printable, without credentials, without a traceback, and cut after 300 characters.

    All of them, since many libraries have the remedy below what happened.
    """
    line = " ".join(error_text(error).partition(_TRACEBACK)[0].split()) or type(error).__name__
    return printable(without_credentials(line))[:_MAX_LENGTH]
