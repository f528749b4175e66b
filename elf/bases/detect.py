"""What a single file is, by the names and shapes of its tensors."""

from dataclasses import dataclass
from pathlib import Path

from elf.bases.families import FAMILIES, Family, refusal, refuse_channels
from elf.bases.header import Header
from elf.bases.ldm import CLIP, OPEN_CLIP, UNET, VAE
from elf.errors import ElfError

PICKLED = (".ckpt", ".pt", ".pth", ".bin")
_INPUT = f"{UNET}input_blocks.0.0.weight"

# Marks of bases whose other tensors are SDXL's, but whose noise is of continuous levels.
_EDM = {"edm_mean": "Playground v2.5", "edm_vpred.sigma_max": "CosXL"}

# The beginning of a name (or all of it) that only files of a kind have, and what they are.
_OTHERS = (
    ("lora_unet_", "a LoRA, which is trained on a base"),
    ("lora_te", "a LoRA, which is trained on a base"),
    ("unet.", "an adapter in diffusers' format, which is trained on a base"),
    ("transformer.", "an adapter in diffusers' format, which is trained on a base"),
    ("control_model.", "a ControlNet"),
    ("controlnet_cond_embedding.", "a ControlNet"),
    ("emb_params", "a textual inversion"),
    (f"{UNET}double_blocks.", "FLUX or one of its relatives"),
    ("double_blocks.", "FLUX or one of its relatives"),
    (f"{UNET}joint_blocks.", "Stable Diffusion 3"),
    ("joint_blocks.", "Stable Diffusion 3"),
    ("conditioner.embedders.0.model.", "the refiner of SDXL"),
    ("cond_stage_model.model.", "a single file of Stable Diffusion 2"),
    ("down_blocks.", "a diffusers UNet without the rest of its pipeline"),
    ("encoder.", "a VAE or another encoder alone"),
    ("text_model.", "a text encoder alone"),
)


@dataclass(frozen=True)
class Detected:
    """What a single file is.

    Attributes:
        family: Its family.
        prediction_type: What it says that its denoiser predicts; None if it says nothing.
        zero_terminal_snr: Whether it says that its last timestep has no signal; None as above.
    """

    family: Family
    prediction_type: str | None
    zero_terminal_snr: bool | None


def refuse_pickled(path: Path) -> None:
    """Refuse a file that is a pickle.

    Raises:
        ElfError: If its name ends as those of pickles do; with how to convert it.
    """
    if path.suffix.lower() in PICKLED:
        raise ElfError(
            f"base model: {path} is a pickle, which can run code when it is read; convert it once: "
            "python -c \"import torch, safetensors.torch as s; c = torch.load('"
            f"{path.name}', weights_only=True); c = c.get('state_dict', c); s.save_file({{k: "
            "v.contiguous().clone() for k, v in c.items() if hasattr(v, 'shape')}, "
            f"'{path.stem}.safetensors')\""
        )


def detect(header: Header) -> Detected:
    """Return what a single file is.

    Raises:
        ElfError: If it is no whole base of a supported family; with what it is, where it is known.
    """
    family = _family(header)
    if _INPUT in header.shapes:
        refuse_channels(header.shapes[_INPUT][1], header.path)
    for part, start in (("UNet", UNET), ("VAE", VAE), ("text encoder", CLIP[family.name])):
        if not _has(header, start):
            raise ElfError(
                f"base model: {header.path} has no {part} (no tensor {start}…); "
                "take the full checkpoint, or one with it baked in"
            )
    return Detected(family, *_prediction(header))


def _has(header: Header, start: str) -> bool:
    return any(name.startswith(start) for name in header.shapes)


def _family(header: Header) -> Family:
    for mark, what in _EDM.items():
        if mark in header.shapes:
            raise refusal(header.path, f"a base of the EDM formulation ({what})")
    if _has(header, OPEN_CLIP):
        return FAMILIES["sdxl"]
    if _has(header, CLIP["sd15"]):
        return FAMILIES["sd15"]
    for start, what in _OTHERS:
        if _has(header, start):
            if _INPUT in header.shapes:
                refuse_channels(header.shapes[_INPUT][1], header.path)
            raise refusal(header.path, what)
    if _has(header, UNET):
        raise ElfError(
            f"base model: {header.path} has a UNet but no text encoder that Elf knows; "
            "take the full checkpoint"
        )
    example = next(iter(header.shapes), "nothing")
    raise refusal(header.path, f"no checkpoint that Elf knows (it holds {example})")


def _prediction(header: Header) -> tuple[str | None, bool | None]:
    """Read the marks of v-prediction: empty tensors, or the keys of Stability's ModelSpec."""
    stated = header.metadata.get("modelspec.prediction_type", "")
    prediction = {"epsilon": "epsilon", "v": "v_prediction"}.get(stated)
    if "v_pred" in header.shapes:
        prediction = "v_prediction"
    return prediction, True if "ztsnr" in header.shapes else None


def old_names(name: str) -> str:
    """Return the usual name of a tensor of CLIP; some old merges leave out a level."""
    if name.startswith("text_model.", len(CLIP["sd15"])) or not name.startswith(CLIP["sd15"]):
        return name
    return f"{CLIP['sd15']}text_model.{name[len(CLIP['sd15']) :]}"
