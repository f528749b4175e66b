"""What a training writes: caches, checkpoints, sample pictures."""

from collections.abc import Iterable, Mapping

from elf.preparation.buckets import Size

_BLOCK = 512  # of a tar
_NPY = 128  # header of an array
_META = 2 * _BLOCK  # a sample's description


def _member(size: int) -> int:
    """Return the bytes of a file in a tar, with its header."""
    return _BLOCK + -(-size // _BLOCK) * _BLOCK


def latent_bytes(buckets: Mapping[Size, int], channels: int, factor: int) -> int:
    """Return the size of cached latents: mean and deviation, in float16.

    Args:
        buckets: How many latents there are of each size, (width, height) in px.
        channels: Of a latent.
        factor: Pixels of a picture for one of its latent, along a side.
    """
    total = 0
    for (width, height), count in buckets.items():
        numbers = 2 * channels * (width // factor) * (height // factor)
        total += count * (_member(_NPY + 2 * numbers) + _META)
    return total


def text_bytes(count: int, tokens: int, width: int, pooled: int) -> int:
    """Return the size of cached text states, in float16.

    Args:
        count: Captions.
        tokens: Of each.
        width: Of their states.
        pooled: Of the pooled state; 0 if there is none.
    """
    each = _member(_NPY + 2 * tokens * width) + _META
    return count * (each + (_member(_NPY + 2 * pooled) if pooled else 0))


def checkpoint_bytes(parameters: int, state: int, averaged: bool, files: int) -> int:
    """Return the size of all checkpoints that are kept: adapter, average, optimizer.

    Args:
        parameters: That are trained.
        state: Bytes of the optimizer's state.
        averaged: Whether there is a moving average.
        files: How many are kept.
    """
    return files * (4 * parameters * (2 if averaged else 1) + state)


def sample_bytes(sizes: Iterable[Size], strengths: int, sheets: int) -> int:
    """Return at most how large all sample pictures are: each stands in its sheet, and alone.

    Args:
        sizes: Of the picture of each prompt, (width, height) in px.
        strengths: Pictures of each prompt.
        sheets: In the run.
    """
    return sheets * strengths * sum(2 * 3 * width * height for width, height in sizes)
