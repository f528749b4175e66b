"""What every embedder is: pictures in, one row of float32 for each out.

An embedding is worth keeping only under a name that says all that it was made with: the
``fingerprint``.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from jaxtyping import Float32
from PIL import Image

from elf.checked import canonical
from elf.errors import ElfError
from elf.files import sha256_file
from elf.pretrained import is_local, model_folder
from elf.resources import find

Kind = Literal["clip", "dino", "copy", "tagger", "tags"]

VERSION = 1
"""Of this package's code; changes whenever the embedding of a picture changes."""


class PictureEmbedder(Protocol):
    """Turns pictures into embeddings that can be compared; CLIP has ``texts``, too.

    Attributes:
        kind: What the embeddings are good for: ``clip`` for pictures against texts, ``dino`` for
            likeness of a subject, ``copy`` for copies of a training picture, ``tagger`` for what
            a tagger sees; ``tags`` are its probabilities.
        name: Of the weights, as it was given.
    """

    kind: Kind
    name: str

    @property
    def fingerprint(self) -> str:
        """What the embeddings were made with, 64 hex digits: weights, preprocessing, code.

        The device is no part of it: a GPU's float32 differs from a CPU's by rounding, where its
        convolutions run in TF32 (torch's default) by about a thousandth.
        """

    def pictures(
        self, pictures: list[Image.Image], names: Sequence[str] = ()
    ) -> Float32[np.ndarray, "N D"]:
        """Return one embedding for each picture.

        Args:
            pictures: Upright, of any size.
            names: Of the pictures, for messages; they are counted by default.

        Raises:
            ElfError: If an embedding is not finite.
        """


def fingerprint(kind: Kind, files: Iterable[Path], *facts: object) -> str:
    """Return the sha256 of what decides an embedding.

    Args:
        kind: Of the embedder.
        files: Weights and what says how they are to be run; their names play no part.
        facts: What else decides: the preprocessing, the number format.
    """
    digests = sorted(sha256_file(path) for path in files)
    return hashlib.sha256(canonical([VERSION, kind, digests, *facts])).hexdigest()


def require_finite(
    rows: Float32[np.ndarray, "N D"], what: str, names: Sequence[str] = (), first: int = 0
) -> None:
    """Refuse embeddings that hold a NaN or an infinity: they would spoil every mean silently.

    Args:
        rows: Of successive pictures.
        what: The model, for the message.
        names: Of all the pictures.
        first: Which picture the first row belongs to.

    Raises:
        ElfError: With the model and the first such picture.
    """
    spoilt = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(spoilt):
        at = first + int(spoilt[0])
        picture = names[at] if names else f"picture {at + 1}"
        raise ElfError(
            f"{what} gives values that are not finite (NaN or infinite) for {picture}; its weights "
            "are damaged or overflow: fetch them again, or take another model"
        )


def weights_folder(
    name: str, what: str, needed: tuple[str, ...], optional: tuple[str, ...], size: str
) -> Path:
    """Return the folder of a model; where it is missing, say what is needed and how to get it.

    Args:
        name: A folder or a hub name.
        what: What the model is to the user.
        needed: Patterns of the files that are needed.
        optional: Patterns of files that are downloaded too if they are there.
        size: A model that would do and its size, such as ``facebook/dinov2-base (0.35 GB)``.

    Raises:
        ElfError: If it is not there and cannot be downloaded.
    """
    try:
        return model_folder(name, what, needed, optional)
    except ElfError as error:
        raise ElfError(f"{error}; {what_is_needed(name, ', '.join(needed), size)}") from None


def what_is_needed(name: str, needed: str, size: str) -> str:
    """Return the end of a message about missing weights: files, a model and its size, a command.

    Args:
        name: That was given; for a hub name the message has a command already.
        needed: The files.
        size: A model that would do and its size.
    """
    example = size.split()[0]
    command = f": `hf download {example} --local-dir models/{example}`"
    return f"needed: {needed}, as in {size}{command if is_local(find(name)) else ''}"
