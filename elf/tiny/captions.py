"""The captions that the base learns from, as tokens."""

from pathlib import Path

import numpy as np
from jaxtyping import Int16

from elf.tiny.data import BASE, SIZES, SQUARE, Size
from elf.tiny.tokens import clip_tokenizer
from elf.world.scene import LEAF_CROWN
from elf.world.words import prompt_caption, vocabulary

CAPTIONS = 4
"""Captions written for each picture; every training step picks one of them."""

CONTEXT = 77
"""Tokens of a caption, padding included."""

Tokens = Int16[np.ndarray, "pictures captions context"]


def write_captions(count: int, seed: int) -> list[str]:
    """`CAPTIONS` captions for each of the base's first `count` scenes, scene after scene."""
    random = np.random.default_rng((seed, 9))
    scenes = BASE.scenes(count)
    if any(scene.headwear == LEAF_CROWN for scene in scenes):
        raise ValueError("the base must never read of a leaf crown: see elf.tiny.data.BASE")
    return [prompt_caption(scene, random) for scene in scenes for _ in range(CAPTIONS)]


def caption_tokens(count: int, cache: str | Path | None = None) -> dict[Size, Tokens]:
    """Tokens for the pictures of `draw_splits(BASE, count)`, by size.

    Args:
        count: of square pictures.
        cache: a folder that keeps the arrays for the next call.
    """
    tokenizer = clip_tokenizer(vocabulary())
    tokens: dict[Size, Tokens] = {}
    for size in SIZES:
        number = count if size == SQUARE else count // 4
        path = Path(cache) / f"tokens-{number}-{size[0]}x{size[1]}.npy" if cache else None
        if path is not None and path.exists():
            tokens[size] = np.load(path)
            continue
        texts = write_captions(number, size[0] * size[1])
        ids = tokenizer(texts, padding="max_length", truncation=True, max_length=CONTEXT)
        tokens[size] = np.array(ids["input_ids"], np.int16).reshape(number, CAPTIONS, CONTEXT)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, tokens[size])
    return tokens
