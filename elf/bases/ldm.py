"""Where a single file keeps each tensor of a pipeline: names of LDM, CLIP and OpenCLIP.

Single files use the names of the code that the models were trained with: latent-diffusion
(Rombach et al. 2022) and generative-models (Podell et al. 2023) count the UNet's blocks in one
row, where diffusers numbers them by resolution; OpenCLIP keeps q, k and v in one matrix.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

UNET, VAE = "model.diffusion_model.", "first_stage_model."
CLIP = {"sd15": "cond_stage_model.transformer.", "sdxl": "conditioner.embedders.0.transformer."}
OPEN_CLIP = "conditioner.embedders.1.model."


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in a single file.

    Attributes:
        key: The name there.
        third: Which third of the rows: 0 is q, 1 is k, 2 is v. None is all of them.
        transposed: Whether rows and columns are exchanged.
    """

    key: str
    third: int | None = None
    transposed: bool = False


def prefix(family: str, part: str) -> str:
    """Return what all names of a part begin with."""
    if part == "text_encoder":
        return CLIP[family]
    return {"unet": UNET, "vae": VAE, "text_encoder_2": OPEN_CLIP}[part]


def places(
    family: str, part: str, names: Iterable[str], config: Mapping[str, Any]
) -> dict[str, Place]:
    """Return the place of each of a part's tensors.

    Args:
        family: Name of the family.
        part: ``unet``, ``vae`` or a text encoder.
        names: The tensors, as diffusers and transformers name them.
        config: The part's configuration.
    """
    start = prefix(family, part)
    if part == "unet":
        return {name: Place(start + _unet_key(name, config)) for name in names}
    if part == "vae":
        blocks = len(config["block_out_channels"])
        return {name: Place(start + _vae_key(name, blocks)) for name in names}
    if part == "text_encoder":
        # transformers 5 has no level `text_model` in CLIPTextModel; single files have it
        return {name: Place(f"{start}text_model.{_plain(name)}") for name in names}
    return {name: _open_clip_place(start, _plain(name)) for name in names}


def _plain(name: str) -> str:
    return name.removeprefix("text_model.")


def _renamed(name: str, table: Mapping[str, str]) -> str:
    """Replace whole leading parts of a name by the first entry that fits."""
    for old, new in table.items():
        if name == old or name.startswith(f"{old}."):
            return new + name[len(old) :]
    return name


_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.attentions.0": "middle_block.1",
}
_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_BLOCK = re.compile(r"(down|up|mid)_block(?:s\.(\d+))?\.(\w+)\.(\d+)\.(.+)")


def _unet_key(name: str, config: Mapping[str, Any]) -> str:
    """LDM counts input and output blocks through all resolutions; 0 in a block is the resnet."""
    found = _BLOCK.fullmatch(name)
    if found is None or (found[1] == "mid" and found[3] == "attentions"):
        return _renamed(name, _UNET_ENDS)
    where, kind, inner = found[1], found[3], found[5]
    block, number = int(found[2] or 0), int(found[4])
    if kind == "resnets":
        inner = _renamed(inner, _UNET_RESNET)
    if where == "mid":
        return f"middle_block.{2 * number}.{inner}"
    each = int(config["layers_per_block"]) + (1 if where == "up" else 0)
    if where == "down":
        first = 1 + block * (each + 1)
        if kind == "downsamplers":
            return f"input_blocks.{first + each}.0.op.{inner.removeprefix('conv.')}"
        return f"input_blocks.{first + number}.{int(kind == 'attentions')}.{inner}"
    first = block * each
    if kind == "upsamplers":  # it comes last in its block, after an attention if there is one
        attends = "CrossAttn" in config["up_block_types"][block]
        return f"output_blocks.{first + each - 1}.{2 if attends else 1}.{inner}"
    return f"output_blocks.{first + number}.{int(kind == 'attentions')}.{inner}"


_VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}


def _vae_key(name: str, blocks: int) -> str:
    """LDM numbers the decoder's blocks from the picture, diffusers from the latents."""
    side, _, rest = name.partition(".")
    found = _BLOCK.fullmatch(rest)
    if found is None:
        return f"{side}.{rest}".replace("conv_norm_out", "norm_out")
    where, kind, inner = found[1], found[3], found[5]
    block, number = int(found[2] or 0), int(found[4])
    inner = _renamed(inner, {"conv_shortcut": "nin_shortcut"})
    if where == "mid":
        if kind == "attentions":
            return f"{side}.mid.attn_1.{_renamed(inner, _VAE_ATTENTION)}"
        return f"{side}.mid.block_{number + 1}.{inner}"
    if where == "up":
        block = blocks - 1 - block
    if kind == "resnets":
        return f"{side}.{where}.{block}.block.{number}.{inner}"
    return f"{side}.{where}.{block}.{where}sample.{inner}"


_OPEN_CLIP_ENDS = {
    "embeddings.position_embedding.weight": "positional_embedding",
    "embeddings.token_embedding": "token_embedding",
    "final_layer_norm": "ln_final",
}
_OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_LAYER = re.compile(r"encoder\.layers\.(\d+)\.(.+)")
_THIRD = re.compile(r"self_attn\.([qkv])_proj\.(weight|bias)")


def _open_clip_place(start: str, name: str) -> Place:
    if name == "text_projection.weight":
        return Place(f"{start}text_projection", transposed=True)
    found = _LAYER.fullmatch(name)
    if found is None:
        return Place(start + _renamed(name, _OPEN_CLIP_ENDS))
    layer = f"{start}transformer.resblocks.{found[1]}"
    if third := _THIRD.fullmatch(found[2]):
        return Place(f"{layer}.attn.in_proj_{third[2]}", third="qkv".index(third[1]))
    return Place(f"{layer}.{_renamed(found[2], _OPEN_CLIP_LAYER)}")
