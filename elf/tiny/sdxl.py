"""The tiny SDXL: all that its pipeline has, in miniature, untrained, for tests."""

from pathlib import Path
from typing import TYPE_CHECKING

from elf.tiny.base import autoencoder
from elf.tiny.store import save_half, seeded
from elf.tiny.tokens import clip_tokenizer
from elf.world.words import vocabulary

if TYPE_CHECKING:
    from diffusers import (
        AutoencoderKL,
        EulerDiscreteScheduler,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTokenizer

WIDTHS = {"text_encoder": 32, "text_encoder_2": 64}
"""Of the text states; the second is also the width of the pooled state."""

TIME_WIDTH = 8
"""Of the embedding of each of the six numbers that say sizes and crop."""


def tokenizer(encoder: str) -> "CLIPTokenizer":
    """CLIP's tokenizer; OpenCLIP's pads with the token 0, which is ``!``."""
    made = clip_tokenizer(vocabulary())
    if encoder == "text_encoder_2":
        made.pad_token = "!"
    return made


def text_config(encoder: str, tokens: "CLIPTokenizer") -> "CLIPTextConfig":
    """A text encoder, three layers deep."""
    from transformers import CLIPTextConfig

    width = WIDTHS[encoder]
    return CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=3,
        num_attention_heads=4,
        hidden_act="quick_gelu" if encoder == "text_encoder" else "gelu",
        projection_dim=width,
        bos_token_id=tokens.bos_token_id,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )


def unet() -> "UNet2DConditionModel":
    """The denoiser: no attention at full size, and more of it the smaller the latents are."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=2,
        transformer_layers_per_block=(1, 1, 2),
        cross_attention_dim=sum(WIDTHS.values()),
        attention_head_dim=(1, 2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_WIDTH,
        projection_class_embeddings_input_dim=WIDTHS["text_encoder_2"] + 6 * TIME_WIDTH,
        norm_num_groups=8,
    )


def vae() -> "AutoencoderKL":
    """The VAE, with SDXL's scaling factor."""
    made = autoencoder()
    made.register_to_config(scaling_factor=0.13025, force_upcast=True)
    return made


def scheduler() -> "EulerDiscreteScheduler":
    """SDXL's own sampler."""
    from diffusers import EulerDiscreteScheduler

    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        timestep_spacing="leading",
    )


def pipeline(seed: int = 0) -> "StableDiffusionXLPipeline":
    """The whole pipeline with random weights from `seed`."""
    from diffusers import StableDiffusionXLPipeline
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    first, second = (tokenizer(name) for name in WIDTHS)
    with seeded(seed):
        return StableDiffusionXLPipeline(
            vae=vae(),
            text_encoder=CLIPTextModel(text_config("text_encoder", first)),
            text_encoder_2=CLIPTextModelWithProjection(text_config("text_encoder_2", second)),
            tokenizer=first,
            tokenizer_2=second,
            unet=unet(),
            scheduler=scheduler(),
            add_watermarker=False,
        )


def build(folder: str | Path, seed: int = 0) -> Path:
    """Write it as a `StableDiffusionXLPipeline` folder with half-precision weights."""
    folder = Path(folder)
    pipe = pipeline(seed)
    pipe.save_pretrained(folder)
    for name in ("unet", "vae", *WIDTHS):
        save_half(getattr(pipe, name), folder / name)
    return folder
