"""The image side on GPUs: Triton kernels."""
