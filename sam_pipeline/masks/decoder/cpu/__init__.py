"""The image side on a CPU, in numba kernels."""
