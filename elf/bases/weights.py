"""Which files hold the weights of a part of a pipeline's folder, on disk or on the hub."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elf.errors import ElfError
from elf.pretrained import is_local, model_folder
from elf.resources import find

# Of weights, best first: those without a name are the full ones.
VARIANTS = (None, "fp16")


@dataclass(frozen=True)
class Weights:
    """The files of a part's weights, and the name of their variant, if they have one.

    Of several files there is an index.
    """

    files: tuple[Path, ...]
    variant: str | None
    index: Path | None = None


def find_weights(name: str, folder: Path, part: str) -> Weights:
    """Return the weights of a part, from the hub if they are not in the folder yet.

    The full ones before a half-precision variant; in one file or in several, as diffusers writes
    what is larger than 10 GB (SDXL's UNet in float32 is).

    Args:
        name: The base, a folder or a hub name.
        folder: Where it is on this machine.
        part: The part.

    Raises:
        ElfError: If there are none.
    """
    found = _present(folder / part)
    failed: ElfError | None = None
    if found is None and not is_local(find(name)):
        found, failed = _download(name, part)
    if found is not None:
        return found
    pickled = sorted((folder / part).glob("*.bin"))
    if pickled:
        raise ElfError(
            f"base model: {pickled[0]} is a pickle, which can run code when it is read, and there "
            "is no safetensors file beside it; take a version of the base that has one"
        )
    file = f"{part}/{_file(part, None)}"
    raise failed or ElfError(f"base model: {folder} has no {file}; is it the right folder?")


def _download(name: str, part: str) -> tuple[Weights | None, ElfError | None]:
    """Ask the hub for each way in which weights may be stored; return the first answer."""
    failed: ElfError | None = None
    for variant in VARIANTS:
        for file in (_file(part, variant), _index(part, variant)):
            try:
                folder = model_folder(name, "base model", (f"{part}/{file}",))
                if file.endswith(".json"):
                    shards = [f"{part}/{shard}" for shard in _shards(folder / part / file)]
                    folder = model_folder(name, "base model", shards)
            except ElfError as error:  # the hub has no such file, or is out of reach
                failed = failed or error
                continue
            return _present(folder / part), failed
    return None, failed


def _present(folder: Path) -> Weights | None:
    for variant in VARIANTS:
        single = folder / _file(folder.name, variant)
        if single.is_file():
            return Weights((single,), variant)
        index = folder / _index(folder.name, variant)
        if index.is_file():
            files = tuple(folder / shard for shard in _shards(index))
            if files and all(path.is_file() for path in files):
                return Weights(files, variant, index)
    return None


def _file(part: str, variant: str | None) -> str:
    stem = "model" if part.startswith("text_encoder") else "diffusion_pytorch_model"
    return f"{stem}.{variant}.safetensors" if variant else f"{stem}.safetensors"


def _index(part: str, variant: str | None) -> str:
    index = f"{_file(part, None)}.index.json"
    return index.replace(".json", f".{variant}.json") if variant else index


def _shards(index: Path) -> list[str]:
    """Return the names of the files beside an index in which weights are.

    Raises:
        ElfError: If it names none, or one elsewhere.
    """
    found = read_json(index).get("weight_map")
    names = list(found.values()) if isinstance(found, dict) else []
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise ElfError(f"base model: {index} is damaged: its weight_map names no files beside it")
    return sorted(set(names))


def read_json(path: Path) -> dict[str, Any]:
    """Return what a JSON file of a base holds.

    Raises:
        ElfError: If it is missing or damaged.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ElfError(f"base model: no file {path}; is it the right folder?") from None
    except (OSError, ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise ElfError(f"base model: {path} is damaged; download it again")
    return config
