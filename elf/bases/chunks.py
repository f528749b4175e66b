"""Captions longer than a text encoder reads, in chunks that it reads one by one.

A chunk is what CLIP takes at once: 75 tokens between a start and an end. The chunks' states stand
behind each other, each with its own start, end and padding, as AUTOMATIC1111's web UI and ComfyUI
give them to the denoiser (`sd_hijack_clip.py`, `sd1_clip.py`). kohya's scripts
(``max_token_length``) keep one start and one end of all.
"""

from collections.abc import Sequence

CHUNK = 75
"""Tokens of a caption that CLIP reads at once; with start and end it is 77."""

CAPTION_TOKENS = (CHUNK, 2 * CHUNK, 3 * CHUNK)
"""The lengths that a caption may have; kohya's."""

LOOK_BACK = 20
"""How many of a chunk's last tokens may move to the next, as in AUTOMATIC1111's web UI."""


def split(ids: Sequence[int], chunks: int, comma: int | None) -> list[list[int]]:
    """Return a caption's tokens in a fixed number of chunks, the last ones perhaps empty.

    A tag is not cut in two if a comma stands among the chunk's last `LOOK_BACK` tokens: the chunk
    then ends behind it. But no token is given up for that: where the rest would not fit into the
    chunks that are left, the chunk is filled. What does not fit even so is cut off.

    Args:
        ids: The caption's tokens, without start and end.
        chunks: How many there shall be.
        comma: The token of a comma; None if there is none.
    """
    found, rest = [], list(ids)
    for left in reversed(range(chunks)):
        end = _end(rest, left * CHUNK, comma)
        found.append(rest[:end])
        rest = rest[end:]
    return found


def _end(ids: Sequence[int], room: int, comma: int | None) -> int:
    """Return how many tokens the next chunk takes, if there is this much room behind it."""
    if len(ids) <= CHUNK or ids[CHUNK] == comma:  # the last tag is whole
        return CHUNK
    for end in range(CHUNK, CHUNK - LOOK_BACK, -1):
        if ids[end - 1] == comma:
            return end if len(ids) - end <= room else CHUNK
    return CHUNK
