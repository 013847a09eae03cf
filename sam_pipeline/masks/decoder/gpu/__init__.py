"""The image side and the token side on GPUs: Triton kernels."""
