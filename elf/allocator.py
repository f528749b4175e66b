"""How torch is to allocate GPU memory, said in its environment before it is imported.

With expandable segments the allocator's pools grow page by page, at addresses that go on, instead
of by segments of fixed sizes, between which free memory cannot be joined. Buckets whose batches
have other shapes, and sample pictures, then leave less of the card unused.

CUDA graphs get along with it: their private pools have expandable segments of their own (torch 2.5
and later), of which no page is unmapped while a graph of the pool lives.
"""

from collections.abc import Mapping

from elf.platforms import SYSTEM, has_expandable_segments

NAMES = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
"""What torch reads: 2.11 and 2.14 the first two, and builds for ROCm the third. Of the second it
warns from 2.8 to 2.11 that it is deprecated; of the first only 2.9 took no heed. Of both the
second wins."""

SETTING = "expandable_segments:True"


def allocator_settings(
    environment: Mapping[str, str],
    system: str = SYSTEM,
    release: str | None = None,
) -> dict[str, str]:
    """Return what to add to the environment; nothing where the user has chosen.

    Args:
        environment: Of the process.
        system: As ``sys.platform``.
        release: Of the kernel; this machine's if None.
    """
    chosen = any(name in environment for name in NAMES)
    if chosen or not has_expandable_segments(system, release):
        return {}
    return {NAMES[0]: SETTING}
