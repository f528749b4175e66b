"""Bases of full size with random weights, for what asks how fast and not how well.

They compute finite numbers in fp16: matrices keep the variance of what goes through them, norms do
nothing at first. A whole one is a folder as the hub has it, but for its tokenizer, which knows the
words of Elf's drawn world.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from elf.bases.configs import CONFIGS
from elf.tiny.tokens import clip_tokenizer
from elf.world.words import vocabulary

PIPELINES = {"sd15": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline"}
CLASSES = {
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
    "text_encoder_2": "CLIPTextModelWithProjection",
}


def configurations(size: str) -> dict[str, dict[str, Any]]:
    """Return the configurations of the networks of ``sd15``, ``sdxl`` or ``tiny``, by part."""
    if size == "tiny":
        return tiny_configs()
    return {part: config for part, config in CONFIGS[size].items() if part != "scheduler"}


def tiny_configs() -> dict[str, dict[str, Any]]:
    """Return configurations of an SD1.5 that a CPU runs in no time."""
    sd15 = CONFIGS["sd15"]
    clip = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    return {
        "unet": {
            **sd15["unet"],
            "sample_size": 16,
            "block_out_channels": [32, 64],
            "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
            "layers_per_block": 1,
            "cross_attention_dim": 32,
        },
        "vae": {**sd15["vae"], "block_out_channels": [32] * 4},
        "text_encoder": {**sd15["text_encoder"], **clip, "num_attention_heads": 4},
    }


def filled(
    network: nn.Module, dtype: torch.dtype, device: torch.device | str, seed: int = 0
) -> nn.Module:
    """Return a network made on no device, on the device and with random weights."""
    network = network.to(dtype).to_empty(device=device)
    draw = torch.Generator(device).manual_seed(seed)
    for name, parameter in network.named_parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, parameter[0].numel() ** -0.5, generator=draw)
        else:
            parameter.data.fill_(float("norm" in name and name.endswith("weight")))
    for name, buffer in network.named_buffers():
        if name.endswith("position_ids"):
            buffer.copy_(torch.arange(buffer.shape[-1])[None])
    return network.requires_grad_(False)


def random_network(
    part: str,
    config: dict[str, Any],
    dtype: torch.dtype,
    device: torch.device | str,
    seed: int = 0,
) -> nn.Module:
    """Return a part of a base."""
    import diffusers
    import transformers
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        if part in ("unet", "vae"):
            network = getattr(diffusers, CLASSES[part]).from_config(config)
        else:
            network = getattr(transformers, CLASSES[part])(transformers.CLIPTextConfig(**config))
    return filled(network, dtype, device, seed)


def write_base(folder: Path, size: str, device: torch.device | str) -> Path:
    """Write a base in fp16, in diffusers' layout: 2.1 GB of SD1.5, 6.9 GB of SDXL.

    Args:
        folder: For it.
        size: ``sd15``, ``sdxl`` or ``tiny``.
        device: Where the weights are drawn.
    """
    family = "sd15" if size == "tiny" else size
    index: dict[str, Any] = {"_class_name": PIPELINES[family], "_diffusers_version": "0.42.1"}
    for part, given in configurations(size).items():
        config = given
        if part.startswith("text_encoder"):
            tokenizer = clip_tokenizer(vocabulary())
            if part == "text_encoder_2":
                tokenizer.pad_token = "!"
            config = given | {
                f"{name}_token_id": getattr(tokenizer, f"{name}_token_id")
                for name in ("bos", "eos", "pad")
            }
            place = part.replace("text_encoder", "tokenizer")
            tokenizer.save_pretrained(folder / place)
            index[place] = ["transformers", "CLIPTokenizer"]
        network: Any = random_network(part, config, torch.float16, device)
        network.save_pretrained(folder / part)
        library = "transformers" if part.startswith("text_encoder") else "diffusers"
        index[part] = [library, CLASSES[part]]
        del network
    scheduler = CONFIGS[family]["scheduler"]
    index["scheduler"] = ["diffusers", scheduler["_class_name"]]
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler, indent=2))
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
    return folder


def write_pictures(folder: Path, sizes: Sequence[tuple[int, int]]) -> Path:
    """Draw pictures of the world, with captions beside them.

    Args:
        folder: For them.
        sizes: Width and height of each, px.
    """
    from elf.world.drawing import draw
    from elf.world.scene import wood_elf_scene

    folder.mkdir(parents=True)
    for number, (width, height) in enumerate(sizes):
        path = folder / f"wood_elf-{number:03}.png"
        draw(wood_elf_scene((1, number)), width, height).save(path)
        path.with_suffix(".txt").write_text(f"wood_elf, portrait, forest, {number}")
    return folder
