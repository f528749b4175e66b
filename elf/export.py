"""``elf export``: an adapter as the file that diffusers, PEFT and a backend service load."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from elf import adapters
from elf.adapters import AdapterConfig
from elf.checkpoints import evaluated_state, last_checkpoint, read_checkpoint
from elf.command_parser import CommandParser
from elf.errors import ElfError
from elf.files import atomic_path

# diffusers.loaders.lora_base: without this header the loader takes alpha = rank
METADATA_KEY = "lora_adapter_metadata"
ORIGIN_KEY = "elf.origin"
"""In a file's header: the base that the adapter was trained on, as a checkpoint has it."""
FILE_NAME = "pytorch_lora_weights.safetensors"
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def find_checkpoint(source: str | Path) -> Path:
    """Return the checkpoint that a run folder or a checkpoint's own path stands for."""
    source = Path(source)
    if source.is_dir():
        return last_checkpoint(source)
    if not source.exists():
        raise ElfError(f"input: no run folder or checkpoint {source}")
    return source


def export_diffusers(
    source: str | Path,
    output: str | Path,
    dtype: Literal["float16", "bfloat16", "float32"] = "float16",
) -> Path:
    """Write an adapter as diffusers' ``pytorch_lora_weights.safetensors``.

    Args:
        source: A run folder (its newest checkpoint) or a checkpoint.
        output: A ``.safetensors`` file, or a folder that gets one under diffusers' own name.
        dtype: Type of the tensors; DoRA's magnitudes stay float32, as rounding them rounds W.

    Returns:
        The file. diffusers loads its text encoders' DoRA, too, as its magnitudes are named
        ``….lora_magnitude_vector.weight``; those that diffusers' own writer names are lost.

    Raises:
        ElfError: If there is no adapter, it is not finite, it changes nothing, or no such file can
            hold it.
    """
    checkpoint = read_checkpoint(find_checkpoint(source))
    config = AdapterConfig(**checkpoint["elf"]["adapter"])
    trained = evaluated_state(checkpoint)
    refuse_useless(trained, source)
    path = Path(output)
    if path.suffix != ".safetensors":
        path = path / FILE_NAME
    tensors: dict[str, Tensor] = {}
    settings: dict[str, Any] = {}
    for part, state in adapters.by_part(trained).items():
        written = adapters.metadata(config, state, part)
        settings |= {f"{part}.{key}": value for key, value in written.items()}
        # with the level that the oldest loaders need in CLIP; newer ones take it off
        level = "" if part == "unet" else "text_model."
        tensors |= {
            f"{part}.{level}{key}": _cast(key, value, DTYPES[dtype])
            for key, value in adapters.without_initial(state).items()
        }
    header = {
        "format": "pt",
        METADATA_KEY: json.dumps(settings, indent=2, sort_keys=True),
        ORIGIN_KEY: json.dumps(
            {key: checkpoint["elf"][key] for key in ("base_options", "base_sha256")}
        ),
    }
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=header)
    return path


def refuse_useless(state: Mapping[str, Tensor], source: str | Path) -> None:
    """Refuse an adapter that cannot work.

    Raises:
        ElfError: If a tensor is not finite, or if every update ΔW is zero.
    """
    for key, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise ElfError(f"{source}: {key} is not finite; export an earlier checkpoint")
    if all(adapters.changes_nothing(part) for part in adapters.by_part(state).values()):
        raise ElfError(f"{source}: the adapter changes nothing (ΔW = 0); train it first")


def _cast(key: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if "lora_magnitude_vector" in key:
        dtype = torch.float32
    cast = tensor.detach().to(dtype).contiguous().clone()
    if not torch.isfinite(cast).all():
        raise ElfError(f"{key} overflows in {dtype}; export with --dtype float32")
    return cast


def read_adapter(path: str | Path) -> tuple[AdapterConfig, dict[str, Tensor]]:
    """Read an adapter: a run folder, a checkpoint, or a file that ``export_diffusers`` wrote.

    Returns:
        Its configuration, and its tensors by ``{part}.{name}``, as in checkpoints.

    Raises:
        ElfError: If it is none of these.
    """
    file = _exported(path)
    if file is not None:
        return _read_diffusers(file)
    checkpoint = read_checkpoint(find_checkpoint(path))
    return AdapterConfig(**checkpoint["elf"]["adapter"]), evaluated_state(checkpoint)


def read_origin(path: str | Path) -> tuple[dict[str, Any], str | None]:
    """Return what a run said of its base (``prediction_type`` …), and the sha256 of its UNet.

    A file that another program wrote says nothing of either.

    Raises:
        ElfError: If there is no such file, or it is damaged.
    """
    file = _exported(path)
    if file is None:
        known = read_checkpoint(find_checkpoint(path))["elf"]
    else:
        with _opened(file) as opened:
            known = _header(opened, ORIGIN_KEY)
    return known.get("base_options", {}), known.get("base_sha256")


def _exported(path: str | Path) -> Path | None:
    """Return the exported file that a path stands for; a run's own checkpoints come before it."""
    path = Path(path)
    if path.suffix == ".safetensors":
        return path
    has_file = (path / FILE_NAME).exists() and not (path / "checkpoints").is_dir()
    return path / FILE_NAME if has_file else None


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError:
        raise ElfError(f"adapter: no file {path}") from None
    except Exception as error:  # safetensors raises its own untyped error on damaged files
        raise ElfError(f"adapter: {path} is no safetensors file ({error})") from None


def _header(file: Any, key: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((file.metadata() or {}).get(key, "{}"))
    return found


def _read_diffusers(path: Path) -> tuple[AdapterConfig, dict[str, Tensor]]:
    with _opened(path) as file:
        header = _header(file, METADATA_KEY)
        state = {key: file.get_tensor(key) for key in file.keys()}
    if not header:
        raise ElfError(f"adapter: {path} has no {METADATA_KEY}; export it again by `elf export`")
    states = adapters.by_part(state)
    headers = {
        part: {
            key.removeprefix(f"{part}."): value
            for key, value in header.items()
            if key.startswith(f"{part}.")
        }
        for part in states
    }
    try:
        config = adapters.config_from(headers, states)
    except KeyError as error:
        raise ElfError(
            f"adapter: the {METADATA_KEY} of {path} lacks {error}; export it again by `elf export`"
        ) from None
    return config, {f"{part}.{key}": t for part, own in states.items() for key, t in own.items()}


def main(arguments: list[str]) -> None:
    """``elf export --input RUN_OR_CHECKPOINT --output FILE``."""
    parser = CommandParser("export", "Write an adapter as the file that diffusers loads.")
    parser.add_argument("--input", type=str, required=True, help="run folder or checkpoint")
    parser.add_argument("--output", type=str, required=True, help=".safetensors file or folder")
    parser.add_argument(
        "--dtype",
        type=Literal["float16", "bfloat16", "float32"],
        default="float16",
        help="type of the tensors",
    )
    options = parser.read(arguments)
    path = export_diffusers(options.input, options.output, options.dtype)
    size = path.stat().st_size / 1e6
    print(f"wrote {path} ({size:.1f} MB, {options.dtype})")
