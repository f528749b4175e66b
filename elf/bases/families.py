"""The table of base families: what their pipelines are made of, and which are not supported.

A new family is a row of `FAMILIES`, its states in `elf.bases.text`, and, for single files, its
numbers in `elf.bases.configs` and its names in `elf.bases.ldm`. One whose denoiser is a flow
matching transformer (SD3.5, FLUX) brings another part than ``unet`` and another noise schedule
than DDPM's: both are fields here, so that nothing else asks for a family by its name but
`elf.export.header` and `elf.export.names`, which write what other programs call each.
"""

from dataclasses import dataclass
from typing import Literal

from elf.errors import ElfError

FamilyName = Literal["sd15", "sdxl"]


@dataclass(frozen=True)
class Family:
    """What pipelines of a kind have in common.

    Attributes:
        name: What the code calls it.
        title: What its users call it.
        pipeline: diffusers' class of its text-to-image pipeline.
        denoiser: diffusers' class of the network that is trained, in the part ``unet``.
        text_encoders: transformers' class of each text encoder, by part, in the pipeline's order.
        conditions: Whether the denoiser is told sizes, crop and a pooled text state, too.
    """

    name: FamilyName
    title: str
    pipeline: str
    denoiser: str
    text_encoders: dict[str, str]
    conditions: bool

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that have weights."""
        return ("unet", "vae", *self.text_encoders)


FAMILIES: dict[str, Family] = {
    "sd15": Family(
        name="sd15",
        title="Stable Diffusion 1.5",
        pipeline="StableDiffusionPipeline",
        denoiser="UNet2DConditionModel",
        text_encoders={"text_encoder": "CLIPTextModel"},
        conditions=False,
    ),
    "sdxl": Family(
        name="sdxl",
        title="Stable Diffusion XL",
        pipeline="StableDiffusionXLPipeline",
        denoiser="UNet2DConditionModel",
        text_encoders={
            "text_encoder": "CLIPTextModel",
            "text_encoder_2": "CLIPTextModelWithProjection",
        },
        conditions=True,
    ),
}

SUPPORTED = " and ".join(family.title for family in FAMILIES.values())

_BY_PIPELINE = {family.pipeline: family for family in FAMILIES.values()}

# Pipelines that are taken for one of the above by mistake, or are often asked for.
_OTHERS = {
    "StableDiffusionInpaintPipeline": "an inpainting base",
    "StableDiffusionXLInpaintPipeline": "an inpainting base of SDXL",
    "StableDiffusionXLImg2ImgPipeline": "the refiner of SDXL",
    "StableDiffusionInstructPix2PixPipeline": "an InstructPix2Pix base",
    "StableDiffusionXLInstructPix2PixPipeline": "an InstructPix2Pix base of SDXL",
    "StableDiffusionUpscalePipeline": "an upscaler",
    "StableDiffusionDepth2ImgPipeline": "a depth-to-image base",
    "LatentConsistencyModelPipeline": "a latent consistency model",
    "StableDiffusion3Pipeline": "Stable Diffusion 3",
    "FluxPipeline": "FLUX",
}

# Latent channels, and what other channels a UNet is given beside them.
_CHANNELS = {
    5: "a depth-to-image base",
    7: "an upscaler",
    8: "an InstructPix2Pix base",
    9: "an inpainting base",
}


def tokenizer_part(encoder: str) -> str:
    """Return the part that holds a text encoder's tokenizer."""
    return encoder.replace("text_encoder", "tokenizer")


def refusal(where: object, what: str) -> ElfError:
    """Return the error of a base that is something else."""
    return ElfError(f"base model: {where} is {what}; Elf trains {SUPPORTED}")


def family_of_pipeline(pipeline: str, where: object) -> Family:
    """Return the family of a pipeline of diffusers.

    Args:
        pipeline: The class that ``model_index.json`` names.
        where: The base, for the message.

    Raises:
        ElfError: If it is of another family; with what it is.
    """
    if pipeline in _BY_PIPELINE:
        return _BY_PIPELINE[pipeline]
    raise refusal(where, _OTHERS.get(pipeline, f"a {pipeline}"))


def refuse_channels(channels: int, where: object) -> None:
    """Refuse a denoiser that takes more than noisy latents, whatever its pipeline is called.

    Raises:
        ElfError: If it has other than 4 input channels.
    """
    if channels != 4:
        what = _CHANNELS.get(channels, "another base")
        raise refusal(where, f"{what} (its UNet takes {channels} channels, not 4)")
