"""Elf against transformers and peft alone: a loop written by hand has the same losses.

The loop shares with Elf only the batches.
"""

import csv
from pathlib import Path

import pytest
import torch
from lightning import seed_everything
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from elf import trainer
from elf.datamodules import TextDataModule
from elf.language.base import LanguageBase
from elf.language.store import TokenStore
from elf.language.tokenizing import tokenizer_hash

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
BASE = Path("models/tiny/language")
RATE = 7e-4  # the quickstart's


def by_elf(lessons: list[str], folder: Path, steps: int, *options: str) -> list[float]:
    trainer.fit(
        [
            *lessons,
            f"--model.base={BASE}",
            f"--trainer.max_steps={steps}",
            f"--trainer.default_root_dir={folder}",
            "--trainer.limit_val_batches=0",
            "--trainer.callbacks=[{class_path: AdapterCheckpoint}]",
            "--model.schedule.shape=constant",
            "--model.schedule.warmup=0",
            f"--model.optimizer.init_args.lr={RATE}",
            *options,
        ]
    )
    with (folder / "metrics.csv").open() as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


def by_hand(lessons: list[str], steps: int, dora: bool) -> list[float]:
    def option(name: str) -> str:
        (found,) = [each.partition("=")[2] for each in lessons if each.startswith(f"--{name}=")]
        return found

    data = TextDataModule(
        tokens=option("data.tokens"), length=128, held_out=0.1, batch_size=2, packing=False
    )
    store = TokenStore.open(
        data.tokens, data.settings, tokenizer_hash(LanguageBase(str(BASE)).tokenizer)
    )
    data.store, data._pad = store, 0
    loader = data.train_dataloader()
    seed_everything(0)
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    config = LoraConfig(r=16, lora_alpha=16, target_modules=TARGETS, use_dora=dora)
    model = get_peft_model(model, config).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0)
    losses = []
    while len(losses) < steps:
        for batch in loader:
            labels = torch.full_like(batch["labels"], -100)
            labels[:, 1:] = batch["labels"][:, :-1]  # transformers shifts them itself
            loss = model(input_ids=batch["tokens"], labels=labels).loss
            losses.append(float(loss.detach()))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
    return losses[:steps]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")  # peft 0.21 asks
@pytest.mark.parametrize(
    ("dora", "steps"),
    [(False, 6), (True, 6), *(pytest.param(d, 50, marks=pytest.mark.slow) for d in (False, True))],
)
def test_the_same_losses(dora: bool, steps: int, lessons: list[str], tmp_path: Path) -> None:
    options = ["--data.packing=false"] + (["--model.adapter.kind=dora"] if dora else [])
    mine = by_elf(lessons, tmp_path, steps, *options)
    theirs = by_hand(lessons, steps, dora)
    assert mine == pytest.approx(theirs, abs=1e-4)
    assert mine[0] - mine[-1] > 0.05
