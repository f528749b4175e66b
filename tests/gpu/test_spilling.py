"""Batches timed by the GPU itself, without waiting for it; run with `pytest -m gpu`."""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch

import elf.modules
from elf import trainer
from elf.callbacks.spilling import Laps, SpillWatch, card_memory
from elf.training.spilling import CardMemory

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICE = torch.device("cuda", 0)


def busy(milliseconds: float) -> None:
    """Keep the GPU at work for about so long (its clock is below 2.1 GHz)."""
    torch.cuda._sleep(int(2.1e6 * milliseconds))


def test_laps_are_the_gpus_time_and_nothing_waits_for_it(
    waiting_is_an_error: Callable[[], AbstractContextManager[None]],
) -> None:
    laps = Laps()
    busy(1)
    torch.cuda.synchronize()
    with waiting_is_an_error():
        for name, milliseconds in ((0, 5), (1, 50), (None, 80), (2, 5)):
            laps.start()
            busy(milliseconds)
            laps.stop(name)
            busy(30)  # no part of any
    assert not torch.cuda.current_stream().query(), "the processor is ahead"
    torch.cuda.synchronize()
    taken = dict(laps.taken())
    assert list(taken) == [0, 1, 2]
    assert taken[1] == pytest.approx(10 * taken[0], rel=0.5)
    assert taken[2] == pytest.approx(taken[0], rel=0.5)


def test_what_others_use_is_what_was_used_before() -> None:
    torch.cuda.empty_cache()
    read = card_memory(DEVICE)
    before = read()
    assert 0 < before.others < before.total - before.free + 1
    held = torch.empty(1 << 30, dtype=torch.uint8, device=DEVICE)
    after = read()
    assert after.others == before.others
    assert after.reserved - before.reserved >= held.nbytes
    assert not after.over


def fit(
    training: list[str],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    memory: Callable[[], CardMemory],
    slow_from: int,
) -> list[str]:
    step = elf.modules.DiffusionModule.training_step

    def delayed(self: Any, batch: Any, batch_idx: int) -> Any:
        result = step(self, batch, batch_idx)
        if self.global_step >= slow_from:
            busy(300)
        return result

    monkeypatch.setattr(elf.modules.DiffusionModule, "training_step", delayed)
    monkeypatch.setattr(
        "elf.callbacks.speed.spill_watch", lambda device: SpillWatch(memory, Laps())
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cli = trainer.run(
            "fit",
            [
                *training,
                f"--trainer.default_root_dir={folder}",
                "--trainer.accelerator=cuda",
                "--trainer.devices=1",
                "--trainer.max_steps=90",
                "--trainer.val_check_interval=20",
                "--trainer.log_every_n_steps=10",
                "--trainer.num_sanity_val_steps=0",
                "--model.optimizer.init_args.fused=true",
                "--model.validation_strata=1",
            ],
        )
    assert cli.model.stepper.passes.eager == 0
    told = [str(each.message) for each in caught]
    return [each for each in told if "system memory" in each]


@pytest.mark.parametrize("slow_from", [50, 1000], ids=["slower", "as fast"])
def test_captured_steps_that_become_slower_on_a_full_card_are_told(
    slow_from: int, training: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wait of the GPU stands for what is fetched from system memory; captures are no reason."""
    total = 8 << 30
    full = CardMemory(int(0.96 * total), 0, 0, total)
    told = fit(training, tmp_path, monkeypatch, lambda: full, slow_from)
    assert len(told) == (slow_from < 90)
    assert all(each.startswith("a batch takes 0.") for each in told)
