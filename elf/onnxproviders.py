"""Where onnxruntime is asked to run a model."""

from typing import Any

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"


def execution_providers(device: str) -> list[Any]:
    """Return what to give a session for a device (``cpu``, ``cuda``, ``cuda:1``).

    What onnxruntime lists as available may not work: a session alone knows what it got.
    """
    if not device.startswith("cuda"):
        return [CPU]
    import onnxruntime

    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # the CUDA libraries that came with torch
    return [(CUDA, {"device_id": int(device.partition(":")[2] or 0)}), CPU]
