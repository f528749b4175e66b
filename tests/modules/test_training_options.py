"""Every option of a training that a CPU can run: it trains, goes on bit by bit, and exports."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from elf import trainer
from elf.checkpoints import evaluated_state, read_checkpoint
from elf.export import export_diffusers

STEPS, STOP = 4, 2


@dataclass(frozen=True)
class Option:
    """A row of the table: options of `elf fit`, and how they are prepared."""

    fit: tuple[str, ...] = ()
    base: str = "base"  # base, or sdxl
    live: bool = False
    tokens: int = 75  # of a caption


def optimizer(path: str, **arguments: Any) -> tuple[str, ...]:
    given = {"lr": 2e-3, **arguments}
    return (
        f"--model.optimizer.class_path={path}",
        *(f"--model.optimizer.init_args.{key}={value}" for key, value in given.items()),
    )


TE = ("--model.adapter.text_targets=attention", "--model.learning_rates.text_encoder=1e-3")
OPTIONS = {
    "dora": Option(("--model.adapter.kind=dora", "--model.adapter.dropout=0.1")),
    "rslora, gaussian, convolutions": Option(
        (
            "--model.adapter.rslora=true",
            "--model.adapter.init=gaussian",
            "--model.adapter.targets=attention+feedforward+convolutions",
        )
    ),
    "pissa": Option(("--model.adapter.init=pissa",)),
    "groups, lora plus": Option(
        (
            "--model.adapter.groups=[{pattern: mid_block.*, rank: 2, alpha: 4, lr_scale: 0.5}]",
            "--model.learning_rates.lora_plus=4",
        )
    ),
    "text encoder": Option((*TE, "--data.prior_preservation=0.33"), live=True),
    "text encoder, checkpointing": Option((*TE, "--model.gradient_checkpointing=true"), live=True),
    "live captions": Option(
        ("--data.shuffle_tags=true", "--data.tag_dropout=0.2", "--data.caption_dropout=0.3"),
        live=True,
    ),
    "nf4, dora, checkpointing": Option(
        (
            "--model.quantization=nf4",
            "--model.adapter.kind=dora",
            "--model.gradient_checkpointing=true",
            "--model.ema.decay=0.9",
        )
    ),
    "int8, pissa": Option(("--model.quantization=int8", "--model.adapter.init=pissa")),
    "nf4, sdxl": Option(("--model.quantization=nf4",), base="sdxl"),
    "sdxl": Option(("--model.adapter.kind=dora",), base="sdxl"),
    "sdxl, text encoders": Option(TE, base="sdxl", live=True),
    "long captions": Option(("--data.caption_dropout=0.3",), tokens=150),
    "sdxl, text encoders, long captions": Option(TE, base="sdxl", live=True, tokens=225),
    "v, zero-terminal snr, debiased": Option(
        (
            "--model.prediction_type=v_prediction",
            "--model.zero_terminal_snr=true",
            "--model.objective.weighting=debiased",
        )
    ),
    "huber, noise, timesteps": Option(
        (
            "--model.objective.error=huber",
            "--model.objective.noise_offset=0.1",
            "--model.objective.input_perturbation=0.1",
            "--model.objective.timesteps.distribution=logit_normal",
            "--model.objective.timesteps.shift=2",
        )
    ),
    "smooth l1, no weights": Option(
        (
            "--model.objective.error=smooth_l1",
            "--model.objective.huber.schedule=exponential",
            "--model.objective.weighting=none",
        )
    ),
    "ema, accumulation": Option(("--model.ema.decay=0.9", "--trainer.accumulate_grad_batches=2")),
    "fused adamw, cosine": Option(
        (
            *optimizer("torch.optim.AdamW", fused="true"),
            "--model.schedule.shape=cosine",
            "--model.schedule.warmup=1",
            f"--model.schedule.total_steps={STEPS}",
        )
    ),
    "clip by value, polynomial": Option(
        (
            "--trainer.gradient_clip_algorithm=value",
            "--trainer.gradient_clip_val=0.001",
            "--model.schedule.shape=polynomial",
            f"--model.schedule.total_steps={STEPS}",
        )
    ),
    "adamw 8 bit": Option(optimizer("bitsandbytes.optim.AdamW8bit", min_8bit_size=256)),
    "adafactor": Option(optimizer("torch.optim.Adafactor")),
    "prodigy": Option(optimizer("prodigyopt.Prodigy", lr=1.0)),
    "schedule-free": Option(optimizer("schedulefree.AdamWScheduleFree", warmup_steps=2)),
}
AVERAGED = {"ema, accumulation", "schedule-free", "nf4, dora, checkpointing"}
LONG = {  # what other rows have most of
    "text encoder, checkpointing",
    "sdxl, text encoders, long captions",
    "smooth l1, no weights",
    "adafactor",
    "nf4, sdxl",
}
ROWS = [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in OPTIONS]


@dataclass
class Prepared:
    """Shards by base, by whether captions are encoded live and by their length, each made once."""

    training: list[str]
    folder: Path
    bases: dict[str, Path]
    made: set[str] = field(default_factory=set)

    def arguments(self, option: Option) -> list[str]:
        name = f"shards-{option.base}-{option.tokens}" + ("-live" if option.live else "")
        arguments = [
            *self.training,
            f"--model.base={self.bases[option.base]}",
            f"--model.caption_tokens={option.tokens}",
            f"--data.shards={self.folder / name}",
            *(["--data.text_states=live"] if option.live else []),
        ]
        if name not in self.made:
            trainer.prepare(arguments)
            self.made.add(name)
        return arguments


@pytest.fixture(scope="module")
def prepared(
    training: list[str], labelled: Path, tiny_models: dict[str, Path], tiny_sdxl: Path
) -> Prepared:
    return Prepared(training, labelled, {"base": tiny_models["base"], "sdxl": tiny_sdxl})


def fit(arguments: list[str], folder: Path, steps: int, *more: str) -> dict[str, Any]:
    trainer.fit(
        [
            *arguments,
            f"--trainer.default_root_dir={folder}",
            f"--trainer.max_steps={steps}",
            "--trainer.log_every_n_steps=1",
            "--trainer.val_check_interval=2",
            "--trainer.num_sanity_val_steps=0",
            "--model.validation_strata=2",
            "--data.validate_trained=1",
            "--trainer.enable_progress_bar=false",
            "--trainer.callbacks=[{class_path: AdapterCheckpoint, init_args: {every_n_steps: 2}}]",
            *more,
        ]
    )
    return read_checkpoint(folder / "checkpoints" / "last.ckpt")


def flat(value: object, prefix: str = "") -> dict[str, object]:
    """Return all leaves of nested dicts and lists by their path."""
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list | tuple):
        items = list(enumerate(value))
    else:
        return {prefix: value}
    return {k: v for key, inner in items for k, v in flat(inner, f"{prefix}/{key}").items()}


def different(first: object, second: object) -> list[str]:
    one, other = flat(first), flat(second)
    assert one.keys() == other.keys()
    return [
        key
        for key, value in one.items()
        if not (
            torch.equal(value, other[key])
            if isinstance(value, torch.Tensor)
            else value == other[key]
        )
    ]


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.filterwarnings("ignore:min_snr gives timestep")
def test_it_trains_goes_on_and_exports(name: str, prepared: Prepared, tmp_path: Path) -> None:
    option = OPTIONS[name]
    arguments = [*prepared.arguments(option), *option.fit]
    whole = fit(arguments, tmp_path / "whole", STEPS)
    fit(arguments, tmp_path / "parts", STOP)
    parts = fit(arguments, tmp_path / "parts", STEPS, "--ckpt_path=last")
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "elf"):
        assert different(whole[part], parts[part]) == [], part
    tables = [(tmp_path / run / "metrics.csv").read_text() for run in ("whole", "parts")]
    assert tables[0] == tables[1]

    evaluated = evaluated_state(whole)
    assert bool(different(evaluated, whole["state_dict"])) == (name in AVERAGED)
    assert ("averaged" in whole["elf"]) == (name in AVERAGED)
    exported = load_file(export_diffusers(tmp_path / "whole", tmp_path / "adapter", "float32"))
    assert {key.split(".")[0] for key in exported} == {key.split(".")[0] for key in evaluated}
    key = next(key for key in exported if key.endswith("lora_B.weight") and key.startswith("unet."))
    if "pissa" not in name:  # whose file holds the difference to what it began as
        assert torch.equal(exported[key], evaluated[key])


def test_a_run_goes_on_from_its_best_checkpoint_too(prepared: Prepared, tmp_path: Path) -> None:
    option = OPTIONS["ema, accumulation"]
    arguments = [*prepared.arguments(option), *option.fit]
    best = "{class_path: BestCheckpoint, init_args: {keep: 2, monitor: val_trained/loss}}"
    callbacks = (f"--trainer.callbacks=[{{class_path: AdapterCheckpoint}}, {best}]",)
    whole = fit(arguments, tmp_path / "whole", 6, *callbacks)
    kept = sorted(path.name for path in (tmp_path / "whole/checkpoints").glob("best-*"))
    assert len(kept) == 2
    newest = read_checkpoint(tmp_path / "whole/checkpoints" / kept[-1])
    assert sorted(newest["callbacks"]["BestCheckpoint"]["kept"]) == kept
    middle = tmp_path / "whole/checkpoints" / kept[0]
    parts = fit(arguments, tmp_path / "parts", 6, *callbacks, f"--ckpt_path={middle}")
    for part in ("state_dict", "optimizer_states", "elf"):
        assert different(whole[part], parts[part]) == [], part
