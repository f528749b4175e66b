"""Memory: its unit, and whether it ran out."""

GIB = 1 << 30
"""Bytes of a gibibyte."""

_OUT_OF_MEMORY = (
    "out of memory",
    "failed to allocate memory",
    "can't allocate memory",
    "alloc_failed",  # cuBLAS's and cuDNN's workspaces
    "bad_alloc",
    "bfcarena",
)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error of onnxruntime or torch says that memory ran out."""
    text = str(error).lower()
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or any(sign in text for sign in _OUT_OF_MEMORY)
