"""Models of full size with random weights, for what asks how fast and not how well.

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
CLIP = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
        "num_attention_heads": 16, "image_size": 336, "patch_size": 14}  # fmt: skip
CLIP_TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
             "num_attention_heads": 12}  # fmt: skip


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


def write_adapter(base: Path, folder: Path, size: float = 0.02) -> Path:
    """Write a run's folder whose only checkpoint is a LoRA of rank 16 with random updates.

    Args:
        base: Its base.
        folder: For it.
        size: Standard deviation of B.
    """
    from elf.adapters import AdapterConfig
    from elf.modules import DiffusionModule

    module = DiffusionModule(str(base), AdapterConfig("lora", 16))
    module.configure_model()
    state = module.state_dict()
    draw = torch.Generator().manual_seed(0)
    for key, tensor in state.items():
        if ".lora_B." in key:
            tensor.normal_(0, size, generator=draw)
    checkpoint = {"state_dict": state}
    module.on_save_checkpoint(checkpoint)
    path = folder / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True)
    torch.save(checkpoint, path)
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


def write_clip(folder: Path, device: torch.device | str, tiny: bool = False) -> Path:
    """Write a model of the size of openai/clip-vit-large-patch14-336, 1.7 GB in float32."""
    from accelerate import init_empty_weights
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    vision, text = CLIP, CLIP_TEXT
    if tiny:
        few = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
               "num_attention_heads": 2}  # fmt: skip
        vision, text = {**few, "image_size": 28, "patch_size": 14}, few
    side = vision["image_size"]
    tokenizer = clip_tokenizer(vocabulary())
    ends = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos")}
    config = CLIPConfig(
        vision_config=vision,
        text_config={**text, **ends, "pad_token_id": tokenizer.pad_token_id},
        projection_dim=text["hidden_size"],
    )
    with init_empty_weights(include_buffers=False):
        network = CLIPModel(config)
    filled(network, torch.float32, device).save_pretrained(folder)
    processor = CLIPImageProcessor(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    )
    processor.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_dino(folder: Path, device: torch.device | str, tiny: bool = False) -> Path:
    """Write a model of the size of facebook/dinov2-base, 0.35 GB in float32."""
    from accelerate import init_empty_weights
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    size = {"image_size": 518, "patch_size": 14}
    if tiny:
        size |= {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    with init_empty_weights(include_buffers=False):
        network = Dinov2Model(Dinov2Config(**size))
    filled(network, torch.float32, device)
    for name, parameter in network.named_parameters():
        if "layer_scale" in name:  # at zero a layer does nothing
            parameter.data.fill_(1.0)
    network.save_pretrained(folder)
    processor = BitImageProcessor(
        size={"shortest_edge": 256},
        crop_size={"height": 224, "width": 224},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    processor.save_pretrained(folder)
    return folder
