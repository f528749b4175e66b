"""An embedder by the name of its kind."""

from collections.abc import Callable, Mapping
from typing import Literal, overload

import torch

from elf.embedders.clip import CLIPEmbedder
from elf.embedders.copies import CopyEmbedder
from elf.embedders.dino import DinoEmbedder
from elf.embedders.interface import Kind, PictureEmbedder
from elf.embedders.tagger import TaggerEmbedder
from elf.errors import ElfError

KINDS: Mapping[Kind, Callable[[str, torch.device], PictureEmbedder]] = {
    "clip": CLIPEmbedder,
    "dino": DinoEmbedder,
    "copy": CopyEmbedder,
    "tagger": TaggerEmbedder,
}


@overload
def make_embedder(kind: Literal["clip"], name: str, device: torch.device) -> CLIPEmbedder: ...


@overload
def make_embedder(kind: Kind, name: str, device: torch.device) -> PictureEmbedder: ...


def make_embedder(kind: Kind, name: str, device: torch.device) -> PictureEmbedder:
    """Return an embedder with its weights on a device; CLIP's embeds texts, too.

    Args:
        kind: What the embeddings are to be good for.
        name: Of the weights: a folder, a hub name, or for ``copy`` a file.
        device: Where it runs.

    Raises:
        ElfError: If the kind is unknown; if weights are missing, with what is needed and how to
            get it, for a row that says why it was skipped.
    """
    if kind not in KINDS:
        raise ElfError(f"embedder: no kind {kind!r}; choose one of {', '.join(KINDS)}")
    return KINDS[kind](name, device)
