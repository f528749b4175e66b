"""Every option of a training that a CPU can run: it trains, goes on bit by bit, and exports."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from elf import trainer
from elf.adapters import AdapterConfig
from elf.datamodules import ShardDataModule
from elf.errors import ElfError
from elf.export import export_diffusers
from elf.modules import DiffusionModule
from elf.objective import HuberConfig
from elf.objective.diffusion import draw_uniform, generators
from elf.objective.timesteps import timesteps_at
from elf.preparation.shards import Reader
from elf.training.checkpoints import evaluated_state, read_checkpoint

STEPS, STOP = 4, 2


@dataclass
class Run:
    """What a row's training was, to see whether its options took effect."""

    module: DiffusionModule
    batches: list[dict[str, Any]]
    checkpoint: dict[str, Any]

    @property
    def data(self) -> ShardDataModule:
        data: ShardDataModule = self.module.trainer.datamodule
        return data

    @property
    def adapter(self) -> dict[str, torch.Tensor]:
        state: dict[str, torch.Tensor] = self.checkpoint["state_dict"]
        return state

    def column(self, name: str) -> torch.Tensor:
        return torch.cat([batch[name] for batch in self.batches])


@dataclass(frozen=True)
class Option:
    """A row of the table: options of `elf fit`, how they are prepared, and what shows of them."""

    fit: tuple[str, ...] = ()
    base: str = "base"  # base, or sdxl
    live: bool = False
    tokens: int = 75  # of a caption
    data: Callable[[Path], tuple[str, ...]] | None = None  # makes, in a folder, pictures of its own
    took: Callable[[Run], None] | None = None


def optimizer(path: str, **arguments: Any) -> tuple[str, ...]:
    given = {"lr": 2e-3, **arguments}
    return (
        f"--model.optimizer.class_path={path}",
        *(f"--model.optimizer.init_args.{key}={value}" for key, value in given.items()),
    )


