import subprocess

import pytest
import torch

from sam_pipeline.pipeline.workers.device_faults import is_device_lost, is_out_of_memory

LOST = [
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"),
    torch.AcceleratorError("CUDA error: device-side assert triggered"),
    torch.AcceleratorError("a new text"),
    RuntimeError("CUDA error: unspecified launch failure"),
    RuntimeError("CUDA driver error: unknown error"),
    RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(handle, opa)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
]
NO_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError('NVML_SUCCESS == r INTERNAL ASSERT FAILED at "../c10/cuda/CUDACachingAllocator.cpp":1154'),
]
NEITHER = [
    RuntimeError("image 28 is poison"),
    ValueError("an image of size (2, 2) has 1 crops, got 0 embeddings"),
    MemoryError("Unable to allocate 128. MiB"),
    RuntimeError("Expected all tensors to be on the same device, but found cuda:0 and cpu"),
    OSError("CUDA error: the name of a file"),
    subprocess.CalledProcessError(1, "gcc"),
]


@pytest.mark.parametrize(
    ("errors", "lost", "no_memory"), [(LOST, True, False), (NO_MEMORY, False, True), (NEITHER, False, False)]
)
def test_errors_of_a_device_are_told_from_those_of_its_memory_and_all_others(errors, lost, no_memory):
    for error in errors:
        assert (is_device_lost(error), is_out_of_memory(error)) == (lost, no_memory), repr(error)
