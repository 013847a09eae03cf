import errno
import logging
import socket

import aiohttp
import botocore.exceptions as boto
import httpx2 as httpx
import pytest
from aiohttp.http_exceptions import ContentLengthError
from botocore.parsers import ResponseParserError
from deltalake.exceptions import CommitFailedError, DeltaError
from fsspec.exceptions import FSTimeoutError
from huggingface_hub.errors import HfHubHTTPError
from s3fs.errors import translate_boto_error

from sam_pipeline.errors import StorageUnavailableError
from sam_pipeline.safety.clean_text import error_text
from sam_pipeline.storage.objects.retry_listeners import retries_told_to
from sam_pipeline.storage.objects.retrying import (
    ErrorKind,
    error_kind,
    http_status,
    is_denied,
    is_transient,
    retried,
)

ARROW = "\n          \x1b[31m\N{DOWNWARDS ARROW WITH TIP RIGHTWARDS}\x1b[0m "


def client_error(code, status):
    metadata = {} if status is None else {"ResponseMetadata": {"HTTPStatusCode": status}}
    return boto.ClientError({"Error": {"Code": code, "Message": "as the server says"}, **metadata}, "GetObject")


def of_s3fs(code, status, *, set_cause=True):
    return translate_boto_error(client_error(code, status), set_cause=set_cause)


def caused(error, cause):
    error.__cause__ = cause
    return error


def of_delta(*causes):
    """As delta-rs 1.6.6 draws them; the colons inside a message are line breaks too."""
    return OSError(ARROW.join(causes) + "\n")


def of_delta_status(status, body=""):
    return of_delta(
        "Kernel error -> Generic S3 error",
        "Error performing GET http://127.0.0.1:1/b/t/_delta_log/_last_checkpoint, after 1 retries, max_retries",
        "1, retry_timeout",
        "10s  - Server returned non-2xx status code",
        f"{status} Words",
        body,
    )


