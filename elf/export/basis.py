"""The base of an adapter, as far as an export needs it: names of its family, and frozen weights."""

from functools import cached_property
from pathlib import Path

from torch import Tensor

from elf.bases import Base, open_base
from elf.bases.checkpoint import part_of, without_ones
from elf.bases.ldm import Place
from elf.bases.stored import Stored, read_tensor
from elf.errors import ElfError
from elf.export.names import kohya_name
from elf.export.trained import Layer, Trained


class Basis:
    """The base that an adapter was trained on.

    Args:
        name: Folder, hub name or file.
        trained: The adapter.

    Raises:
        ElfError: If there is no such base, or it is not the one of the training.
    """

    def __init__(self, name: str, trained: Trained) -> None:
        self.base: Base = open_base(name, *trained.base_options.values())
        trained.refuse_other_base(self.base, "base")
        self.stored = Stored(self.base)

    @cached_property
    def _unet_config(self) -> dict[str, object]:
        return self.base.config("unet")

    def kohya_name(self, layer: Layer) -> str:
        """Return what kohya's form calls a layer."""
        return kohya_name(layer.part, layer.name, self.base.family, self._unet_config)

    def place(self, layer: Layer) -> tuple[Path, Place]:
        """Return the file that holds a layer's frozen weight, and where.

        Raises:
            ElfError: If the base has no such layer.
        """
        found = self.stored.place(layer.part, f"{layer.name}.weight")
        if found is None:
            raise ElfError(f"base: {self.base.name} has no layer {layer.label}")
        return found

    def weight(self, layer: Layer) -> Tensor:
        """Read a layer's frozen weight (out, in, *k), in float32; no other is read.

        Raises:
            ElfError: If the base has no such layer, or it has another shape.
        """
        path, place = self.place(layer)
        weight = part_of(read_tensor(path, place.key), place)
        if without_ones(weight.shape) != without_ones(layer.shape):
            raise ElfError(
                f"base: {layer.label} of {self.base.name} is {list(weight.shape)}, and the "
                f"adapter's {list(layer.shape)}; is it of another base?"
            )
        return weight.reshape(layer.shape).float()
