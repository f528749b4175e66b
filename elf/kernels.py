"""Whether kernels of Elf's own work on a device; Triton compiles them when they are needed."""

import functools
import importlib.util
import warnings

import torch

from elf.errors import ElfWarning


@functools.cache
def can_compile(device: torch.device) -> bool:
    """Whether Triton works for a device: CUDA's, not everywhere on Windows.

    It is tried once, as it needs a C compiler and does not support every card; a warning says why
    not, and PyTorch's operations do the same then.
    """
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return False
    try:
        from elf.adapters.dora_kernels import scale

        with torch.cuda.device(device):
            one = torch.zeros(32, device=device)
            scale(one, one, None)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # Triton has many
        reason = " ".join(str(error).split())[:200]
        warnings.warn(
            f"working without Elf's fused kernels, slower: {reason}", ElfWarning, stacklevel=2
        )
        return False
    return True


def can_compile_here() -> bool:
    """Whether a run on this machine's GPU has such kernels; so it is taken to where there is none.

    That is for a plan, which may be of another machine's card.
    """
    return not torch.cuda.is_available() or can_compile(torch.device("cuda"))