CUT_BODY = caused(aiohttp.ClientPayloadError("Response payload is not completed"), ContentLengthError("Not enough"))
TRANSIENT = [
    of_s3fs("SlowDown", 503),
    of_s3fs("503", 503),
    of_s3fs("503", 503, set_cause=False),
    of_s3fs("InternalError", 500),
    of_s3fs("InternalError", 500, set_cause=False),
    of_s3fs("InternalError", 200),
    of_s3fs("BadGateway", 502),
    of_s3fs("504", 504),
    of_s3fs("TooManyRequests", 429),
    of_s3fs("RequestTimeout", 400),
    of_s3fs("BadDigest", 400),
    client_error("ThrottlingException", 400),
    boto.EndpointConnectionError(endpoint_url="http://a"),
    boto.ConnectTimeoutError(endpoint_url="http://a"),
    boto.ReadTimeoutError(endpoint_url="http://a"),
    boto.ConnectionClosedError(endpoint_url="http://a"),
    boto.IncompleteReadError(actual_bytes=1, expected_bytes=2),
    ResponseParserError("Unable to parse response (no element found: line 1), invalid XML received"),
    aiohttp.ServerDisconnectedError(),
    aiohttp.ClientPayloadError("Response payload is not completed"),
    CUT_BODY,
    caused(FSTimeoutError(), boto.ReadTimeoutError(endpoint_url="http://a")),
    TimeoutError(),
    ConnectionResetError(errno.ECONNRESET, "reset"),
    BrokenPipeError(),
    OSError(errno.ENETUNREACH, "no network"),
    socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
    of_delta_status(503, "<Error><Code>SlowDown</Code></Error>"),
    of_delta_status(500),
    of_delta_status(429),
    of_delta("Kernel error -> Generic S3 error", "HTTP error", "error sending request", "operation timed out"),
    of_delta("Generic S3 error", "HTTP error", "request or response body error", "reset by peer (os error 104)"),
    of_delta("Generic S3 error", "HTTP error", "connection error", "Connection refused (os error 111)"),
    of_delta("Kernel error -> Generic S3 error", "Got invalid list response", "syntax error", "tag not closed"),
    DeltaError(
        "Generic S3 error: Error after 3 retries - Server returned non-2xx status code: 503 Service Unavailable"
    ),
    CommitFailedError("Generic S3 error: HTTP error: error sending request"),
]
DENIED = [
    of_s3fs("AccessDenied", 403),
    of_s3fs("403", 403),
    of_s3fs("403", 403, set_cause=False),
    PermissionError("403 Forbidden"),
    boto.NoCredentialsError(),
    boto.CredentialRetrievalError(provider="process", error_msg="no answer"),
    of_delta_status(403, "<Error><Code>AccessDenied</Code></Error>"),
    of_delta_status(401),
]
BAD_CREDENTIALS = [
    of_s3fs("InvalidAccessKeyId", 403),
    of_s3fs("SignatureDoesNotMatch", 403),
    of_s3fs("ExpiredToken", 400),
    of_s3fs("InvalidToken", 400),
    of_s3fs("RequestTimeTooSkewed", 403),
    of_delta_status(403, "<Error><Code>InvalidAccessKeyId</Code></Error>"),
    of_delta_status(400, "<Error><Code>ExpiredToken</Code></Error>"),
]
FINAL = [
    of_s3fs("NoSuchBucket", 404),
    of_s3fs("NoSuchKey", 404),
    of_s3fs("404", 404),
    of_s3fs("InvalidRange", 416),
    of_s3fs("PreconditionFailed", 412),
    of_s3fs("NotImplemented", 501),
    of_s3fs("AuthorizationHeaderMalformed", 400),
    FileNotFoundError("gone"),
    FileExistsError("there"),
    IsADirectoryError("folder"),
    *(OSError(number, "disk") for number in (errno.ENOSPC, errno.EROFS, errno.EFBIG, errno.ENAMETOOLONG, errno.EIO)),
    OSError(errno.EACCES, "Permission denied"),
    OSError("what pyarrow says of a file that is none"),
    of_delta_status(404),
    DeltaError("Generic LocalFileSystem error: Unable to copy data to file: No space left on device (os error 28)"),
    DeltaError("Generic DeltaTable error: HTTPS in the name of a table"),
    CommitFailedError("Transaction failed: Concurrent transaction failed"),
    StorageUnavailableError("tried for long enough"),
    caused(StorageUnavailableError("tried for long enough"), ConnectionResetError()),
    boto.ParamValidationError(report="bad bucket name"),
    TypeError("a bug"),
    ValueError("a bug"),
    KeyError("ContentLength"),
]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        *((error, ErrorKind.TRANSIENT) for error in TRANSIENT),
        *((error, ErrorKind.DENIED) for error in DENIED),
        *((error, ErrorKind.BAD_CREDENTIALS) for error in BAD_CREDENTIALS),
        *((error, ErrorKind.FINAL) for error in FINAL),
    ],
    ids=lambda value: str(value)[-40:] if isinstance(value, Exception) else value.name,
)
def test_an_error_is_of_one_kind(error, kind):
    assert error_kind(error) is kind
    assert is_transient(error) == (kind is ErrorKind.TRANSIENT)
    assert is_denied(error) == (kind in (ErrorKind.DENIED, ErrorKind.BAD_CREDENTIALS))


def test_other_libraries_name_the_status_each_in_its_own_way():
    for name in ("status", "code", "status_code"):
        error = Exception("as gcsfs or azure raise it")
        setattr(error, name, 503)
        assert http_status(error) == 503
        assert is_transient(error)
    assert http_status(of_s3fs("InvalidRange", 416)) == 416
    assert http_status(of_delta_status(403)) == 403
    assert http_status(SystemExit(1)) is None
    assert http_status(CUT_BODY) is None


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (503, ErrorKind.TRANSIENT),
        (429, ErrorKind.TRANSIENT),
        (401, ErrorKind.DENIED),
        (403, ErrorKind.DENIED),
        (404, ErrorKind.FINAL),
    ],
)
def test_an_answer_of_hugging_face_is_sorted_by_its_status(status, kind):
    response = httpx.Response(status, request=httpx.Request("GET", "https://huggingface.co/x"))
    error = HfHubHTTPError("as the hub says", response=response)
    assert (http_status(error), error_kind(error)) == (status, kind)


def test_a_connection_to_hugging_face_may_come_back():
    for error in (httpx.ConnectError("refused"), httpx.ReadTimeout("no answer")):
        assert error_kind(error) is ErrorKind.TRANSIENT


