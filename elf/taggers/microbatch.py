"""What every tagger is: pictures in, probabilities out, in parts that fit the memory."""

import warnings
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from elf.errors import ElfError, ElfWarning
from elf.memory import is_out_of_memory
from elf.taggers.tags import TagList

Outputs = Float32[np.ndarray, "batch outputs"]

UNLIMITED = 1 << 30
"""Pictures at once where nothing is known of the memory."""


class Tagger(ABC):
    """Scores of every tag of a list, as probabilities.

    Attributes:
        path: The weights' file, for messages.
        tags: The tag list.
        provider: What the network really runs on, for the manifest.
        micro_batch: Pictures that are run at once at most; halved whenever memory runs out.
    """

    path: Path
    tags: TagList
    provider: str
    micro_batch: int = UNLIMITED

    @abstractmethod
    def _describe(self, pixels: UInt8[np.ndarray, "..."]) -> tuple[Outputs, Outputs | None]:
        """Return the probabilities, and embeddings if there are any, of pictures run at once."""

    def _at_once(self, count: int) -> int:
        """Return how many pictures are really run for so many."""
        return count

    def _make_room(self) -> None:  # noqa: B027  # nothing by default
        """Give back memory that is held without need; called when it ran out."""

    def score(
        self, pixels: UInt8[np.ndarray, "batch size size 3"]
    ) -> Float32[np.ndarray, "batch tags"]:
        """Return the probability of each tag for RGB pictures.

        Raises:
            ElfError: If the outputs are no probabilities of the list's tags.
        """
        return self.describe(pixels)[0]

    def describe(
        self, pixels: UInt8[np.ndarray, "batch size size 3"]
    ) -> tuple[Float32[np.ndarray, "batch tags"], Float32[np.ndarray, "batch features"] | None]:
        """Return the probability of each tag, and an embedding if the network has one.

        Raises:
            ElfError: If the outputs are no probabilities of the list's tags, or if the memory does
                not suffice for one picture.
        """
        parts: list[tuple[Outputs, Outputs | None]] = []
        at = 0
        while at < len(pixels):
            part = pixels[at : at + self.micro_batch]
            output = self._try(part)
            if output is None:
                self._halve(self._at_once(len(part)))
            else:
                parts.append(output)
                at += len(part)
        scores = np.concatenate([scores for scores, _ in parts])
        embeddings = [features for _, features in parts if features is not None]
        if scores.shape != (len(pixels), len(self.tags)):
            raise ElfError(
                f"{self.path}: gives {scores.shape[-1]} scores for the {len(self.tags)} tags of "
                "selected_tags.csv; the two files do not belong together"
            )
        if not (np.isfinite(scores).all() and scores.min() >= 0 and scores.max() <= 1):
            raise ElfError(f"{self.path}: its outputs are no probabilities between 0 and 1")
        return scores, np.concatenate(embeddings) if embeddings else None

    def _try(self, pixels: UInt8[np.ndarray, "..."]) -> tuple[Outputs, Outputs | None] | None:
        """Return the outputs; None if memory ran out, and then no traceback holds any of it."""
        try:
            return self._describe(pixels)
        except Exception as error:  # onnxruntime's own classes have no common base but this
            if not is_out_of_memory(error):
                raise
            return None

    def _halve(self, count: int) -> None:
        if count == 1:
            raise ElfError(
                f"{self.path}: not enough memory for a single picture on {self.provider}; "
                "free some, or take the CPU (--model.wd.provider cpu)"
            )
        self._make_room()
        self.micro_batch = count // 2
        warnings.warn(
            f"out of memory with {count} pictures at once; going on with {self.micro_batch}",
            ElfWarning,
            stacklevel=4,
        )


def fitting_batch(free: int, picture: int) -> int:
    """Return how many pictures fit: the largest power of two for half of the free memory.

    Args:
        free: Bytes.
        picture: Bytes that one more picture takes at the peak.
    """
    pictures = max(1, free // 2 // max(1, picture))
    return 1 << (pictures.bit_length() - 1)


def free_memory(device: str) -> int:
    """Return the free bytes of a CUDA device."""
    import torch

    return int(torch.cuda.mem_get_info(torch.device(device))[0])
