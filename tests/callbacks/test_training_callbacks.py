"""Checkpoints and generator states, in real training runs."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from elf import trainer
from elf.callbacks import AdapterCheckpoint, Randomness
from elf.errors import ElfError
from elf.generation import GenerationConfig
from elf.training.checkpoints import read_checkpoint


def fit(training: list[str], folder: Path, callbacks: str, *more: str) -> None:
    trainer.fit(
        [
            *training,
            f"--trainer.default_root_dir={folder}",
            f"--trainer.callbacks={callbacks}",
            "--trainer.limit_val_batches=0",
            *more,
        ]
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_checkpoints_are_kept_and_last_is_the_last(
    training: list[str], tmp_path: Path
) -> None:
    callbacks = "[{class_path: AdapterCheckpoint, init_args: {every_n_steps: 2, keep: 2}}]"
    fit(training, tmp_path, callbacks, "--trainer.max_steps=7")
    folder = tmp_path / "checkpoints"
    assert names(folder) == ["last.ckpt", "step-000006.ckpt", "step-000007.ckpt"]
    assert read_checkpoint(folder / "last.ckpt")["global_step"] == 7


def test_the_last_step_of_the_last_epoch_is_saved(training: list[str], tmp_path: Path) -> None:
    callbacks = "[{class_path: AdapterCheckpoint, init_args: {every_n_steps: 100}}]"
    fit(training, tmp_path, callbacks, "--trainer.max_steps=-1", "--trainer.max_epochs=1")
    assert "last.ckpt" in names(tmp_path / "checkpoints")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AdapterCheckpoint(0), "AdapterCheckpoint.every_n_steps is 0; take 1 or more"),
        (lambda: AdapterCheckpoint(1, 0), "AdapterCheckpoint.keep is 0; take 1 or more, or -1"),
    ],
)
def test_arguments_that_make_no_sense(make, message: str) -> None:
    with pytest.raises(ElfError) as error:
        make()
    assert message in str(error.value)


def test_generator_states_go_round(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    torch.save(Randomness().state_dict(), path)
    expected = (random.random(), np.random.rand(), torch.rand(2).tolist())
    restored = Randomness()
    restored.load_state_dict(torch.load(path, weights_only=True))
    random.seed(5)
    torch.manual_seed(5)
    restored.on_train_start(None, None)
    assert (random.random(), np.random.rand(), torch.rand(2).tolist()) == expected


def test_generation_defaults_are_the_bases_own_size() -> None:
    assert GenerationConfig().width is None
