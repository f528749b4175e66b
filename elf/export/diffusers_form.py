"""diffusers' ``pytorch_lora_weights.safetensors``, which PEFT and backend services load, too."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from elf import adapters
from elf.bases.header import Header
from elf.dtypes import DType
from elf.export.importing_diffusers import METADATA_KEY
from elf.export.reading import FILE_NAME, ORIGIN_KEY
from elf.export.tensors import DTYPES, cast
from elf.export.trained import Layer, Trained, read_trained
from elf.export.verifying_peft import told, verify_peft
from elf.export.writing import write_file
from elf.files import atomic_path


def export_diffusers(
    source: str | Path,
    output: str | Path,
    dtype: DType = "float16",
    base: str | None = None,
) -> Path:
    """Write an adapter as diffusers' ``pytorch_lora_weights.safetensors``.

    Args:
        source: A run folder (its newest checkpoint), a checkpoint, or a file of another form.
        output: A ``.safetensors`` file, or a folder that gets one under diffusers' own name.
        dtype: Type of the tensors; DoRA's magnitudes stay float32, as rounding them rounds W.
        base: Whose layers a source in kohya's form is of.

    Returns:
        The file. diffusers loads its text encoders' DoRA, too, as its magnitudes are named
        ``….lora_magnitude_vector.weight``; those that diffusers' own writer names are lost.

    Raises:
        ElfError: If there is no adapter, it is not finite, it changes nothing, or no such file can
            hold it.
    """
    return write_diffusers(read_trained(source, base), output, dtype)


def write_diffusers(
    trained: Trained, output: str | Path, dtype: DType = "float16", verify: bool = False
) -> Path:
    """Write an adapter that was read already.

    Args:
        trained: The adapter.
        output: As of `export_diffusers`.
        dtype: As there.
        verify: Read the file again as peft does, say how far it is off, and keep none that is.

    Raises:
        ElfError: If no such file can hold it, or what was written is not what was trained.
    """
    path = Path(output)
    if path.suffix != ".safetensors":
        path = path / FILE_NAME
    tensors, header = diffusers_file(trained, dtype)
    with atomic_path(path) as temporary:
        write_file(temporary, tensors, header)
        if verify:
            print(verify_diffusers(temporary, trained.layers, dtype))
    return path


def diffusers_file(trained: Trained, dtype: DType) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the header of a file."""
    tensors: dict[str, Tensor] = {}
    settings: dict[str, Any] = {}
    for part, state in adapters.by_part(trained.state).items():
        written = adapters.metadata(trained.config, state, part)
        settings |= {f"{part}.{key}": value for key, value in written.items()}
        # with the level that the oldest loaders need in CLIP; newer ones take it off
        level = "" if part == "unet" else "text_model."
        tensors |= {
            f"{part}.{level}{key}": cast(key, value, DTYPES[dtype])
            for key, value in adapters.without_initial(state).items()
        }
    origin = {"base_options": _shared(trained), "base_sha256": trained.base_sha256}
    return tensors, {
        "format": "pt",
        METADATA_KEY: json.dumps(settings, indent=2, sort_keys=True),
        ORIGIN_KEY: json.dumps(origin),
    }


def verify_diffusers(path: Path, layers: Sequence[Layer], dtype: DType) -> str:
    """Compare a file with what was trained, network by network; return what was found."""
    settings = json.loads(Header.read(path).metadata[METADATA_KEY])
    tensors, found = load_file(path), []
    for part in {layer.part: None for layer in layers}:
        start = f"{part}."
        own = {k.removeprefix(start): t for k, t in tensors.items() if k.startswith(start)}
        config = {k.removeprefix(start): v for k, v in settings.items() if k.startswith(start)}
        wanted = [layer for layer in layers if layer.part == part]
        found.append(verify_peft(path, own, config, wanted, dtype))
    return told(found, len(layers))


def _shared(trained: Trained) -> dict[str, Any]:
    """Return what was said of the base, but for a folder: that is of this machine."""
    options = dict(trained.base_options)
    return {**options, "base_configs": None} if options else {}
