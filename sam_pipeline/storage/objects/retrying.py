"""One layer of retries over every storage call: transient errors are retried, others are raised immediately."""

from __future__ import annotations

import errno
import logging
import re
import ssl
from collections.abc import Callable, Iterator
from enum import Enum, auto
from typing import TypeVar

import aiohttp
import botocore.exceptions as boto
import botocore.parsers
import tenacity
from aiohttp.http_exceptions import HttpProcessingError
from deltalake.exceptions import DeltaError

from sam_pipeline.errors import SamPipelineError, StorageUnavailableError
from sam_pipeline.safety.clean_text import error_text, one_line
from sam_pipeline.storage.objects.retry_listeners import tell_retry

T = TypeVar("T")

logger = logging.getLogger(__name__)

RANGE_NOT_SATISFIABLE = 416
"""The status with which a server answers that a range holds no bytes, such as any range of an empty object."""

_SILENT_S = 10  # retries before this are logged at DEBUG only
_MAX_DENIALS = 6  # about ten seconds with the waits between them, in which new credentials of a role arrive


class ErrorKind(Enum):
    """What an error says about trying again."""

    TRANSIENT = auto()
    """Throttling, a server's failure, a broken connection: the next attempt may succeed."""
    DENIED = auto()
    """401, 403 or no credentials. Final at a start; later it may be a role whose credentials are being renewed."""
    BAD_CREDENTIALS = auto()
    """A key that does not exist, does not sign right, or has expired."""
    FINAL = auto()
    """Not found, a full disk, a bug: another attempt would give the same."""


_BAD_CREDENTIALS_CODES = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "ExpiredTokenException"}
_BAD_CREDENTIALS_CODES |= {"InvalidToken", "TokenRefreshRequired", "RequestTimeTooSkewed", "RequestExpired"}
# Some of these come with status 400, or with 200 because the answer had begun.
_TRANSIENT_CODES = {"SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "Throttling", "IncompleteBody"}
_TRANSIENT_CODES |= {"ThrottlingException", "RequestLimitExceeded", "BadDigest", "XAmzContentSHA256Mismatch"}

_TRANSIENT_TYPES = (
    ConnectionError,
    TimeoutError,
    aiohttp.ClientConnectionError,
    aiohttp.ClientPayloadError,
    HttpProcessingError,
    boto.HTTPClientError,
    boto.ConnectionError,
    boto.IncompleteReadError,
    boto.MetadataRetrievalError,
    # A listing that was cut, or throttling that is not XML.
    botocore.parsers.ResponseParserError,
)
_NO_CREDENTIALS_TYPES = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.TokenRetrievalError,
)
_TRANSIENT_ERRNOS = {errno.EAGAIN, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH}
_TRANSIENT_ERRNOS |= {errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED, errno.EPIPE, errno.ETIMEDOUT}
# s3fs's numbers for 503 and 500, where it does not keep the original as the cause.
_TRANSIENT_ERRNOS |= {errno.EBUSY, getattr(errno, "EREMOTEIO", errno.EBUSY)}

# delta-rs has no error types for these: its object_store puts everything into the message.
_STATUS_IN_TEXT = re.compile(r"non-2xx status code: (\d{3})")
_CODE_IN_TEXT = re.compile(r"<Code>(\w+)</Code>")
_OS_ERROR_IN_TEXT = re.compile(r"\(os error (\d+)\)")
_TRANSIENT_IN_TEXT = re.compile("HTTP error|timed out|Got invalid list response")


