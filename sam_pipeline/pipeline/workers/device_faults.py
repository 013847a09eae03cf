"""Errors of a GPU: which mean that its memory ran out, and after which its process can no longer use it.

They are recognised by name and message, so that the tasks that read and write need no torch.
"""

from __future__ import annotations

import re

# In order: CUDA's runtime, Triton and cuBLAS or cuDNN where they find no memory outside of torch's allocator;
# torch's allocator where it fails to ask the driver about the memory that it lacks (pytorch#112377).
_OUT_OF_MEMORY = re.compile(
    r"CUDA (driver )?error: out of memory|Triton Error \[CUDA\]: out of memory|_STATUS_ALLOC_FAILED|^NVML_SUCCESS == "
)
_CALL_FAILED = re.compile(r"CUDA (driver )?error|Triton Error \[CUDA\]|CUBLAS_STATUS_|CUDNN_STATUS_|cuDNN error")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device had too little memory for what was asked of it; with less it can go on."""
    return type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError) and _OUT_OF_MEMORY.search(str(error)) is not None
    )


def is_device_lost(error: BaseException) -> bool:
    """Whether a call to the device failed, so that all later ones of this process may fail too.

    After an illegal access, a failed assertion or a memory error of the hardware they do. A few errors are not so, but
    nothing says which: restarting one process too many costs seconds, keeping one that always fails costs all its
    images.
    """
    if is_out_of_memory(error):
        return False
    return type(error).__name__ == "AcceleratorError" or (
        isinstance(error, RuntimeError) and _CALL_FAILED.search(str(error)) is not None
    )
