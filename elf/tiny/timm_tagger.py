"""Untrained taggers of the v3 taggers' families, in the files that timm writes.

A folder holds ``config.json``, ``model.safetensors`` and ``selected_tags.csv``, as on the hub.
"""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from elf.taggers.timm_network import import_timm
from elf.tiny.store import seeded

SIZE = 32
"""Side of the tiny networks' square input, px."""

_TOKENS = {"img_size": SIZE, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}

FAMILIES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "vit": (
        "vit_base_patch16_224",
        {**_TOKENS, "class_token": False, "global_pool": "avg", "fc_norm": False,
         "act_layer": "gelu_tanh"},
    ),
    "swinv2": (
        "swinv2_base_window8_256",
        {"img_size": SIZE, "window_size": 4, "embed_dim": 16, "depths": [2, 2],
         "num_heads": [2, 4], "act_layer": "gelu_tanh"},
    ),
    "convnext": (
        "convnext_base",
        {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32], "act_layer": "gelu_tanh"},
    ),
    "eva02": ("eva02_large_patch14_448", _TOKENS),
}  # fmt: skip
"""Architecture and constructor's arguments: the v3 taggers' own, but tiny."""

SWINV2 = ("swinv2_base_window8_256", {"img_size": 448, "window_size": 14, "act_layer": "gelu_tanh"})
"""The network of wd-swinv2-tagger-v3 in its real size: 98 M weights."""


def build(
    folder: str | Path,
    family: tuple[str, dict[str, Any]] = FAMILIES["swinv2"],
    tags: int = 12,
    size: int = SIZE,
    seed: int = 0,
    rarity: float = 0.0,
) -> Path:
    """Write a tagger whose scores differ from picture to picture.

    Args:
        folder: Where to write.
        family: timm's architecture, and its constructor's arguments.
        tags: How many there are; the first four are ratings.
        size: Side of the input, px.
        seed: Of the weights.
        rarity: Taken from every logit: at 3.5 some 30 of 10,861 tags are kept, as from real ones.
    """
    from safetensors.torch import save_file

    timm = import_timm()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    architecture, arguments = family
    with seeded(seed):
        network = timm.create_model(architecture, num_classes=tags, **arguments)
        enliven(network)
        with torch.no_grad():
            network.get_classifier().bias -= rarity
    save_file(network.state_dict(), folder / "model.safetensors")
    config = {
        "architecture": architecture,
        "num_classes": tags,
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [3, size, size],
            "interpolation": "bicubic",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
        },
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    with (folder / "selected_tags.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("tag_id", "name", "category", "count"))
        ratings = ("general", "sensitive", "questionable", "explicit")
        for number in range(tags):
            rating = number < len(ratings)
            name = ratings[number] if rating else f"tag_number_{number}"
            writer.writerow((number, name, 9 if rating else 0, 0))
    return folder


def enliven(network: nn.Module) -> None:
    """Draw a network's weights so that each layer tells: timm's own begin as the identity."""
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name.endswith("logit_scale"):
                continue
            if weight.dim() > 1:
                weight.normal_(0, weight[0].numel() ** -0.5)
            elif name.endswith(("weight", "gamma")):
                weight.normal_(1, 0.2)
            else:
                weight.normal_(0, 0.2)
