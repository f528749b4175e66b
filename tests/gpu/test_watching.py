"""Looking at a training on a CUDA device: real memory that runs out; run with `pytest -m gpu`."""

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from elf import trainer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

GIB = 1 << 30


@pytest.fixture
def one_gib() -> Iterator[None]:
    """Leave this process one GiB of the device's memory."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(GIB / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def test_a_preview_that_does_not_fit_is_left_out(
    training: list[str], tmp_path: Path, one_gib: None
) -> None:
    samples = (
        "{class_path: SamplePictures, init_args: {prompts: [a], every_n_steps: 2, "
        "generation: {steps: 1, width: 8192, height: 8192}}}"
    )
    with pytest.warns(UserWarning, match="no memory for the sample pictures of step"):
        cli = trainer.run(
            "fit",
            [
                *training,
                f"--trainer.default_root_dir={tmp_path}",
                "--trainer.accelerator=cuda",
                "--trainer.devices=1",
                "--trainer.precision=16-mixed",
                "--trainer.max_steps=3",
                "--trainer.log_every_n_steps=1",
                "--trainer.limit_val_batches=0",
                f"--trainer.callbacks=[{samples}]",
            ],
        )
    assert cli.trainer.global_step == 3
    pipeline = cli.model._sampler._pipeline
    assert {part.device.type for part in (pipeline.vae, pipeline.text_encoder)} == {"cpu"}
    assert cli.model.unet.training
    with open(tmp_path / "speed.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    peaks = [float(row["memory/peak_gib"]) for row in rows]
    assert len(peaks) == 3 and all(0 < peak <= 1 for peak in peaks)
    assert all(float(row["speed/pictures_per_s"]) > 0 for row in rows)
    assert torch.cuda.memory_reserved() < GIB / 2, "what the preview took is given back"


def test_figures_of_the_device_and_of_the_cpu_stand_in_one_row(
    training: list[str], tmp_path: Path
) -> None:
    """Rates are on the CPU, the adapter's norms on the device; a row may have both."""
    trainer.run(
        "fit",
        [
            *training,
            f"--trainer.default_root_dir={tmp_path}",
            "--trainer.accelerator=cuda",
            "--trainer.devices=1",
            "--trainer.max_steps=50",
            "--trainer.log_every_n_steps=5",
        ],
    )
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert any(row["lr/unet"] and any(row[key] for key in row if "adapter/" in key) for row in rows)