def test_the_causes_that_delta_draws_as_a_tree_become_one_line():
    error = of_delta("Generic S3 error", "HTTP error", "operation timed out")
    assert error_text(error) == "Generic S3 error: HTTP error: operation timed out"


class Failing:
    """A call that raises these errors in turn, the last one for ever, unless it is a value."""

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)
        self.calls = 0

    def __call__(self):
        outcome = self.outcomes[min(self.calls, len(self.outcomes) - 1)]
        self.calls += 1
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def test_what_succeeds_is_called_once(clock):
    call = Failing("data")
    assert retried(call, what="read") == "data"
    assert (call.calls, clock.slept) == (1, [])


def test_what_passes_is_tried_again_with_longer_and_random_waits(clock):
    call = Failing(*[ConnectionResetError()] * 6, "data")
    assert retried(call, what="read") == "data"
    assert call.calls == 7
    assert all(0 <= wait <= 0.5 * 2**index for index, wait in enumerate(clock.slept))
    assert len(set(clock.slept)) == 6


def test_listeners_are_told_of_each_retry_and_of_what_the_call_does(clock):
    told = []
    with retries_told_to(told.append), retries_told_to(told.append):
        retried(Failing(ConnectionResetError(), DENIED[0], "data"), what="write to s3://b/k", denied_is_final=False)
        assert told == ["write"] * 4
    retried(Failing(ConnectionResetError(), "data"), what="read")
    assert len(told) == 4


@pytest.mark.parametrize("error", [FINAL[0], BAD_CREDENTIALS[0], DENIED[0], TypeError("a bug")])
def test_what_does_not_pass_is_raised_at_once_and_as_it_is(clock, error):
    call = Failing(error)
    with pytest.raises(type(error)) as caught:
        retried(call, what="read")
    assert caught.value is error
    assert (call.calls, clock.slept) == (1, [])


def test_a_denial_in_mid_run_is_tried_again_for_some_seconds(clock):
    assert retried(Failing(DENIED[0], DENIED[0], "data"), what="read", denied_is_final=False) == "data"
    clock.slept.clear()
    call = Failing(DENIED[0])
    with pytest.raises(PermissionError):
        retried(call, what="read", denied_is_final=False)
    assert call.calls == 6
    assert sum(clock.slept) <= 0.5 + 1 + 2 + 4 + 8


def test_wrong_credentials_are_final_in_mid_run_too(clock):
    call = Failing(BAD_CREDENTIALS[0])
    with pytest.raises(PermissionError):
        retried(call, what="read", denied_is_final=False)
    assert call.calls == 1


def test_denials_and_outages_may_take_turns(clock):
    call = Failing(DENIED[0], TimeoutError(), DENIED[0], TimeoutError(), FileNotFoundError("gone"))
    with pytest.raises(FileNotFoundError):
        retried(call, what="read", denied_is_final=False)
    assert call.calls == 5


def test_after_the_limit_it_is_one_line_that_says_what_and_why(clock):
    call = Failing(of_delta_status(503))
    with pytest.raises(StorageUnavailableError) as caught:
        retried(call, what="open s3://b/t", limit_s=60)
    message = str(caught.value)
    assert message.startswith(
        "cannot open s3://b/t: storage did not answer for 60 s (Kernel error -> Generic S3 error: "
    )
    assert "503" in message
    assert message.endswith("; the same command resumes")
    assert "\n" not in message
    assert caught.value.__cause__ is call.outcomes[0]
    assert 30 < clock.now <= 60
    assert call.calls > 6


def test_an_error_without_a_message_is_named(clock):
    with pytest.raises(StorageUnavailableError, match=r"\(TimeoutError\)"):
        retried(Failing(TimeoutError()), what="read")


def test_only_what_lasts_is_said(clock, caplog):
    caplog.set_level(logging.WARNING)
    retried(Failing(TimeoutError(), TimeoutError(), "data"), what="read")
    assert caplog.records == []
    with pytest.raises(StorageUnavailableError):
        retried(Failing(TimeoutError()), what="read s3://b/a")
    assert caplog.messages[0] == "cannot read s3://b/a, trying again: TimeoutError"
