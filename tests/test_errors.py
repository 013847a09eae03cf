"""Errors go from process to process: Ray and multiprocessing pickle them."""

import pickle

import pytest

from sam_pipeline import errors
from sam_pipeline.errors import FingerprintMismatchError, SamPipelineError

CLASSES = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, SamPipelineError)]


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_is_the_same_after_pickling(kind):
    error = kind({"precision": ("fp32", "bf16")} if kind is FingerprintMismatchError else "no such bucket: b")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (kind, str(error), vars(error))
    assert "bf16" in str(again) or str(again) == "no such bucket: b"
