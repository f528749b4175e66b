"""`elf fit` with a fused UNet: the losses of a plain one, an exact resume, and its switch."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from elf import trainer
from elf.export import export_diffusers
from elf.fused.blocks import FUSED
from elf.training.checkpoints import read_checkpoint

STEPS, STOP = 8, 4


def fit(arguments: list[str], folder: Path, steps: int, *more: str) -> Any:
    return trainer.run(
        "fit",
        [
            *arguments,
            f"--trainer.default_root_dir={folder}",
            "--trainer.accelerator=cpu",
            f"--trainer.max_steps={steps}",
            "--trainer.log_every_n_steps=1",
            "--trainer.val_check_interval=4",
            "--trainer.num_sanity_val_steps=1",
            "--model.validation_strata=2",
            "--trainer.enable_progress_bar=false",
            "--trainer.callbacks=[{class_path: AdapterCheckpoint, init_args: {every_n_steps: 4}}]",
            *more,
        ],
    ).model


def is_fused(model: Any) -> bool:
    kinds = {type(module) for module in model.unet.modules()}
    return set(FUSED.values()) <= kinds


def column(folder: Path, name: str) -> torch.Tensor:
    with (folder / "metrics.csv").open() as file:
        return torch.tensor([float(row[name]) for row in csv.DictReader(file) if row[name]])


@pytest.fixture
def _wherever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fuse on a CPU, too, where the operators are their formulas."""
    monkeypatch.setattr("elf.modules.diffusion.can_compile", lambda device: True)


@pytest.mark.usefixtures("_wherever")
def test_losses_are_those_of_a_plain_unet_and_a_resume_is_exact(
    training: list[str], tmp_path: Path
) -> None:
    """The adapter's dropout included, whose draws come in the same order."""
    arguments = [*training, "--model.adapter.dropout=0.2"]
    folders = {name: tmp_path / name for name in ("plain", "fused", "parts")}
    assert not is_fused(fit([*arguments, "--model.fused_kernels=false"], folders["plain"], STEPS))
    assert is_fused(fit(arguments, folders["fused"], STEPS))
    fit(arguments, folders["parts"], STOP)
    fit(arguments, folders["parts"], STEPS, "--ckpt_path=last")

    losses = {name: column(folder, "train/loss") for name, folder in folders.items()}
    assert len(losses["plain"]) == STEPS
    torch.testing.assert_close(losses["fused"], losses["plain"], rtol=0, atol=1e-5)
    assert torch.equal(losses["parts"], losses["fused"])
    validation = [column(folders[name], "val/loss") for name in ("fused", "plain")]
    torch.testing.assert_close(*validation, rtol=0, atol=1e-5)

    states = {
        name: read_checkpoint(folder / "checkpoints" / "last.ckpt")["state_dict"]
        for name, folder in folders.items()
    }
    assert states["fused"].keys() == states["plain"].keys() == states["parts"].keys()
    for key, tensor in states["fused"].items():
        assert torch.equal(states["parts"][key], tensor), key
    exported = [
        load_file(export_diffusers(folders[name], tmp_path / f"adapter-{name}", "float32"))
        for name in ("fused", "plain")
    ]
    assert exported[0].keys() == exported[1].keys()


@pytest.mark.usefixtures("_wherever")
def test_a_run_may_go_on_without_it(training: list[str], tmp_path: Path) -> None:
    """It changes no file: a machine without Triton takes over."""
    fit(training, tmp_path, 1)
    model = fit(training, tmp_path, 2, "--ckpt_path=last", "--model.fused_kernels=false")
    assert model.global_step == 2
    assert not is_fused(model)


def test_on_a_cpu_nothing_is_fused(training: list[str], tmp_path: Path) -> None:
    assert not is_fused(fit(training, tmp_path, 1))


@pytest.mark.usefixtures("_wherever")
def test_what_is_compiled_is_not_fused(
    training: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = []
    monkeypatch.setattr(
        "elf.modules.diffusion.compile_network", lambda *args: compiled.append(args)
    )
    assert not is_fused(fit(training, tmp_path, 1, "--model.torch_compile=blocks"))
    assert compiled
