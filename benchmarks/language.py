"""Training a language model: transformers' Trainer with peft, and `elf fit`, at the same settings.

python benchmarks/language.py --size 0.5b --json language.json
python benchmarks/language.py --size tiny --device cpu --steps 4   # does the script work?

A model of full size with random weights in bfloat16, LoRA of rank 16 on all linear layers of the
blocks in float32, AdamW, clipping, chats of log-normal lengths (median 190 tokens, at most 1,024),
losses on the answers. The Trainer pads each batch of eight to its longest chat; Elf without packing
takes eight of similar lengths; with packing as many rows of 1,024 tokens as `--rows` says, about
the places that the Trainer's batches have. Both are whole loops, loader included; figures are over
the steps after the first `--warmup`, in tokens that are no padding. Each side has a process of its
own, twice, in turns. `--json` adds rows to a file that is there already.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from random_language import SIZES, write_chats, write_model
from train_step import add_rows

GIB = 1 << 30
LENGTH, BATCH, RANK = 1024, 8, 16
SIDES = ("trainer", "elf, padded", "elf, packed")
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def elf_arguments(folder: Path, options: argparse.Namespace, packed: bool) -> list[str]:
    """Return the arguments of `elf prepare` and `elf fit`."""
    on_gpu = options.device == "cuda"
    steps = options.warmup + options.steps
    return [
        "--config=configs/train/language-quickstart.yaml",
        f"--model.base={folder / 'model'}",
        f"--model.adapter.rank={RANK}",
        "--model.optimizer.init_args.lr=1.0e-4",
        "--model.optimizer.init_args.fused=true",  # as the Trainer's is
        f"--data.files=[{folder / 'chats.jsonl'}]",
        f"--data.tokens={folder / 'tokens'}",
        f"--data.length={LENGTH}",
        f"--data.packing={str(packed).lower()}",
        f"--data.batch_size={options.rows if packed else BATCH}",
        f"--trainer.default_root_dir={folder / f'run-{time.time_ns()}'}",
        f"--trainer.accelerator={'cuda' if on_gpu else 'cpu'}",
        f"--trainer.precision={'bf16-mixed' if on_gpu else '32-true'}",
        f"--trainer.max_steps={steps}",
        "--trainer.limit_val_batches=0",
        "--trainer.enable_progress_bar=false",
        "--trainer.callbacks=[{class_path: AdapterCheckpoint, init_args: {every_n_steps: 100000}}]",
    ]


class Clock:
    """Time and tokens of the steps after the first ones.

    Args:
        warmup: Steps that are not counted.
        device: Where they are taken.
    """

    def __init__(self, warmup: int, device: str) -> None:
        self.warmup, self.device = warmup, device
        self.begun = time.perf_counter()
        self.start = self.first = 0.0
        self.tokens = self.steps = 0
        self.reserved = 0.0

    def step(self, done: int, tokens: int) -> None:
        """Note that so many steps are done, the last of so many tokens."""
        if self.device == "cuda":  # each time: Elf's rows of speed begin the peak anew
            self.reserved = max(self.reserved, torch.cuda.max_memory_reserved() / GIB)
        if done == 1:
            self._wait()
            self.first = time.perf_counter() - self.begun
        if done == self.warmup:
            self._wait()
            self.start, self.tokens, self.steps = time.perf_counter(), 0, 0
        elif done > self.warmup:
            self.tokens += tokens
            self.steps += 1

    def figures(self) -> dict[str, float]:
        """Return what was found, once all steps are done."""
        self._wait()
        seconds = time.perf_counter() - self.start
        return {
            "tokens_per_s": self.tokens / seconds,
            "step_ms": 1e3 * seconds / self.steps,
            "tokens_a_step": self.tokens / self.steps,
            "first_step_s": self.first,
            "reserved_gib": self.reserved,
        }

    def _wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def by_trainer(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Train with transformers and peft alone."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

    from elf.datamodules import TextDataModule
    from elf.language.base import LanguageBase
    from elf.language.store import TokenStore
    from elf.language.tokenizing import tokenizer_hash

    data = TextDataModule(length=LENGTH)
    made = tokenizer_hash(LanguageBase(str(folder / "model")).tokenizer)
    store = TokenStore.open(folder / "tokens", data.settings, made)
    on_gpu = options.device == "cuda"

    class Documents(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(store.train)

        def __getitem__(self, place: int) -> Any:
            return store.document(int(store.train[place]))

    seen = {"tokens": 0}

    def collate(documents: list[Any]) -> dict[str, torch.Tensor]:
        longest = max(len(tokens) for tokens, _ in documents)
        shape = (len(documents), longest)
        ids, mask = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64)
        labels = torch.full(shape, -100)
        for row, (tokens, trained) in enumerate(documents):
            size = len(tokens)
            words = torch.from_numpy(tokens)
            ids[row, :size], mask[row, :size] = words, 1
            labels[row, :size] = torch.where(torch.from_numpy(trained), words, -100)
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}

    clock = Clock(options.warmup, options.device)

    class Timing(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            clock.step(state.global_step, seen["tokens"])

    dtype = torch.bfloat16 if on_gpu else torch.float32
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=dtype)
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS, task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        per_device_train_batch_size=BATCH,
        max_steps=options.warmup + options.steps,
        learning_rate=1e-4,
        max_grad_norm=1.0,
        bf16=on_gpu,
        use_cpu=not on_gpu,
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_num_workers=2 if on_gpu else 0,
        seed=0,
    )

    class Whole(Trainer):
        """Counts tokens where they are on the CPU yet."""

        def _prepare_inputs(self, inputs: Any) -> Any:
            seen["tokens"] = int(inputs["attention_mask"].sum())
            return super()._prepare_inputs(inputs)

    Whole(
        model=model,
        args=arguments,
        train_dataset=Documents(),
        data_collator=collate,
        callbacks=[Timing()],
    ).train()
    return clock.figures()


def by_elf(folder: Path, options: argparse.Namespace, packed: bool) -> dict[str, float]:
    """Train with `elf fit`."""
    from lightning.pytorch import Callback

    from elf import trainer as commands

    clock = Clock(options.warmup, options.device)

    class Timing(Callback):
        def on_train_batch_end(
            self, trainer: Any, module: Any, outputs: Any, batch: Any, *_: Any
        ) -> None:
            clock.step(trainer.global_step, batch["seen"])

    class TimedCLI(commands.ElfCLI):
        def instantiate_trainer(self, **kwargs: Any) -> Any:
            made = super().instantiate_trainer(**kwargs)
            made.callbacks.append(Timing())
            return made

        def after_fit(self) -> None:
            passes = self.model.stepper.passes
            if options.device == "cuda" and passes.eager:
                raise SystemExit(f"{passes.eager} steps were not captured")

    TimedCLI(["fit", *elf_arguments(folder, options, packed)])
    return clock.figures()


def measure(options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Return a row for each side, from processes of their own."""
    from elf import trainer as commands

    dtype = torch.bfloat16 if options.device == "cuda" else torch.float32
    write_model(folder / "model", options.size, dtype, options.device)
    write_chats(folder / "chats.jsonl", options.chats, LENGTH)
    commands.prepare(elf_arguments(folder, options, packed=True))
    found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for _ in range(options.repeats):
        for side in SIDES:
            command = [sys.executable, __file__, *sys.argv[1:], "--side", side, "--folder", folder]
            done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{side}: {done.stderr[-3000:]}")
            (line,) = [x for x in done.stdout.splitlines() if x.startswith("FOUND ")]
            found[side].append(json.loads(line.removeprefix("FOUND ")))
    rows = []
    baseline = statistics.median(each["tokens_per_s"] for each in found["trainer"])
    for side in SIDES:
        figures = {
            key: statistics.median(each[key] for each in found[side]) for key in found[side][0]
        }
        rows.append(
            {
                "name": f"language {options.size}: {side}",
                "value": figures["tokens_per_s"],
                "unit": "tokens/s",
                "baseline": baseline,
                "ratio": figures["tokens_per_s"] / baseline,
                **figures,
            }
        )
        print(
            f"{rows[-1]['name']:32} {rows[-1]['value']:10,.0f} tokens/s  ×{rows[-1]['ratio']:.2f}  "
            f"{figures['step_ms']:.1f} ms a step of {figures['tokens_a_step']:,.0f} tokens  "
            f"{figures['reserved_gib']:.2f} GiB reserved  "
            f"first {figures['first_step_s']:.1f} s"
        )
    return rows


def main() -> None:
    """Measure, print, and add the rows to a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=list(SIZES), default="0.5b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rows", type=int, default=4, help="of 1,024 tokens, with packing")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--warmup", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--chats", type=int, default=4000)
    parser.add_argument("--side", choices=SIDES, help="used by the script itself")
    parser.add_argument("--folder", type=Path, help="likewise")
    parser.add_argument("--json", type=Path, help="file for the rows")
    options = parser.parse_args()
    if options.side:
        side = options.side
        found = (
            by_trainer(options.folder, options)
            if side == "trainer"
            else by_elf(options.folder, options, packed=side.endswith("packed"))
        )
        print("FOUND", json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(options, Path(folder))
    if options.json:
        add_rows(options.json, rows, options.device == "cuda")


if __name__ == "__main__":
    main()