def masked(folder: Path) -> tuple[str, ...]:
    """The pictures, each with a mask of its left half."""
    pictures = folder / "masked"
    shutil.copytree(folder / "pictures", pictures)
    for picture in list(pictures.iterdir()):
        with Image.open(picture) as image:
            mask = Image.new("L", image.size)
            mask.paste(255, (0, 0, image.width // 2, image.height))
            mask.save(picture.with_suffix(".mask.png"))
    return (f"--data.pictures={pictures}",)


def classes(folder: Path) -> tuple[str, ...]:
    """The pictures, mirrored at times, beside class pictures that count half."""
    (folder / "classes").mkdir()
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "classes" / f"{number}.png")
    learnt = f"pictures: {folder / 'pictures'}, labels: {folder / 'labels'}, flip: true"
    known = f"pictures: {folder / 'classes'}, default_caption: forest, regularisation: true"
    return (
        "--data.pictures=data/raw",  # as they are by default: the sets have others
        "--data.labels=data/labels",
        f"--data.sets=[{{{learnt}}}, {{{known}, weight: 0.5}}]",
    )


def shuffled(_: Path) -> tuple[str, ...]:
    return ("--data.shuffle_tags=true", "--data.caption_variants=3")


def masks_and_objective_count(run: Run) -> None:
    batch, denoiser = run.batches[-1], run.module.denoiser.eval()
    config = denoiser.config
    with torch.no_grad():
        given = denoiser.training_errors(batch)[1]
        for change in (
            {"masked": False},
            {"unmasked_weight": 0.0},
            {"mask_by_area": False},
            {"weighting": "none"},
            {"huber": HuberConfig(schedule="snr")},
        ):
            denoiser.config = replace(config, **change)
            assert not torch.allclose(denoiser.training_errors(batch)[1], given), change


def timesteps_are_of_their_distribution(run: Run) -> None:
    config = run.module.objective.timesteps
    drawn, u = run.column("timesteps"), draw_uniform(generators(run.column("seed")))
    uniform = replace(config, distribution="uniform")
    assert not torch.equal(drawn, timesteps_at(u, uniform, 1000))
    last = 999 if config.last is None else config.last
    assert config.first > 0 and ((config.first <= drawn) & (drawn <= last)).all()


def classes_count_half_and_others_are_mirrored(run: Run) -> None:
    timesteps_are_of_their_distribution(run)
    classes, weights = run.column("regularisation"), run.column("loss_weight")
    assert classes.any() and not classes.all()
    assert torch.equal(weights, torch.where(classes, 0.5, 1.0))
    data, found = run.data, set[tuple[bool | str, ...]]()
    assert data.prepared is not None
    reader, examples = Reader(Path(data.shards)), {each.id: each for each in data.prepared.train}
    for batch in data.train_dataloader():
        for name, mean in zip(batch["id"], batch["latent_mean"].numpy(), strict=True):
            example = examples[name]
            forms = {"plain": example.latent, "mirrored": example.flipped}
            stored = {form: cached.read(reader)[0] for form, cached in forms.items() if cached}
            same = [form for form, latent in stored.items() if np.array_equal(mean, latent)]
            found.add((example.regularisation, *same))
    reader.close()
    assert found == {(False, "plain"), (False, "mirrored"), (True, "plain")}


def captions_have_another_order(run: Run) -> None:
    assert run.data.prepared is not None
    plain = {each.id: each.captions.drawn(None, False) for each in run.data.prepared.train}
    drawn = [
        (caption, plain[name])
        for batch in run.batches
        for name, caption in zip(batch["id"], batch["caption"], strict=True)
    ]
    same_tags = [(a, b) for a, b in drawn if sorted(a.split(", ")) == sorted(b.split(", "))]
    assert any(caption != as_it_stands for caption, as_it_stands in same_tags)


def a_rate_for_each_network(run: Run) -> None:
    groups = run.checkpoint["optimizer_states"][0]["param_groups"]
    rates = {group["name"]: group["lr"] for group in groups}
    assert rates == {"unet": 2e-3, "text_encoder": 1e-3, "text_encoder_2": 5e-4}


def projections_are_trained(run: Run) -> None:
    layers = {key.split(".lora_")[0].rsplit(".", 1)[1] for key in run.adapter}
    assert {"to_q", "proj_in", "proj_out"} <= layers


def b_began_as_columns_of_q(run: Run) -> None:
    first = [tensor for key, tensor in run.adapter.items() if key.endswith("lora_initial_B")]
    assert first
    for b in first:
        torch.testing.assert_close(b.T @ b, torch.eye(b.shape[1]), atol=1e-5, rtol=0)


def norms_are_of_columns_and_b_began_away_from_zero(run: Run) -> None:
    for key in [key for key in run.adapter if key.endswith("lora_A.weight")]:
        name = key.removesuffix("lora_A.weight")
        a, b = run.adapter[key], run.adapter[f"{name}lora_B.weight"]
        magnitude = run.adapter[f"{name}lora_magnitude_vector.weight"]
        assert magnitude.numel() == a.shape[1]
        assert b.abs().max() > 0.02, "AdamW moves a value by 0.002 a step at most, from 0"


def a_began_as_axes(run: Run) -> None:
    for state in (run.adapter, evaluated_state(run.checkpoint)):
        for key in [key for key in state if key.endswith("lora_A.weight")]:
            a = state[key]  # four steps of at most 0.002 away, or on average less
            torch.testing.assert_close(a @ a.T, torch.eye(len(a)), atol=0.2, rtol=0)


def a_product_began_away_from_zero(run: Run) -> None:
    first = [tensor for key, tensor in run.adapter.items() if key.endswith("lora_initial_B")]
    assert first and all(tensor.any() for tensor in first)


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
    "dora, input axis, orthogonal": Option(
        (
            "--model.adapter.kind=dora",
            "--model.adapter.axis=input",
            "--model.adapter.init=orthogonal",
        ),
        took=norms_are_of_columns_and_b_began_away_from_zero,
    ),
    "pissa": Option(("--model.adapter.init=pissa",)),
    "olora, rslora": Option(
        ("--model.adapter.init=olora", "--model.adapter.rslora=true"), took=b_began_as_columns_of_q
    ),
    "eva, dora, ema": Option(
        (
            "--model.adapter.init=eva",
            "--model.adapter.init_samples=10",
            "--model.adapter.kind=dora",
            "--model.ema={decay: 0.9, warmup: false}",
        ),
        took=a_began_as_axes,
    ),
    "corda, checkpointing": Option(
        ("--model.adapter.init=corda", "--model.gradient_checkpointing=true"),
        took=a_product_began_away_from_zero,
    ),
    "lora_ga, text encoder, checkpointing": Option(
        (*TE, "--model.adapter.init=lora_ga", "--model.gradient_checkpointing=true"),
        live=True,
        took=a_product_began_away_from_zero,
    ),
    "groups, lora plus, projections": Option(
        (
            "--model.adapter.groups=[{pattern: mid_block.*, rank: 2, alpha: 4, lr_scale: 0.5}]",
            "--model.learning_rates.lora_plus=4",
            "--model.adapter.targets=attention+feedforward+projections",
        ),
        took=projections_are_trained,
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
    "sdxl, text encoders": Option(
        (*TE, "--model.learning_rates.text_encoder_2=5e-4"),
        base="sdxl",
        live=True,
        took=a_rate_for_each_network,
    ),
    "long captions, shuffled": Option(
        ("--data.caption_dropout=0.3",),
        tokens=150,
        data=shuffled,
        took=captions_have_another_order,
    ),
    "sdxl, text encoders, long captions": Option(TE, base="sdxl", live=True, tokens=225),
    "v, zero-terminal snr, debiased, cosmap": Option(
        (
            "--model.prediction_type=v_prediction",
            "--model.zero_terminal_snr=true",
            "--model.objective.weighting=debiased",
            "--model.objective.timesteps.distribution=cosmap",
            "--model.objective.timesteps.first=100",
        ),
        took=timesteps_are_of_their_distribution,
    ),
    "masks, debiased, constant huber": Option(
        (
            "--model.objective.masked=true",
            "--model.objective.unmasked_weight=0.2",
            "--model.objective.mask_by_area=true",
            "--model.objective.weighting=debiased",
            "--model.objective.error=huber",
            "--model.objective.huber.schedule=constant",
        ),
        data=masked,
        took=masks_and_objective_count,
    ),
    "class pictures, flips, mode": Option(
        (
            "--model.objective.timesteps.distribution=mode",
            "--model.objective.timesteps.first=100",
            "--model.objective.timesteps.last=899",
        ),
        data=classes,
        took=classes_count_half_and_others_are_mirrored,
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
AVERAGED = {"ema, accumulation", "eva, dora, ema", "schedule-free", "nf4, dora, checkpointing"}
LONG = {  # what other rows have most of
    *("text encoder, checkpointing", "sdxl, text encoders, long captions", "smooth l1, no weights"),
    *("adafactor", "nf4, sdxl", "corda, checkpointing", "lora_ga, text encoder, checkpointing"),
    *("sdxl", "rslora, gaussian, convolutions", "olora, rslora", "text encoder", "pissa"),
    *("fused adamw, cosine", "clip by value, polynomial", "adamw 8 bit", "prodigy"),
    *("v, zero-terminal snr, debiased, cosmap", "huber, noise, timesteps"),
    *("dora, input axis, orthogonal", "long captions, shuffled", "eva, dora, ema"),
    *("live captions", "int8, pissa", "class pictures, flips, mode"),
}
ROWS = [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in OPTIONS]


@dataclass
class Prepared:
    """Shards by base, by whether captions are encoded live, by their length and by their pictures.

    Each is made once.
    """

    training: list[str]
    folder: Path
    bases: dict[str, Path]
    made: dict[str, tuple[str, ...]] = field(default_factory=dict)  # what names their pictures

    def arguments(self, option: Option) -> list[str]:
        name = f"shards-{option.base}-{option.tokens}" + ("-live" if option.live else "")
        if option.data is not None:
            name += f"-{option.data.__name__}"
        arguments = [
            *self.training,
            f"--model.base={self.bases[option.base]}",
            f"--model.caption_tokens={option.tokens}",
            f"--data.shards={self.folder / name}",
            *(["--data.text_states=live"] if option.live else []),
        ]
        if name not in self.made:
            own = option.data(self.folder) if option.data is not None else ()
            trainer.prepare([*arguments, *own])
            self.made[name] = own
        return [*arguments, *self.made[name]]


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


def watched(patch: pytest.MonkeyPatch) -> list[tuple[DiffusionModule, dict[str, Any]]]:
    """Return a list that gets the module and the batch of each training step."""
    steps: list[tuple[DiffusionModule, dict[str, Any]]] = []
    training_errors = DiffusionModule.training_errors

    def watching(module: DiffusionModule, batch: dict[str, Any]) -> Any:
        steps.append((module, batch))
        return training_errors(module, batch)

    patch.setattr(DiffusionModule, "training_errors", watching)
    return steps


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.filterwarnings("ignore:min_snr gives timestep")
def test_it_trains_goes_on_and_exports(
    name: str, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    option = OPTIONS[name]
    arguments = [*prepared.arguments(option), *option.fit]
    with monkeypatch.context() as patch:
        steps = watched(patch)
        whole = fit(arguments, tmp_path / "whole", STEPS)
    if option.took is not None:
        option.took(Run(steps[-1][0], [batch for _, batch in steps], whole))
    fit(arguments, tmp_path / "parts", STOP)
    parts = fit(arguments, tmp_path / "parts", STEPS, "--ckpt_path=last")
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "elf"):
        assert different(whole[part], parts[part]) == [], part
    tables = [(tmp_path / run / "metrics.csv").read_text() for run in ("whole", "parts")]
    assert tables[0] == tables[1]

    evaluated = evaluated_state(whole)
    assert bool(different(evaluated, whole["state_dict"])) == (name in AVERAGED)
    assert ("averaged" in whole["elf"]) == (name in AVERAGED)
    if "input axis" in name:
        refusal = r"^model\.adapter\.axis: a DoRA with axis input scales the columns of W, for whi"
        with pytest.raises(ElfError, match=refusal):
            export_diffusers(tmp_path / "whole", tmp_path / "adapter", "float32")
        return
    exported = load_file(export_diffusers(tmp_path / "whole", tmp_path / "adapter", "float32"))
    assert {key.split(".")[0] for key in exported} == {key.split(".")[0] for key in evaluated}
    key = next(key for key in exported if key.endswith("lora_B.weight") and key.startswith("unet."))
    config = AdapterConfig(**whole["elf"]["adapter"])
    if not config.subtracts:  # whose file holds the difference to what it began as
        assert torch.equal(exported[key], evaluated[key])


def test_a_run_goes_on_from_its_best_checkpoint_too(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []  # at each checkpoint, to a user who has not asked
    connectors = "lightning.pytorch.trainer.connectors"
    monkeypatch.setattr(f"{connectors}.checkpoint_connector.log.info", said.append)
    option = OPTIONS["ema, accumulation"]
    arguments = [*prepared.arguments(option), *option.fit]
    best = "{class_path: BestCheckpoint, init_args: {keep: 2, monitor: val_trained/loss}}"
    callbacks = (f"--trainer.callbacks=[{{class_path: AdapterCheckpoint}}, {best}]",)
    whole = fit(arguments, tmp_path / "whole", 6, *callbacks)
    kept = sorted(path.name for path in (tmp_path / "whole/checkpoints").glob("best-*"))
    assert len(kept) == 2 and not said
    newest = read_checkpoint(tmp_path / "whole/checkpoints" / kept[-1])
    assert sorted(newest["callbacks"]["BestCheckpoint"]["kept"]) == kept
    middle = tmp_path / "whole/checkpoints" / kept[0]
    parts = fit(arguments, tmp_path / "parts", 6, *callbacks, f"--ckpt_path={middle}")
    for part in ("state_dict", "optimizer_states", "elf"):
        assert different(whole[part], parts[part]) == [], part
