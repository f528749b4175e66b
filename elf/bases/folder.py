"""The parts of a base in diffusers' folder layout, on disk or on the hub."""

import contextlib
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from elf.bases.families import Family, family_of_pipeline, refuse_channels, tokenizer_part
from elf.errors import ElfError
from elf.files import sha256_file
from elf.pretrained import expanded, is_local, load, model_folder
from elf.resources import find

INDEX = "model_index.json"
# Variants of weights, best first: those without a name are the full ones.
_VARIANTS = (None, "fp16")


@dataclass(frozen=True)
class Weights:
    """The files of a part's weights, and the name of their variant, if they have one."""

    files: tuple[Path, ...]
    variant: str | None


class FolderParts:
    """The parts of a pipeline's folder.

    Weights are read from safetensors alone: a pickled file of a stranger could run code.

    Args:
        name: A folder, or a hub name ``owner/name``.

    Raises:
        ElfError: If it is not there, not whole, or of another family.
    """

    def __init__(self, name: str) -> None:
        self.where = _index_folder(name)
        self.family = family_of_pipeline(_pipeline_class(self.where), name)
        model_folder(name, "base model", config_files(self.family))
        self._weights = {part: find_weights(name, self.where, part) for part in self.family.parts}
        refuse_channels(int(self.config("unet").get("in_channels", 4)), name)
        self.scheduler = self.config("scheduler")

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
        model, info = load(
            cls.from_pretrained,
            self.where,
            f"base model ({part})",
            subfolder=part,
            dtype=dtype,
            use_safetensors=True,
            variant=weights.variant,
            output_loading_info=True,
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
        raise ElfError(
            f"base model: {folder} has no {INDEX}, but single files; name one of them: {files[0]}"
        ) from None


def _pipeline_class(folder: Path) -> str:
    return str(_json(folder / INDEX).get("_class_name"))


def read_config(folder: Path, part: str) -> dict[str, Any]:
    """Return the configuration of a part of a pipeline's folder.

    Raises:
        ElfError: If it is missing or damaged.
    """
    return _json(folder / part / f"{'scheduler_' * (part == 'scheduler')}config.json")


def _json(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ElfError(f"base model: no file {path}; is it the right folder?") from None
    except (OSError, ValueError):
        config = None
    if not isinstance(config, dict):
        raise ElfError(f"base model: {path} is damaged; download it again")
    return config


def find_weights(name: str, folder: Path, part: str) -> Weights:
    """Return the weights of a part, from the hub if they are not in the folder yet.

    The full ones before a half-precision variant; in one file or in several.

    Args:
        name: The base, a folder or a hub name.
        folder: Where it is on this machine.
        part: The part.

    Raises:
        ElfError: If there are none.
    """
    first: ElfError | None = None
    layouts = [] if is_local(find(name)) else _layouts(part)
    while (found := _present(folder / part)) is None and layouts:
        file, *shards = layouts.pop(0)
        try:
            model_folder(name, "base model", (file,), shards)
        except ElfError as error:  # the hub has no such file, or is out of reach
            first = first or error
    if found is not None:
        return found
    pickled = sorted((folder / part).glob("*.bin"))
    if pickled:
        raise ElfError(
            f"base model: {pickled[0]} is a pickle, which can run code when it is read, and there "
            "is no safetensors file beside it; take a version of the base that has one"
        )
    file = f"{part}/{_file(part, None)}"
    raise first or ElfError(f"base model: {folder} has no {file}; is it the right folder?")


def _file(part: str, variant: str | None) -> str:
    stem = "model" if part.startswith("text_encoder") else "diffusion_pytorch_model"
    return f"{stem}.{variant}.safetensors" if variant else f"{stem}.safetensors"


def _shard_index(part: str, variant: str | None) -> str:
    index = f"{_file(part, None)}.index.json"
    return index.replace(".json", f".{variant}.json") if variant else index


def _layouts(part: str) -> list[list[str]]:
    """Return what to ask the hub for: a file, and patterns of what it is nothing without."""
    layouts = []
    for variant in _VARIANTS:
        stem = _file(part, variant).removesuffix(".safetensors")
        layouts.append([f"{part}/{stem}.safetensors"])
        layouts.append(
            [f"{part}/{_shard_index(part, variant)}", f"{part}/{stem}-*-of-*.safetensors"]
        )
    return layouts


def _present(folder: Path) -> Weights | None:
    for variant in _VARIANTS:
        single = folder / _file(folder.name, variant)
        if single.is_file():
            return Weights((single,), variant)
        index = folder / _shard_index(folder.name, variant)
        if index.is_file():
            shards = sorted(set(_json(index).get("weight_map", {}).values()))
            files = tuple(folder / shard for shard in shards)
            if files and all(path.is_file() for path in files):
                return Weights(files, variant)
    return None


def load_tokenizer(folder: Path, part: str) -> Any:
    """Load a tokenizer of a pipeline's folder."""
    from transformers import CLIPTokenizer

    return load(CLIPTokenizer.from_pretrained, folder, f"base model ({part})", subfolder=part)


def tokenizer_hashes(folder: Path, part: str) -> list[str]:
    """Return the sha256 of each file of a tokenizer."""
    with contextlib.suppress(FileNotFoundError):
        return [sha256_file(p) for p in sorted((folder / part).iterdir()) if p.is_file()]
    raise ElfError(f"base model: no folder {folder / part}; is it the right folder?")
