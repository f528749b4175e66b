"""Whether autocast is on for a device, and work without it; some devices (``meta``) have none."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def autocast_type(device: torch.device) -> torch.dtype | None:
    """Return the type that autocast computes with on a device now; None if it is off."""
    kind = device.type
    if not (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)):
        return None
    return torch.get_autocast_dtype(kind)


def computing_type(x: Tensor) -> torch.dtype:
    """Return the type that a linear layer computes with: autocast's, or that of its input."""
    return autocast_type(x.device) or x.dtype


def without_autocast(device: torch.device) -> AbstractContextManager[None]:
    """Compute in the types that tensors have."""
    if autocast_type(device) is None:
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
