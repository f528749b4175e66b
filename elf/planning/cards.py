"""Graphics cards: how much memory, how fast.

The figures are the vendor's, dense, at boost clock, as common lists of cards have them. GeForce
cards multiply 16-bit matrices at half their advertised rate when they sum up in 32 bit, as training
does: from Ampere on that is twice their rate in 32 bit.
"""

import difflib
import re
from typing import NamedTuple

import torch

from elf.errors import ElfError


class Card(NamedTuple):
    """A graphics card.

    Attributes:
        name: As in the table.
        memory: GiB.
        half: TFLOP/s of products of 16-bit matrices, summed up in 32 bit.
        single: TFLOP/s in 32 bit.
        bandwidth: GB/s of its memory.
    """

    name: str
    memory: float
    half: float
    single: float
    bandwidth: float


CARDS = [
    Card("Tesla T4", 16, 65, 8.1, 320),
    Card("RTX 2080 Ti", 11, 53.8, 13.4, 616),
    Card("RTX 3060", 12, 25.5, 12.7, 360),
    Card("RTX 3060 Ti", 8, 32.4, 16.2, 448),
    Card("RTX 3070", 8, 40.6, 20.3, 448),
    Card("RTX 3080", 10, 59.5, 29.8, 760),
    Card("RTX 3090", 24, 71, 35.6, 936),
    Card("RTX 4060", 8, 30.2, 15.1, 272),
    Card("RTX 4060 Ti", 8, 44.1, 22.1, 288),
    Card("RTX 4070", 12, 58.3, 29.1, 504),
    Card("RTX 4080", 16, 97.5, 48.7, 717),
    Card("RTX 4090", 24, 165, 82.6, 1008),
    Card("RTX 5070", 12, 61.7, 30.9, 672),
    Card("RTX 5080", 16, 112.6, 56.3, 960),
    Card("RTX 5090", 32, 209.5, 104.8, 1792),
    Card("RTX A6000", 48, 154.8, 38.7, 768),
    Card("V100 16GB", 16, 125, 15.7, 900),
    Card("V100 32GB", 32, 125, 15.7, 900),
    Card("A10", 24, 125, 31.2, 600),
    Card("A100 40GB", 40, 312, 19.5, 1555),
    Card("A100 80GB", 80, 312, 19.5, 2039),
    Card("L4", 24, 121, 30.3, 300),
    Card("L40S", 48, 362, 91.6, 864),
    Card("H100 80GB", 80, 989, 67, 3350),
    Card("H200", 140, 989, 67, 4800),
]

USABLE = 0.9
"""Of a named card's memory, what driver, CUDA's own context and a desktop leave: of 8 GiB 7.2."""

_NOISE = {"nvidia", "geforce", "tesla", "rtx", "gtx", "gb", "gpu", "sxm", "hbm", "vram"}
_VARIANTS = {"ti", "super", "laptop", "mobile", "max", "pcie", "nvl", "d", "ada", "mig"}
"""Words that make another card of one."""


def _words(name: str) -> set[str]:
    return set(re.findall(r"[a-z]+|\d+", name.lower())) - _NOISE


def _matching(name: str) -> Card | None:
    """Return the card that a name means, with whatever a driver adds to it."""
    words = _words(name)
    found = [
        card
        for card in CARDS
        if _words(card.name) <= words and words & _VARIANTS == _words(card.name) & _VARIANTS
    ]
    return max(found, key=lambda card: len(_words(card.name)), default=None)


def find_card(name: str) -> Card:
    """Return the card of a name, ``RTX 3060 Ti`` or ``3060ti`` alike.

    Raises:
        ElfError: If none is called so, with those that are nearly.
    """
    if (card := _matching(name)) is not None:
        return card
    names = {card.name.lower(): card.name for card in CARDS}
    near = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.4)
    digits = set(re.findall(r"\d+", name))
    near += [key for key in names if digits & set(re.findall(r"\d+", key)) and key not in near]
    hint = ", ".join(names[key] for key in near[:4]) or ", ".join(names.values())
    raise ElfError(f"--gpu: no card {name!r} is known; known by that name or nearly: {hint}")


def card_at_hand() -> tuple[str, Card | None, int] | None:
    """Return the name, the figures if they are known, and the free bytes of the GPU at hand."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return name, _matching(name), torch.cuda.mem_get_info()[0]
