"""diffusers' ``pytorch_lora_weights.safetensors``, which PEFT and backend services load, too."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from elf import adapters
from elf.export.importing_diffusers import METADATA_KEY
from elf.export.reading import FILE_NAME, ORIGIN_KEY
from elf.export.tensors import DTYPES, DType, cast
from elf.export.trained import Trained, read_trained
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
    trained = read_trained(source, base)
    path = Path(output)
    if path.suffix != ".safetensors":
        path = path / FILE_NAME
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
    header = {
        "format": "pt",
        METADATA_KEY: json.dumps(settings, indent=2, sort_keys=True),
        ORIGIN_KEY: json.dumps(origin),
    }
    with atomic_path(path) as temporary:
        write_file(temporary, tensors, header)
    return path


def _shared(trained: Trained) -> dict[str, Any]:
    """Return what was said of the base, but for a folder: that is of this machine."""
    options = dict(trained.base_options)
    return {**options, "base_configs": None} if options else {}
