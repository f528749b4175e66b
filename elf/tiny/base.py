"""The tiny base: a Stable Diffusion 1.5 in miniature, for pictures of about 64×64 px."""

from pathlib import Path
from typing import TYPE_CHECKING

from elf.tiny.store import save_half, seeded
from elf.tiny.tokens import clip_tokenizer
from elf.world.words import vocabulary

if TYPE_CHECKING:
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextModel, CLIPTokenizer

RESOLUTION = 64
"""The native side of a picture, px."""

LATENT_FACTOR = 4
"""Picture px for one latent px (Stable Diffusion: 8)."""

TEXT_WIDTH = 128


def text_encoder(tokenizer: "CLIPTokenizer") -> "CLIPTextModel":
    """CLIP's text encoder, three layers deep."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            projection_dim=TEXT_WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def autoencoder() -> "AutoencoderKL":
    """The VAE: four latent channels at a quarter of the side."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=16,
        sample_size=RESOLUTION,
        scaling_factor=1.0,
    )


def unet() -> "UNet2DConditionModel":
    """The denoiser. Text is attended to at 8×8 and 4×4, and once more at 16×16 on the way up."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=RESOLUTION // LATENT_FACTOR,
        in_channels=4,
        out_channels=4,
        block_out_channels=(64, 96, 96),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def scheduler() -> "DDIMScheduler":
    """DDIM over Stable Diffusion 1.5's noise schedule: ε-prediction, scaled linear β."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="epsilon",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def pipeline(seed: int = 0) -> "StableDiffusionPipeline":
    """The whole pipeline with random weights from `seed`."""
    from diffusers import StableDiffusionPipeline

    tokenizer = clip_tokenizer(vocabulary())
    with seeded(seed):
        return StableDiffusionPipeline(
            vae=autoencoder(),
            text_encoder=text_encoder(tokenizer),
            tokenizer=tokenizer,
            unet=unet(),
            scheduler=scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


def save(pipe: "StableDiffusionPipeline", folder: str | Path) -> Path:
    """Write a pipeline folder with half-precision weights."""
    folder = Path(folder)
    pipe.save_pretrained(folder)
    for name in ("unet", "vae", "text_encoder"):
        save_half(getattr(pipe, name), folder / name)
    return folder


def build(folder: str | Path, seed: int = 0) -> Path:
    """Write an untrained base as a `StableDiffusionPipeline` folder."""
    return save(pipeline(seed), folder)
