"""What a file in kohya's form says of itself, by which web UIs list, sort and recognise it.

ModelSpec 1.0.1 (https://github.com/Stability-AI/ModelSpec) and the ``ss_*`` and ``sshs_*`` entries
of kohya's scripts. All values are strings.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime

from torch import Tensor

from elf import __version__
from elf.bases.families import FamilyName
from elf.export.trained import Trained
from elf.export.writing import file_bytes

ARCHITECTURES = {"sd15": "stable-diffusion-v1", "sdxl": "stable-diffusion-xl-v1-base"}
BASE_VERSIONS = {"sd15": "sd_v1", "sdxl": "sdxl_base_v1-0"}
SIDES = {"sd15": 512, "sdxl": 1024}
PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v"}
LEGACY_START, LEGACY_LENGTH = 0x100000, 0x10000
"""Where in a file the web UIs' older hash looks, and how far."""


def kohya_header(
    trained: Trained,
    family: FamilyName,
    prediction_type: str,
    tensors: Mapping[str, Tensor],
    title: str,
    trigger: str | None,
    picture: str | None = None,
    tags: Mapping[str, int] | None = None,
) -> dict[str, str]:
    """Return the header of a file.

    Args:
        trained: What is written.
        family: Of its base.
        prediction_type: Of its base.
        tensors: Of the file.
        title: Its name for people.
        trigger: The trigger phrase, if it has one.
        picture: To be shown, as a data URL.
        tags: How many captions have each tag.
    """
    ranks = Counter(len(tensor) for key, tensor in tensors.items() if ".lora_down." in key)
    ((dim, _),) = ranks.most_common(1)
    alphas = Counter(float(tensor) for key, tensor in tensors.items() if key.endswith(".alpha"))
    ((alpha, _),) = alphas.most_common(1)
    stated = {
        "ss_v2": "False",
        "ss_base_model_version": BASE_VERSIONS[family],
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(dim) if len(ranks) == 1 else "Dynamic",
        "ss_network_alpha": f"{alpha:g}" if len(alphas) == 1 else "Dynamic",
        "ss_network_args": json.dumps(_arguments(tensors, dim, alpha)),
        "ss_output_name": title,
    }
    if tags is not None:
        stated["ss_tag_frequency"] = json.dumps({title: dict(tags)}, ensure_ascii=False)
    if family == "sd15" and prediction_type == "v_prediction":
        stated["ss_base_model_version"] = "sd_v1_v"
    spec = {
        "sai_model_spec": "1.0.1",
        "architecture": f"{ARCHITECTURES[family]}/lora",
        "implementation": "https://github.com/Stability-AI/generative-models"
        if family == "sdxl"
        else "diffusers",
        "title": title,
        "description": f"Trained and exported by Elf {__version__}",
        "date": _date(trained),
        "resolution": f"{SIDES[family]}x{SIDES[family]}",
        "prediction_type": PREDICTIONS[prediction_type],
    }
    if trigger is not None:
        spec["trigger_phrase"] = trigger
    if picture is not None:
        spec["thumbnail"] = picture
    clip_skip = trained.base_options.get("clip_skip")
    if family == "sd15" and clip_skip:
        spec["encoder_layer"] = str(clip_skip)
    whole, legacy = hashes(tensors, stated)
    spec["hash_sha256"] = f"0x{whole}"
    return {
        "format": "pt",
        **stated,
        "sshs_model_hash": whole,
        "sshs_legacy_hash": legacy,
        **{f"modelspec.{key}": value for key, value in spec.items()},
    }


def hashes(tensors: Mapping[str, Tensor], stated: Mapping[str, str]) -> tuple[str, str]:
    """Return the sha256 of all tensors' bytes, and the web UIs' older hash of eight digits.

    The older one is of a piece of the file as it is with its ``ss_*`` entries alone.
    """
    whole = file_bytes(tensors, stated)
    start = 8 + int.from_bytes(whole[:8], "little")
    piece = whole[LEGACY_START : LEGACY_START + LEGACY_LENGTH]
    return hashlib.sha256(whole[start:]).hexdigest(), hashlib.sha256(piece).hexdigest()[:8]


def _arguments(tensors: Mapping[str, Tensor], dim: int, alpha: float) -> dict[str, str]:
    """Return kohya's options of a network: those of convolutions stand apart."""
    convolutions = any(tensor.dim() == 4 and tensor.shape[-1] > 1 for tensor in tensors.values())
    found = {"conv_dim": str(dim), "conv_alpha": f"{alpha:g}"} if convolutions else {}
    if any(key.endswith(".dora_scale") for key in tensors):
        found["dora_wd"] = "True"
    return found


def _date(trained: Trained) -> str:
    """Return when the adapter was last written: the same adapter makes the same file."""
    files = [trained.path]
    if trained.path.is_dir():
        files = [*trained.path.glob("checkpoints/last.ckpt"), *trained.path.glob("*.safetensors")]
    seconds = files[0].stat().st_mtime
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
