"""The parts of a base in one ``.safetensors`` file, in the key layout of the original code."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from elf.bases.configs import CONFIGS
from elf.bases.detect import detect, old_names
from elf.bases.families import tokenizer_part
from elf.bases.folder import load_tokenizer, read_config, tokenizer_hashes
from elf.bases.header import Header
from elf.bases.ldm import Place, places, prefix
from elf.bases.tokenizers import clip_tokenizer, clip_vocabulary
from elf.errors import ElfError


class CheckpointParts:
    """The parts of a single-file checkpoint; what it does not hold, Elf knows or is given.

    Args:
        path: The file.
        configs: A folder of configurations and tokenizers in diffusers' layout, for a file whose
            networks are not the usual ones.

    Raises:
        ElfError: If the file is missing, damaged, not whole, or of another family.
    """

    def __init__(self, path: Path, configs: Path | None = None) -> None:
        self.where = path
        self._header = Header.read(path)
        self._configs = configs
        detected = detect(self._header)
        self.family = detected.family
        # The keys of the file by the usual names.
        self._keys = {old_names(key): key for key in self._header.shapes}
        schedule = dict(self.config("scheduler"))
        if detected.prediction_type is not None:
            schedule["prediction_type"] = detected.prediction_type
        if detected.zero_terminal_snr is not None:
            schedule["rescale_betas_zero_snr"] = detected.zero_terminal_snr
        self.scheduler = schedule

    def config(self, part: str) -> dict[str, Any]:
        """Return the configuration of a part."""
        if self._configs is not None:
            return read_config(self._configs, part)
        return CONFIGS[self.family.name][part]

    def network(self, part: str, cls: Any, dtype: torch.dtype) -> nn.Module:
        """Load a part by its class.

        Raises:
            ElfError: If a tensor is missing or has another shape than the part's configuration.
        """
        model = empty(cls, self.config(part))
        shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        found = places(self.family.name, part, shapes, self.config(part))
        state = self._read(found, shapes, part, dtype)
        model.load_state_dict(state, assign=True)
        network: nn.Module = model.eval()
        return network

    def _read(
        self,
        found: Mapping[str, Place],
        shapes: Mapping[str, tuple[int, ...]],
        part: str,
        dtype: torch.dtype,
    ) -> dict[str, Tensor]:
        from safetensors import safe_open

        state = {}
        with safe_open(self.where, framework="pt") as file:
            for name, place in found.items():
                key = self._keys.get(place.key)
                if key is None:
                    raise ElfError(
                        f"base model: {self.where} has no {place.key} ({part}); it is cut down, "
                        "or of another architecture than it seems"
                    )
                tensor = part_of(file.get_tensor(key), place)
                if without_ones(tensor.shape) != without_ones(shapes[name]):
                    raise ElfError(
                        f"base model: {self.where} has {place.key} ({part}) of shape "
                        f"{tuple(tensor.shape)}, not {shapes[name]}; it is of another architecture "
                        "than it seems"
                    )
                # 1×1 convolutions are matrices here and there
                state[name] = tensor.reshape(shapes[name]).to(dtype).contiguous()
        return state

    def tokenizer(self, encoder: str) -> Any:
        """Return the tokenizer of a text encoder."""
        if self._configs is not None:
            return load_tokenizer(self._configs, tokenizer_part(encoder))
        return clip_tokenizer(encoder)

    def fingerprint(self, part: str) -> str:
        """Return the sha256 of a part's tensors, whatever else is in the file."""
        start = prefix(self.family.name, part)
        return self._header.sha256(name for name in self._header.shapes if name.startswith(start))

    def settings(self, part: str) -> list[str]:
        """Return hashes of what decides a part's outputs beside its weights."""
        if not part.startswith("tokenizer"):
            return [_hash(self.config(part))]
        if self._configs is not None:
            return tokenizer_hashes(self._configs, part)
        vocabulary, _ = clip_vocabulary()
        return [_hash([sorted(vocabulary), part])]


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def empty(cls: Any, config: dict[str, Any]) -> Any:
    """Return a network whose weights take no memory yet; its buffers are real."""
    from accelerate import init_empty_weights

    with init_empty_weights():
        if hasattr(cls, "config_class"):  # of transformers
            return cls(cls.config_class(**config))
        return cls.from_config(config)


def part_of(tensor: Tensor, place: Place) -> Tensor:
    """Return what lies in a place of a single file's tensor."""
    if place.transposed:
        tensor = tensor.T
    return tensor if place.third is None else tensor.chunk(3)[place.third]


def without_ones(shape: Sequence[int]) -> list[int]:
    """Return a shape without sides of 1, which a matrix and a 1×1 convolution differ in."""
    return [side for side in shape if side != 1]
