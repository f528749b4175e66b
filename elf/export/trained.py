"""What was trained, layer by layer, as files of any form need it.

Shapes: out and in are a layer's channels, k the sides of its kernel (none of a linear layer), r the
rank, n the norms of DoRA, which are out or in by its axis.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from elf import adapters
from elf.adapters import AdapterConfig, Part, dora
from elf.adapters.files import A_KEY, B_KEY, adapted_names
from elf.adapters.presets import LANGUAGE_MODEL
from elf.adapters.targets import layer_values
from elf.bases import Base
from elf.errors import ElfError
from elf.export.reading import read_adapter, read_origin
from elf.export.tensors import refuse_useless
from elf.training.checkpoints import weights_hash


@dataclass(frozen=True)
class Layer:
    """An adapted layer: W' = W + s B A, or for DoRA g ⊙ (W + s B A).

    Attributes:
        part: Its network.
        name: Its name there, without the level ``text_model`` that not all versions have.
        a: A (r, in, *k).
        b: B (out, r).
        scale: s.
        magnitude: DoRA's m (n,); None is a LoRA.
        axis: Of DoRA's norms.
    """

    part: Part
    name: str
    a: Float[Tensor, "r in *k"]
    b: Float[Tensor, "out r"]
    scale: float
    magnitude: Float[Tensor, " n"] | None = None
    axis: dora.Axis = "output"

    @property
    def label(self) -> str:
        """Its name in the pipeline."""
        return f"{self.part}.{self.name}"

    @property
    def rank(self) -> int:
        """r, the rows of A."""
        return len(self.a)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of its weight, (out, in, *k)."""
        return len(self.b), *self.a.shape[1:]

    @property
    def update(self) -> Float[Tensor, "out in *k"]:
        """S B A, what is added before DoRA's gain."""
        flat = self.scale * (self.b @ self.a.flatten(1))
        return flat.view(self.shape)

    def changed(self, weight: Float[Tensor, "out in *k"]) -> Float[Tensor, "out in *k"]:
        """Return W'."""
        merged = weight.float() + self.update
        if self.magnitude is None:
            return merged
        norm = dora.norm_squared(merged, self.axis).sqrt()
        shape = [1] * merged.dim()
        shape[0 if self.axis == "output" else 1] = -1
        return merged * torch.where(norm > 0, self.magnitude / norm, 0).view(shape)


@dataclass(frozen=True)
class Trained:
    """An adapter, and what its run said of its base.

    Attributes:
        path: Where it was read.
        config: What was trained.
        state: Its tensors by ``{part}.{name in files}``.
        base_options: ``prediction_type`` and others, by the names that `open_base` has for them.
        base_sha256: Of the UNet; None if the file does not say.
    """

    path: Path
    config: AdapterConfig
    state: Mapping[str, Tensor]
    base_options: Mapping[str, Any]
    base_sha256: str | None

    @property
    def title(self) -> str:
        """What a file of it is called: the run's folder or the file, without its ending."""
        return self.path.absolute().name if self.path.is_dir() else self.path.stem

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 of all that the adapter does to its base."""
        described = json.dumps(adapters.describe(self.config)) + weights_hash(self.state)
        return hashlib.sha256(described.encode()).hexdigest()

    def refuse_other_base(self, base: Base, adapter_key: str, base_key: str = "") -> None:
        """Refuse to be put into another base than that of the training; none is hashed in vain.

        Args:
            base: The base.
            adapter_key: What the adapter is called in messages.
            base_key: What the base is.

        Raises:
            ElfError: If the run says that it was trained on another UNet.
        """
        if self.base_sha256 is None or self.base_sha256 == (found := base.fingerprint("unet")):
            return
        raise ElfError(
            f"{adapter_key}: {self.path} was trained on the UNet {self.base_sha256[:12]}…, and "
            f"{base_key}{base.name} has {found[:12]}…; name the base of its run"
        )

    @property
    def of_language(self) -> bool:
        """Whether it is of a language model."""
        return any(key.startswith(f"{LANGUAGE_MODEL}.") for key in self.state)

    def refuse_other_language(self, fingerprint: str, name: str, key: str = "base") -> None:
        """Refuse to be put into another language model than that of the training.

        Args:
            fingerprint: Of its weights.
            name: What it is called.
            key: What the adapter is called in messages.

        Raises:
            ElfError: If it is of pictures, or was trained on another.
        """
        if not self.of_language:
            raise ElfError(
                f"{key}: {self.path} is of a model that makes pictures, and {name} makes text"
            )
        if self.base_sha256 not in (None, fingerprint):
            raise ElfError(
                f"{key}: {self.path} was trained on the model {self.base_sha256[:12]}…, and {name} "
                f"is {fingerprint[:12]}…; name the base of its run"
            )

    @cached_property
    def layers(self) -> list[Layer]:
        """All of them, with plain updates: what began away from zero has twice the rank."""
        found = []
        for part, state in adapters.by_part(self.state).items():
            plain = adapters.without_initial(state)
            for name, values in layer_values(self.config, adapted_names(state), part).items():
                magnitude = state.get(f"{name}.lora_magnitude_vector.weight")
                found.append(
                    Layer(
                        part,
                        name,
                        plain[name + A_KEY].float(),
                        plain[name + B_KEY].float().flatten(1),
                        self.config.scaling(values.rank, values.alpha),
                        None if magnitude is None else magnitude.float().flatten(),
                        self.config.axis,
                    )
                )
        return found


def read_trained(path: str | Path, base: str | None = None) -> Trained:
    """Read an adapter that is to be used: written in another form, served, trained on.

    Args:
        path: A run's folder, a checkpoint, or a file of diffusers' or of kohya's form.
        base: Whose layers a file in kohya's form is of.

    Raises:
        ElfError: If it is none of these, not finite, or changes nothing.
    """
    trained = read_any(path, base)
    refuse_useless(trained.state, path)
    return trained


def read_any(path: str | Path, base: str | None = None) -> Trained:
    """Read an adapter as it is, though it may change nothing.

    Raises:
        ElfError: If it is none.
    """
    config, state = read_adapter(path, base)
    options, sha256 = read_origin(path)
    return Trained(Path(path), config, state, options, sha256)
