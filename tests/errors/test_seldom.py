"""Messages that no short command reaches."""

import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn

from elf.callbacks import BestCheckpoint
from elf.datamodules import TextDataModule
from elf.errors import ElfError
from elf.listening import check_place
from elf.training.checkpoints import read_checkpoint


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(ElfError) as error:
        call()
    return str(error.value)


def test_a_checkpoint_that_went(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    assert refusal(lambda: read_checkpoint(path)) == (
        f"no checkpoint {path}; `elf fit` writes them into checkpoints/"
    )


def test_a_metric_that_nothing_measures() -> None:
    trainer: Any = SimpleNamespace(
        state=SimpleNamespace(fn=TrainerFn.FITTING),
        sanity_checking=False,
        callback_metrics={"val_loss": torch.tensor(1.0)},
    )
    best = BestCheckpoint(monitor="val_los")
    assert refusal(lambda: best.on_validation_end(trainer, None)) == (
        "BestCheckpoint.monitor: no metric 'val_los'; there are val_loss"
    )


def test_rows_for_what_makes_pictures() -> None:
    data = TextDataModule(files=["rows.jsonl"], tokens="tokens")
    assert refusal(lambda: data.prepare_tokens(SimpleNamespace())) == (
        "data: a TextDataModule is for a LanguageModule; set model.class_path"
    )


def test_a_port_that_another_page_has() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert refusal(lambda: check_place("host", "127.0.0.1", port, "page")) == (
            f"port: {port} is in use, perhaps by another page; close that, or give another port"
        )
