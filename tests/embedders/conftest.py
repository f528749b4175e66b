"""Tiny models of the real classes, and pictures to embed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from elf import world
from elf.embedders.sscd import SSCD, Architecture
from elf.tiny.store import seeded

TINY = Architecture((1, 1, 1, 1), width=4, features=16)
"""SSCD's structure with one block a stage; torchvision fixes the stages' outer widths."""


@pytest.fixture(scope="session")
def tiny() -> Architecture:
    return TINY


@pytest.fixture(scope="session")
def sscd() -> SSCD:
    """An untrained network of SSCD's structure, whose batch norms are no identities."""
    with seeded(0):
        network = SSCD(TINY)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def sscd_file(tmp_path_factory: pytest.TempPathFactory, sscd: SSCD) -> Path:
    from safetensors.torch import save_file

    path = tmp_path_factory.mktemp("sscd") / "sscd.safetensors"
    save_file(sscd.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def dino_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Untrained DINOv2 models in folders as on the hub, by model type."""
    from transformers import (
        BitImageProcessor,
        Dinov2Config,
        Dinov2Model,
        Dinov2WithRegistersConfig,
        Dinov2WithRegistersModel,
    )
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    size |= {"image_size": 28, "patch_size": 14}
    processor = BitImageProcessor(
        size={"shortest_edge": 32},
        crop_size={"height": 28, "width": 28},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    folders = {}
    for config, model in (
        (Dinov2Config(**size), Dinov2Model),
        (Dinov2WithRegistersConfig(**size, num_register_tokens=4), Dinov2WithRegistersModel),
    ):
        folder = tmp_path_factory.mktemp(config.model_type)
        with seeded(1):
            model(config).save_pretrained(folder)
        processor.save_pretrained(folder)
        folders[config.model_type] = folder
    return folders


@pytest.fixture(scope="session")
def drawings() -> list[Image.Image]:
    """Seven drawings of several sizes, some of them side by side with one of their own size."""
    random = np.random.default_rng(0)
    sizes = ((96, 64), (96, 64), (64, 64), (64, 96), (64, 96), (64, 64), (80, 64))
    return [world.draw(world.sample_scene(random), *size) for size in sizes]
