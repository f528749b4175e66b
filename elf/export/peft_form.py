"""peft's own folders: of pipelines one a network, ``from_pretrained(unet, FOLDER / "unet")``.

That of a language model is the folder itself, which transformers, vLLM and lm-evaluation-harness
load, too.
"""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from elf import adapters
from elf.adapters.presets import LANGUAGE_MODEL
from elf.dtypes import DType
from elf.export.reading import ORIGIN_KEY, PEFT_CONFIG, PEFT_PREFIX, PEFT_WEIGHTS
from elf.export.tensors import DTYPES, cast
from elf.export.trained import Trained
from elf.export.verifying_peft import told, verify_peft
from elf.export.writing import write_file
from elf.files import atomic_path, write_atomic
from elf.pretrained import is_local
from elf.resources import find

LEVELS = {"text_encoder_2": "text_model."}
"""What transformers has before the names of a network's layers: of CLIPTextModelWithProjection, and
until its version 5 of CLIPTextModel, too. peft takes names as they are."""


def export_peft(
    trained: Trained,
    output: Path,
    dtype: DType,
    base: str | None = None,
    verify: bool = False,
) -> list[Path]:
    """Write a folder for each network that is adapted.

    Args:
        trained: The adapter.
        output: The folder of these folders, which are named as the networks are in a pipeline; of
            a language model the folder itself.
        dtype: Of A and B.
        base: What the configuration calls a language model's base, if that is a hub name.
        verify: Read the files again as peft does, say how far they are off, and keep none that is.

    Returns:
        The folders.

    Raises:
        ElfError: If peft has no form for it: a DoRA on the input axis; or what was written is not
            what was trained.
    """
    written, found = [], []
    for part, (tensors, config) in peft_files(trained, dtype, base).items():
        folder, header = output / part, {"format": "pt"}
        if part == LANGUAGE_MODEL:
            folder = output
            origin = {"base_options": trained.base_options, "base_sha256": trained.base_sha256}
            header[ORIGIN_KEY] = json.dumps(origin)
        with atomic_path(folder / PEFT_WEIGHTS) as temporary:
            write_file(temporary, tensors, header)
            if verify:
                own = {k.removeprefix(PEFT_PREFIX): t for k, t in load_file(temporary).items()}
                layers = [layer for layer in trained.layers if layer.part == part]
                found.append(verify_peft(temporary, own, config, layers, dtype))
        write_atomic(folder / PEFT_CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n")
        written.append(folder)
    if verify:
        print(told(found, len(trained.layers)))
    return written


def peft_files(
    trained: Trained, dtype: DType, base: str | None = None
) -> dict[adapters.Part, tuple[dict[str, Tensor], dict[str, Any]]]:
    """Return the tensors and the configuration of each network's folder."""
    files = {}
    for part, state in adapters.by_part(trained.state).items():
        # peft writes magnitudes without this ending, and looks for none
        start = PEFT_PREFIX + LEVELS.get(part, "")
        tensors = {
            start + key.replace("lora_magnitude_vector.weight", "lora_magnitude_vector"): cast(
                key, tensor, DTYPES[dtype]
            )
            for key, tensor in adapters.without_initial(state).items()
        }
        config = adapters.metadata(trained.config, state, part)
        if part == LANGUAGE_MODEL:
            config |= {"task_type": "CAUSAL_LM", "base_model_name_or_path": public_name(base)}
        files[part] = tensors, config
    return files


def public_name(base: str | None) -> str | None:
    """Return a base's name where it means something elsewhere: on the hub, not in a folder here."""
    return None if base is None or is_local(base) or find(base) != base else base
