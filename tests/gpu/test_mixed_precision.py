"""fp16 and bf16 mixed precision on a CUDA device; run with `pytest -m gpu`."""

from pathlib import Path

import pytest
import torch

from elf import trainer
from elf.export import export_diffusers
from elf.training.checkpoints import read_checkpoint

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def fit(training: list[str], folder: Path, *more: str) -> trainer.ElfCLI:
    return trainer.run(
        "fit",
        [
            *training,
            f"--trainer.default_root_dir={folder}",
            "--trainer.accelerator=cuda",
            "--trainer.devices=1",
            "--model.gradient_checkpointing=true",
            "--model.adapter.dropout=0",  # no graph holds both
            *more,
        ],
    )


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_an_adapter_learns(training: list[str], tmp_path: Path, precision: str, kind: str) -> None:
    cli = fit(
        training,
        tmp_path,
        f"--trainer.precision={precision}",
        f"--model.adapter.kind={kind}",
        "--trainer.max_steps=40",
    )
    metrics = cli.trainer.callback_metrics
    assert metrics["val/loss"] < 0.95 * metrics["val/loss_base"]
    module = cli.model
    assert {p.dtype for p in module.unet.parameters() if p.requires_grad} == {torch.float32}
    frozen = {p.dtype for p in module.unet.parameters() if not p.requires_grad}
    assert frozen == {torch.float16 if precision == "16-mixed" else torch.bfloat16}
    assert (tmp_path / "samples" / "step-000000.png").exists()
    assert export_diffusers(tmp_path, tmp_path / "out").exists()


def test_a_run_in_fp16_goes_on_with_its_scaler(training: list[str], tmp_path: Path) -> None:
    options = ("--trainer.precision=16-mixed", "--trainer.limit_val_batches=0")
    fit(training, tmp_path / "whole", *options, "--trainer.max_steps=12")
    fit(training, tmp_path / "parts", *options, "--trainer.max_steps=5")
    fit(training, tmp_path / "parts", *options, "--trainer.max_steps=12", "--ckpt_path=last")
    whole, parts = (
        read_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt")
        for name in ("whole", "parts")
    )
    assert whole["MixedPrecision"] == parts["MixedPrecision"]
    for key, tensor in whole["state_dict"].items():
        torch.testing.assert_close(parts["state_dict"][key], tensor, rtol=1e-2, atol=1e-4)
