"""peft's own folders, one a network: ``PeftModel.from_pretrained(unet, FOLDER / "unet")``."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from elf import adapters
from elf.export.tensors import DTYPES, DType, cast
from elf.export.trained import Trained
from elf.export.verifying_peft import told, verify_peft
from elf.export.writing import write_file
from elf.files import atomic_path, write_atomic

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."
LEVELS = {"text_encoder_2": "text_model."}
"""What transformers has before the names of a network's layers: of CLIPTextModelWithProjection, and
until its version 5 of CLIPTextModel, too. peft takes names as they are."""


def export_peft(trained: Trained, output: Path, dtype: DType, verify: bool = False) -> list[Path]:
    """Write a folder for each network that is adapted.

    Args:
        trained: The adapter.
        output: The folder of these folders, which are named as the networks are in a pipeline.
        dtype: Of A and B.
        verify: Read the files again as peft does, say how far they are off, and keep none that is.

    Returns:
        The folders.

    Raises:
        ElfError: If peft has no form for it: a DoRA on the input axis; or what was written is not
            what was trained.
    """
    written, found = [], []
    for part, (tensors, config) in peft_files(trained, dtype).items():
        folder = output / part
        with atomic_path(folder / WEIGHTS) as temporary:
            write_file(temporary, tensors, {"format": "pt"})
            if verify:
                own = {k.removeprefix(PREFIX): t for k, t in load_file(temporary).items()}
                layers = [layer for layer in trained.layers if layer.part == part]
                found.append(verify_peft(temporary, own, config, layers, dtype))
        write_atomic(folder / CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n")
        written.append(folder)
    if verify:
        print(told(found, len(trained.layers)))
    return written


def peft_files(
    trained: Trained, dtype: DType
) -> dict[adapters.Part, tuple[dict[str, Tensor], dict[str, Any]]]:
    """Return the tensors and the configuration of each network's folder."""
    files = {}
    for part, state in adapters.by_part(trained.state).items():
        # peft writes magnitudes without this ending, and looks for none
        start = PREFIX + LEVELS.get(part, "")
        tensors = {
            start + key.replace("lora_magnitude_vector.weight", "lora_magnitude_vector"): cast(
                key, tensor, DTYPES[dtype]
            )
            for key, tensor in adapters.without_initial(state).items()
        }
        files[part] = tensors, adapters.metadata(trained.config, state, part)
    return files
