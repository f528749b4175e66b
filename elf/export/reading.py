"""Reads an adapter: a run's, a checkpoint's, or what a file holds that was exported."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from safetensors import safe_open
from torch import Tensor

from elf.adapters import AdapterConfig
from elf.adapters.presets import LANGUAGE_MODEL
from elf.bases import open_base
from elf.errors import ElfError
from elf.export.importing import is_kohya, read_kohya
from elf.export.importing_diffusers import METADATA_KEY, read_diffusers, read_stated_base
from elf.training.checkpoints import evaluated_state, last_checkpoint, read_checkpoint

ORIGIN_KEY = "elf.origin"
"""In a file's header: the base that the adapter was trained on, as a checkpoint has it."""
FILE_NAME = "pytorch_lora_weights.safetensors"
PEFT_WEIGHTS, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
"""In a folder of peft's form."""
PEFT_PREFIX = "base_model.model."


def find_checkpoint(source: str | Path) -> Path:
    """Return the checkpoint that a run folder or a checkpoint's own path stands for."""
    source = Path(source)
    if source.is_dir():
        return last_checkpoint(source)
    if not source.exists():
        raise ElfError(
            f"adapter: no run folder or checkpoint {source}; give what `elf fit` or "
            "`elf export` wrote"
        )
    return source


def read_adapter(
    path: str | Path, base: str | None = None
) -> tuple[AdapterConfig, dict[str, Tensor]]:
    """Read an adapter: a run's folder, a checkpoint, a file of diffusers' or of kohya's form.

    Args:
        path: What is to be read.
        base: Whose layers a file in kohya's form is of; others need none.

    Returns:
        Its configuration, and its tensors by ``{part}.{name}``, as in checkpoints.

    Raises:
        ElfError: If it is none of these, or does not fit the base.
    """
    file = _exported(path)
    if file is not None:
        return _read_file(file, base)
    checkpoint = read_checkpoint(find_checkpoint(path))
    try:
        return AdapterConfig(**checkpoint["elf"]["adapter"]), evaluated_state(checkpoint)
    except (KeyError, TypeError, AttributeError) as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
        raise ElfError(
            f"{path} says of its adapter what `elf fit` does not ({why}); give another checkpoint"
        ) from None


def read_origin(path: str | Path) -> tuple[dict[str, Any], str | None]:
    """Return what a run said of its base (``prediction_type`` …), and the sha256 of its UNet.

    A file that another program wrote says nothing of either.

    Raises:
        ElfError: If there is no such file, or it is damaged.
    """
    file = _exported(path)
    if file is not None:
        with _opened(file) as opened:
            return read_stated_base(_header(opened, ORIGIN_KEY, file), file)
    known = read_checkpoint(find_checkpoint(path))["elf"]
    if not isinstance(known, dict):
        raise ElfError(f"{path} says nothing of its base; give a checkpoint that `elf fit` wrote")
    return known.get("base_options", {}), known.get("base_sha256")


def base_of_run(path: str | Path) -> str:
    """Return the base that a run's configuration names.

    Raises:
        ElfError: If there is no such configuration beside what the path names.
    """
    base = of_run(path, "model", "base")
    if base is None:
        raise ElfError(f"base: no config.yaml beside {path} names one; name it by --base")
    return base


def of_run(path: str | Path, section: str, key: str) -> str | None:
    """Return a value of the configuration of a run, named by its folder or a checkpoint in it."""
    found = (values for values in _sections(path, section) if key in values)
    return next((str(values[key]) for values in found), None)


def section_of_run(path: str | Path, section: str) -> dict[str, Any]:
    """Return a section of the configuration of a run, likewise; nothing if there is none."""
    return next(_sections(path, section), {})


def _sections(path: str | Path, section: str) -> Iterator[dict[str, Any]]:
    """Yield the section of each configuration at a path and above it."""
    path = Path(path)
    for place in (path, *path.absolute().parents[:2]):
        file = place / "config.yaml"
        if file.is_file():
            with suppress(OSError, yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError):
                values = yaml.safe_load(file.read_text(encoding="utf-8"))[section]
                yield dict(values.get("init_args", values))


def _exported(path: str | Path) -> Path | None:
    """Return the exported file that a path stands for; a run's own checkpoints come before it."""
    path = Path(path)
    if path.suffix == ".safetensors":
        return path
    if (path / "checkpoints").is_dir():
        return None
    return next((path / n for n in (FILE_NAME, PEFT_WEIGHTS) if (path / n).exists()), None)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except ElfError:
        raise
    except FileNotFoundError:
        raise ElfError(f"adapter: no file {path}; give what `elf export` wrote") from None
    except Exception as error:  # safetensors raises its own untyped error on damaged files
        why = " ".join(str(error).split())[:200]  # it quotes the file, ends of lines included
        raise ElfError(
            f"adapter: {path} is no safetensors file ({why}); export or download it again"
        ) from None


def _header(file: Any, key: str, path: Path) -> dict[str, Any]:
    try:
        found = json.loads((file.metadata() or {}).get(key, "{}"))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ElfError(f"adapter: the {key} of {path} is damaged; export it again by `elf export`")
    return found


def _read_file(path: Path, base: str | None) -> tuple[AdapterConfig, dict[str, Tensor]]:
    with _opened(path) as file:
        header = _header(file, METADATA_KEY, path)
        state = {key: file.get_tensor(key) for key in file.keys()}
    if path.name == PEFT_WEIGHTS:
        return _read_peft(path, state)
    if is_kohya(state):
        if base is None:
            raise ElfError(f"adapter: {path} is in kohya's form; name the base that it is of")
        return read_kohya(state, open_base(base), path)
    return read_diffusers(state, header, path)


def _read_peft(path: Path, state: dict[str, Tensor]) -> tuple[AdapterConfig, dict[str, Tensor]]:
    """Read what peft's form holds of a language model."""
    if foreign := next((key for key in state if not key.startswith(PEFT_PREFIX)), None):
        raise ElfError(
            f"adapter: {path} has {foreign}, which peft would not name so; give a file "
            "that peft wrote"
        )
    tensors = {f"{LANGUAGE_MODEL}.{key.removeprefix(PEFT_PREFIX)}": t for key, t in state.items()}
    file = path.with_name(PEFT_CONFIG)
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        header = {f"{LANGUAGE_MODEL}.{key}": value for key, value in said.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise ElfError(
            f"adapter: {file} cannot be read ({getattr(error, 'strerror', None) or error}); it "
            f"belongs beside {path.name}: export both again"
        ) from None
    return read_diffusers(tensors, header, path, PEFT_CONFIG)
