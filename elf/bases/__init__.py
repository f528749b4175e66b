"""Base models: Stable Diffusion 1.5 and XL, from a folder, the hub or a single file.

`open_base` finds a base and says what it is; `Base` hands out its parts, each loaded when it is
asked for. A reader starts at `families`, the table of what is supported.
"""

from elf.bases.base import Base, open_base
from elf.bases.conditions import added_time_ids
from elf.bases.encoder import LatentEncoder
from elf.bases.families import FAMILIES, Family, FamilyName
from elf.bases.text import count_cut, encode_text, encode_tokens, tokenize

__all__ = [
    "FAMILIES",
    "Base",
    "Family",
    "FamilyName",
    "LatentEncoder",
    "added_time_ids",
    "count_cut",
    "encode_text",
    "encode_tokens",
    "open_base",
    "tokenize",
]
