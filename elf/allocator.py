"""How torch is to allocate GPU memory, said in its environment before it is imported.

With expandable segments the allocator's pools grow page by page, at addresses that go on, instead
of by segments of fixed sizes, between which free memory cannot be joined. Buckets whose batches
have other shapes, and sample pictures, then leave less of the card unused.

CUDA graphs get along with it: their private pools have expandable segments of their own (torch 2.5
and later), of which no page is unmapped while a graph of the pool lives.
"""

import platform
import sys
from collections.abc import Mapping

NAMES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
"""What torch reads: 2.11 and 2.14 the first two, and builds for ROCm the third. Of the second it
warns from 2.8 to 2.11 that it is deprecated; of the first only 2.9 took no heed. Of both the
second wins."""

SETTING = "expandable_segments:True"


def allocator_settings(
    environment: Mapping[str, str],
    system: str = sys.platform,
    release: str | None = None,
) -> dict[str, str]:
    """Return what to add to the environment; nothing where the user has chosen.

    Torch's builds for Windows have long had no expandable segments, and warn. Under WSL and on
    Tegra boards the driver offers the calls that they consist of, and fails in the first allocation
    (https://github.com/pytorch/pytorch/issues/192330).

    Args:
        environment: Of the process.
        system: As ``sys.platform``.
        release: Of the kernel; this machine's if None.
    """
    kernel = (platform.release() if release is None else release).lower()
    foreign = any(name in kernel for name in ("microsoft", "wsl", "tegra"))
    if system != "linux" or foreign or any(name in environment for name in NAMES):
        return {}
    return {NAMES[0]: SETTING}
