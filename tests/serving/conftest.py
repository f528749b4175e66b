"""A folder of adapters of the tiny base, with values as if they had been trained."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from elf.adapters import AdapterConfig
from elf.bases import Base, open_base
from elf.export import export_diffusers
from elf.export.command import export_kohya
from elf.export.trained import read_trained
from elf.modules import DiffusionModule
from elf.serving.catalog import find
from elf.serving.engine import Engine

ALL = "attention+feedforward+convolutions"
CONFIGS = {
    "lora": AdapterConfig(rank=4, alpha=3, targets=ALL),
    "dora": AdapterConfig("dora", rank=2, alpha=3, axis="input"),
    "text": AdapterConfig(rank=4, targets="attention", text_targets="attention"),
}


def trained(base: Path, config: AdapterConfig, folder: Path, seed: int) -> Path:
    module = DiffusionModule(str(base), config)
    module.configure_model()
    draw = torch.Generator().manual_seed(seed)
    state = module.state_dict()
    for key, tensor in state.items():
        if ".lora_B." in key:
            tensor.normal_(0, 0.1, generator=draw)
    content: dict[str, Any] = {"state_dict": state}
    module.on_save_checkpoint(content)
    (folder / "checkpoints").mkdir(parents=True)
    torch.save(content, folder / "checkpoints" / "last.ckpt")
    return folder


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory, tiny_models: dict[str, Path]) -> Path:
    """One as a file of kohya's form, one as a run, one in a folder with diffusers' file."""
    folder, base = tmp_path_factory.mktemp("shelf"), tiny_models["base"]
    runs = tmp_path_factory.mktemp("runs")
    for number, (name, config) in enumerate(CONFIGS.items()):
        run = trained(base, config, (folder if name == "dora" else runs) / name, number)
        if name == "lora":
            export_kohya(read_trained(run), str(base), folder, "float32", trigger="wood_elf")
        elif name == "text":
            export_diffusers(run, folder / name, "float32")
    return folder


@pytest.fixture
def base(tiny_models: dict[str, Path]) -> Base:
    return open_base(str(tiny_models["base"]))


@pytest.fixture
def engine(base: Base, shelf: Path) -> Engine:
    served, refused = find(shelf, {}, base)
    assert not refused
    return Engine(base, served, torch.device("cpu"), torch.float32)


@pytest.fixture(scope="session")
def make() -> Callable[..., Path]:
    return trained