def retried(call: Callable[[], T], *, what: str, denied_is_final: bool = True, limit_s: float = 120) -> T:
    """Call until it succeeds, with exponential backoff and full jitter between attempts.

    Args:
        call: one attempt; whatever it did before failing must be safe to do again.
        what: for the message, as in "cannot {what}"; its first word is what retry listeners are told.
        denied_is_final: raise a 403 immediately. False once the same credentials have been seen to work: then it is
            tried again for some ten seconds.
        limit_s: no new attempt is begun this long after the first.

    Raises:
        StorageUnavailableError: every attempt up to the limit failed with a transient error.
        Exception: any other error as it is, immediately; a denial after some ten seconds if it is not final.
    """

    def gave_up(state: tenacity.RetryCallState) -> T:
        assert state.outcome is not None
        error = state.outcome.exception()
        assert error is not None
        raise StorageUnavailableError(
            f"cannot {what}: storage did not answer for {limit_s:g} s ({one_line(error)}); the same command resumes"
        ) from error

    def warn(state: tenacity.RetryCallState) -> None:
        assert state.outcome is not None
        error = state.outcome.exception()
        assert error is not None
        level = logging.WARNING if (state.seconds_since_start or 0) > _SILENT_S else logging.DEBUG
        logger.log(level, "cannot %s, trying again: %s", what, one_line(error))
        tell_retry(what.partition(" ")[0])

    wait = tenacity.wait_random_exponential(multiplier=0.5, max=20)
    through_denials = tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda error: error_kind(error) is ErrorKind.DENIED),
        stop=tenacity.stop_after_attempt(1 if denied_is_final else _MAX_DENIALS),
        wait=wait,
        before_sleep=warn,
        reraise=True,
    )
    through_outages = tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_transient),
        stop=tenacity.stop_before_delay(limit_s),
        wait=wait,
        before_sleep=warn,
        retry_error_callback=gave_up,
    )
    result: T = through_outages(through_denials, call)
    return result


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed when it is made again."""
    return error_kind(error) is ErrorKind.TRANSIENT


def is_denied(error: BaseException) -> bool:
    """Whether storage denied access, or did not accept the credentials."""
    return error_kind(error) in (ErrorKind.DENIED, ErrorKind.BAD_CREDENTIALS)


def error_kind(error: BaseException) -> ErrorKind:
    """Sort an error of s3fs, aiobotocore, aiohttp, huggingface_hub, the operating system or delta-rs."""
    if isinstance(error, SamPipelineError):
        return ErrorKind.FINAL
    # s3fs translates what the server said into an OSError, with the original as its cause: the original knows more.
    kinds = [kind for link in _chain(error) if (kind := _kind_alone(link)) is not None]
    return kinds[-1] if kinds else ErrorKind.FINAL


def http_status(error: BaseException) -> int | None:
    """The status that a server answered with, if this is about an answer."""
    statuses = [status for link in _chain(error) if (status := _status_alone(link)) is not None]
    return statuses[-1] if statuses else None


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__


def _kind_alone(error: BaseException) -> ErrorKind | None:
    """What one link of the chain says by itself; None if it says nothing."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return ErrorKind.FINAL
    if isinstance(error, _NO_CREDENTIALS_TYPES):
        return ErrorKind.DENIED
    status = _status_alone(error)
    if status is not None:
        return _kind_of_answer(status, _code_alone(error))
    if isinstance(error, _TRANSIENT_TYPES) or _is_of_httpx(error):
        return ErrorKind.TRANSIENT
    if isinstance(error, DeltaError):
        return _kind_of_text(error_text(error))
    if isinstance(error, OSError):
        return _kind_of_os_error(error)
    return None


def _is_of_httpx(error: BaseException) -> bool:
    """Whether it is a connection error of httpx, which huggingface_hub uses and which is there only for hf:// URIs."""
    names = [(kind.__module__[:5], kind.__name__) for kind in type(error).__mro__]
    return ("httpx", "TransportError") in names


def _kind_of_answer(status: int, code: str) -> ErrorKind:
    if code in _BAD_CREDENTIALS_CODES:
        return ErrorKind.BAD_CREDENTIALS
    if status in (401, 403):
        return ErrorKind.DENIED
    if code in _TRANSIENT_CODES or status in (408, 429) or (status >= 500 and status != 501):
        return ErrorKind.TRANSIENT
    return ErrorKind.FINAL


def _kind_of_os_error(error: OSError) -> ErrorKind:
    if error.errno is not None:
        # Errors of a disk are final: full, read-only, no permission, no such file. Those of resolving a name are
        # transient, and have negative numbers.
        is_transient_number = error.errno in _TRANSIENT_ERRNOS or error.errno < 0
        return ErrorKind.TRANSIENT if is_transient_number else ErrorKind.FINAL
    if isinstance(error, PermissionError):
        return ErrorKind.DENIED
    if isinstance(error, (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)):
        return ErrorKind.FINAL
    return _kind_of_text(error_text(error)) or ErrorKind.FINAL


def _kind_of_text(text: str) -> ErrorKind | None:
    os_error = _OS_ERROR_IN_TEXT.search(text)
    if os_error is not None:
        return _kind_of_os_error(OSError(int(os_error[1]), text))
    return ErrorKind.TRANSIENT if _TRANSIENT_IN_TEXT.search(text) else None


def _status_alone(error: BaseException) -> int | None:
    if isinstance(error, boto.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return status if isinstance(status, int) else 0
    status = getattr(getattr(error, "response", None), "status_code", None)  # huggingface_hub
    if isinstance(status, int):
        return status
    if isinstance(error, (DeltaError, OSError)):
        match = _STATUS_IN_TEXT.search(error_text(error))
        return None if match is None else int(match[1])
    if isinstance(error, _TRANSIENT_TYPES):
        return None  # aiohttp gives a body that was cut the code 400
    # aiohttp, gcsfs and azure.core, each with a name of its own.
    statuses = (getattr(error, name, None) for name in ("status", "code", "status_code"))
    return next((status for status in statuses if isinstance(status, int) and 100 <= status <= 599), None)


def _code_alone(error: BaseException) -> str:
    if isinstance(error, boto.ClientError):
        return str(error.response.get("Error", {}).get("Code", ""))
    match = _CODE_IN_TEXT.search(error_text(error))
    return "" if match is None else match[1]
