"""What kohya's scripts, ComfyUI, A1111 and Forge call a layer: ``lora_unet_…``, ``lora_te1_…``.

A UNet of SD1.5 keeps diffusers' names, one of SDXL has those of generative-models; text encoders
have transformers' with its level ``text_model``. All dots become underscores, so that a name cannot
be read back by itself, but only found among those of a network's layers.
"""

from collections.abc import Mapping
from typing import Any

from elf.adapters import Part
from elf.adapters.presets import canonical
from elf.bases.families import FamilyName
from elf.bases.ldm import UNET, places

UNET_PREFIX = "lora_unet_"
TEXT_PREFIXES: dict[FamilyName, dict[Part, str]] = {
    "sd15": {"text_encoder": "lora_te_"},
    "sdxl": {"text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"},
}


def kohya_name(part: Part, name: str, family: FamilyName, unet_config: Mapping[str, Any]) -> str:
    """Return a layer's name in the form of kohya's files.

    Args:
        part: Its network.
        name: Its name there, as diffusers and transformers have it.
        family: Of the base.
        unet_config: The UNet's configuration, by which SDXL's blocks are counted.
    """
    if part != "unet":
        return TEXT_PREFIXES[family][part] + f"text_model.{canonical(name)}".replace(".", "_")
    if family == "sdxl":
        weight = f"{name}.weight"
        key = places(family, part, [weight], unet_config)[weight].key
        name = key.removeprefix(UNET).removesuffix(".weight")
    return UNET_PREFIX + name.replace(".", "_")
