"""A folder of adapters of the tiny base, with values as if they had been trained."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def run_command(base: Path, shelf: Path, *more: str) -> Iterator[str]:
    """The real command in a process of its own, in an empty folder."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "elf", "serve", f"--base={base}", f"--adapters={shelf}"),
                *(f"--port={port}", "--device=cpu", "--queue=16", "--largest_side=256"),
                *("--width=64", "--height=64", "--steps=2", "--examples=['forest, night']", *more),
            ],
            cwd=folder, stdout=log, stderr=subprocess.STDOUT, env=os.environ,
        )  # fmt: skip
        try:
            for _ in range(1200):
                with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health"):
                    break
                assert process.poll() is None, (Path(folder) / "log").read_text()
                time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            process.wait(20)


@pytest.fixture(scope="session")
def serving() -> Callable[..., contextlib.AbstractContextManager[str]]:
    """Start a server: its base, its adapters and more options; with its address."""
    return run_command
