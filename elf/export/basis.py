"""The base of an adapter, as far as an export needs it: names of its family, and frozen weights."""

from functools import cached_property

import torch
from torch import Tensor, nn

from elf.adapters import Part
from elf.adapters.factored import frozen_weight
from elf.adapters.presets import canonical
from elf.bases import Base, open_base
from elf.errors import ElfError
from elf.export.names import kohya_name
from elf.export.trained import Layer, Trained


class Basis:
    """The base that an adapter was trained on.

    Args:
        name: Folder, hub name or file.
        trained: The adapter.
        whole: With all layers of a text encoder, though the training left out its last ones.

    Raises:
        ElfError: If there is no such base, or it is not the one of the training.
    """

    def __init__(self, name: str, trained: Trained, whole: bool = False) -> None:
        options = dict(trained.base_options)
        if whole and options:
            options["clip_skip"] = None
        self.base: Base = open_base(name, *options.values())
        trained.refuse_other_base(self.base, "base")
        self._networks: dict[Part, dict[str, nn.Module]] = {}

    @cached_property
    def _unet_config(self) -> dict[str, object]:
        return self.base.config("unet")

    def kohya_name(self, layer: Layer) -> str:
        """Return what kohya's form calls a layer."""
        return kohya_name(layer.part, layer.name, self.base.family, self._unet_config)

    def network(self, part: Part) -> nn.Module:
        """Load a network in float32."""
        if part == "unet":
            return self.base.unet(torch.float32)
        return self.base.text_encoder(part, torch.float32)

    def weight(self, layer: Layer) -> Tensor:
        """Return a layer's frozen weight, in float32.

        Raises:
            ElfError: If the base has no such layer.
        """
        if layer.part not in self._networks:
            named = self.network(layer.part).named_modules()
            self._networks[layer.part] = {canonical(name): module for name, module in named}
        module = self._networks[layer.part].get(layer.name)
        if module is None:
            raise ElfError(f"base: {self.base.name} has no layer {layer.label}")
        return frozen_weight(module).detach().float()
