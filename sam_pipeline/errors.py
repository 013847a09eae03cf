"""The exception tree, each with the exit code that the command line ends with.

SamPipelineError              1
├── ConfigError               2   a setting, a combination of settings, or a plan that cannot be scheduled
│   ├── ClusterError          2   Ray does not answer, or has too few CPUs or GPUs for the run
│   └── FingerprintMismatchError  2  a resume whose settings differ from those the run started with
├── InputError                2   nothing to read: missing bucket, wrong key, empty prefix
│   └── ImageError            2   an image of a run is gone, is another one now, or cannot be decoded
├── MissingRowError           2   a run has no row of an image; also a KeyError
├── OutputError               2   the output cannot be written: read-only, full, no permission
│   └── DamagedFileError      2   a file of the output is missing, or is not as it was written
├── CheckpointError           2   weights missing, corrupt, or of another architecture
├── InternalAddressError      2   a download would connect to this machine, a neighbour, or a metadata service
├── RunFailedError            1   the run stopped before every planned image was committed; starting again may help
│   └── StorageUnavailableError   1   storage did not answer although it was asked again and again
├── NothingSucceededError     1   every planned image has a row, but none is ok, or no prompt has a mask
└── FencedError               3   a newer start took over this output
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class SamPipelineError(Exception):
    """Base of everything this package raises on purpose; its message is one line for the user."""

    exit_code: ClassVar[int] = 1


class ConfigError(SamPipelineError):
    """A setting is out of range, or settings contradict one another."""

    exit_code = 2


class ClusterError(ConfigError):
    """Ray does not answer, or its machines are too few or too small for what was asked for."""


class FingerprintMismatchError(ConfigError):
    """The output holds results computed with other settings.

    Args:
        differences: setting name → (value in the output, value asked for).
    """

    def __init__(self, differences: Mapping[str, tuple[object, object]]) -> None:
        self.differences = dict(differences)
        super().__init__(self.differences)  # what pickle calls the class with

    def __str__(self) -> str:
        pairs = self.differences.items()
        lines = "; ".join(f"{name}: {old!r} in the output, {new!r} now" for name, (old, new) in pairs)
        return f"this output was computed with other settings ({lines}); use them, or another --output"


class InputError(SamPipelineError):
    """The input cannot be listed, or holds no images."""

    exit_code = 2


class ImageError(InputError):
    """An image of a run is gone, is not the one that was annotated, or cannot be decoded."""


class MissingRowError(SamPipelineError, KeyError):
    """A run has no row of an image."""

    exit_code = 2

    def __str__(self) -> str:
        return Exception.__str__(self)  # KeyError would show the message in quotes


class OutputError(SamPipelineError):
    """The output cannot be read or written."""

    exit_code = 2


class DamagedFileError(OutputError):
    """A file that the output's log names is missing, or is not as it was written."""


class CheckpointError(SamPipelineError):
    """Weights are missing, fail their checksum, or do not fit the network."""

    exit_code = 2


class InternalAddressError(SamPipelineError):
    """A download would connect to an address that ``uri_rules.is_internal_address`` refuses."""

    exit_code = 2


class RunFailedError(SamPipelineError):
    """The run ended with images left to do; the same command resumes it."""


class StorageUnavailableError(RunFailedError):
    """Storage kept failing with transient errors (throttling, resets, time-outs) until the limit for retries."""


class NothingSucceededError(SamPipelineError):
    """The run is finished, but no image, or no prompt, came through; its rows say why."""


class FencedError(SamPipelineError):
    """Another start committed to the same output after this one began."""

    exit_code = 3


def is_panic(error: BaseException) -> bool:
    """Whether an error is a panic: a bug that a Rust library found in itself. Its type cannot be imported."""
    return type(error).__name__ == "PanicException"
