"""The numbers of SD1.5's and SDXL's parts, which their single files do not hold.

They are what the published checkpoints were trained with: Rombach et al. 2022 and the model card
of Stable Diffusion v1.5; Podell et al. 2023, table 1; Radford et al. 2021 (CLIP ViT-L/14) and
OpenCLIP's ViT-bigG/14. A test holds the parameters that they add up to.
"""

from typing import Any

_BETAS = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "steps_offset": 1,
    "timestep_spacing": "leading",
}

_VAE: dict[str, Any] = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
}

_CLIP_L: dict[str, Any] = {
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "quick_gelu",
    "projection_dim": 768,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 1,
}

# OpenCLIP was trained with the exact GELU, OpenAI's CLIP with x·σ(1.702 x).
_CLIP_BIG_G: dict[str, Any] = {
    **_CLIP_L,
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "hidden_act": "gelu",
    "projection_dim": 1280,
}

CONFIGS: dict[str, dict[str, dict[str, Any]]] = {
    "sd15": {
        "unet": {
            "sample_size": 64,
            "in_channels": 4,
            "out_channels": 4,
            "block_out_channels": [320, 640, 1280, 1280],
            "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
            "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
            "layers_per_block": 2,
            "cross_attention_dim": 768,
            # the number of heads, whatever diffusers calls it
            "attention_head_dim": 8,
        },
        "vae": {**_VAE, "sample_size": 512, "scaling_factor": 0.18215, "force_upcast": False},
        "text_encoder": _CLIP_L,
        "scheduler": {
            "_class_name": "PNDMScheduler",
            **_BETAS,
            "skip_prk_steps": True,
            "set_alpha_to_one": False,
        },
    },
    "sdxl": {
        "unet": {
            "sample_size": 128,
            "in_channels": 4,
            "out_channels": 4,
            "block_out_channels": [320, 640, 1280],
            "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
            "up_block_types": ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"],
            "layers_per_block": 2,
            "transformer_layers_per_block": [1, 2, 10],
            "cross_attention_dim": 768 + 1280,
            "attention_head_dim": [5, 10, 20],
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 1280 + 6 * 256,
        },
        "vae": {**_VAE, "sample_size": 1024, "scaling_factor": 0.13025, "force_upcast": True},
        "text_encoder": _CLIP_L,
        "text_encoder_2": _CLIP_BIG_G,
        "scheduler": {"_class_name": "EulerDiscreteScheduler", **_BETAS},
    },
}
"""Configurations by family and part, as arguments of diffusers' and transformers' classes."""

PAD_TOKENS = {"text_encoder": "<|endoftext|>", "text_encoder_2": "!"}
"""What each tokenizer fills up with: OpenCLIP's id is 0, which is the token of ``!``."""
