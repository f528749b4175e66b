"""The parts of a base in diffusers' folder layout, on disk or on the hub."""

import contextlib
import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from elf.bases.families import Family, family_of_pipeline, refuse_channels, tokenizer_part
from elf.bases.weights import find_weights, read_json
from elf.errors import ElfError
from elf.files import sha256_file
from elf.pretrained import (
    expanded,
    load,
    model_folder,
    quiet_libraries,
    refuse_too_many_layers,
)
from elf.resources import find

INDEX = "model_index.json"


class FolderParts:
    """The parts of a pipeline's folder.

    Weights are read from safetensors alone: a pickled file of a stranger could run code.

    Args:
        name: A folder, or a hub name ``owner/name``.

    Raises:
        ElfError: If it is not there, not whole, or of another family.
    """

    def __init__(self, name: str) -> None:
        self._find(name)
        if _index_folder(name) != self.where:  # what was downloaded is of a newer version
            self._find(name)
        channels = self.config("unet").get("in_channels", 4)
        if not isinstance(channels, int):
            raise ElfError(
                f"base model: {self.where / 'unet' / 'config.json'} has in_channels "
                f"{str(channels)[:40]!r}, no whole number; download it again"
            )
        refuse_channels(channels, name)
        self.scheduler = self.config("scheduler")

    def _find(self, name: str) -> None:
        self.where = _index_folder(name)
        self.family = family_of_pipeline(_pipeline_class(self.where), name)
        model_folder(name, "base model", config_files(self.family))
        self._weights = {part: find_weights(name, self.where, part) for part in self.family.parts}

    def config(self, part: str) -> dict[str, Any]:
        """Return the configuration of a part."""
        return read_config(self.where, part)

    def network(self, part: str, cls: Any, dtype: torch.dtype) -> nn.Module:
        """Load a part by its class.

        Raises:
            ElfError: If its weights are damaged, or do not belong to its configuration.
        """
        weights = self._weights[part]
        model: nn.Module
        with quiet_libraries():
            model, info = load(
                cls.from_pretrained,
                self.where,
                f"base model ({part})",
                subfolder=part,
                dtype=dtype,
                use_safetensors=True,
                variant=weights.variant,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
        for name, found, wanted in sorted(info["mismatched_keys"]):
            raise ElfError(
                f"base model: {weights.files[0]} has {name} ({part}) of shape {tuple(found)}, not "
                f"{tuple(wanted)}; it does not belong to its config.json"
            )
        if missing := sorted(info["missing_keys"]):  # both libraries would go on with random ones
            raise ElfError(
                f"base model: {weights.files[0]} has no {missing[0]} ({part}; {len(missing)} "
                "missing); it is cut down, or does not belong to its config.json"
            )
        return model.eval()

    def tokenizer(self, encoder: str) -> Any:
        """Return the tokenizer of a text encoder."""
        return load_tokenizer(self.where, tokenizer_part(encoder))

    def fingerprint(self, part: str) -> str:
        """Return the sha256 of a part's weights; of several files, that of their hashes."""
        hashes = [sha256_file(path) for path in self._weights[part].files]
        if len(hashes) == 1:
            return hashes[0]
        return hashlib.sha256("".join(hashes).encode()).hexdigest()

    def settings(self, part: str) -> list[str]:
        """Return hashes of what decides a part's outputs beside its weights."""
        if part.startswith("tokenizer"):
            return tokenizer_hashes(self.where, part)
        return [sha256_file(self.where / part / "config.json")]


def config_files(family: Family) -> tuple[str, ...]:
    """Return the patterns of all that a family's folder needs but weights."""
    tokenizers = (f"{tokenizer_part(name)}/*" for name in family.text_encoders)
    configs = (f"{part}/config.json" for part in family.parts)
    return (INDEX, "scheduler/scheduler_config.json", *tokenizers, *configs)


def _index_folder(name: str) -> Path:
    try:
        return model_folder(name, "base model", (INDEX,))
    except ElfError:
        folder = expanded(find(name))
        files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
        if not files:
            raise
        if (folder / "config.json").is_file():
            raise ElfError(
                f"base model: {folder} is one network ({_architecture(folder)}), no base that "
                "makes pictures; name a folder with a model_index.json, or train a language model "
                "with configs/train/language-lora.yaml"
            ) from None
        raise ElfError(
            f"base model: {folder} has no {INDEX}, but single files; name one of them: {files[0]}"
        ) from None


def _architecture(folder: Path) -> str:
    known = read_json(folder / "config.json")
    return str((known.get("architectures") or [known.get("_class_name", "unknown")])[0])


def _pipeline_class(folder: Path) -> str:
    return str(read_json(folder / INDEX).get("_class_name"))


def read_config(folder: Path, part: str) -> dict[str, Any]:
    """Return the configuration of a part of a pipeline's folder.

    Raises:
        ElfError: If it is missing or damaged.
    """
    path = folder / part / f"{'scheduler_' * (part == 'scheduler')}config.json"
    config = read_json(path)
    refuse_too_many_layers(config, path, f"base model ({part})")  # a plan builds what it says, too
    return config


def load_tokenizer(folder: Path, part: str) -> Any:
    """Load a tokenizer of a pipeline's folder."""
    from transformers import CLIPTokenizer

    return load(CLIPTokenizer.from_pretrained, folder, f"base model ({part})", subfolder=part)


def tokenizer_hashes(folder: Path, part: str) -> list[str]:
    """Return the sha256 of each file of a tokenizer."""
    with contextlib.suppress(FileNotFoundError):
        return [sha256_file(p) for p in sorted((folder / part).iterdir()) if p.is_file()]
    raise ElfError(f"base model: no folder {folder / part}; is it the right folder?")
