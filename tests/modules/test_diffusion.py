"""Training an adapter through the real command: it learns, resumes exactly, refuses mistakes."""

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from elf import adapters, trainer
from elf.errors import ElfError
from elf.images import picture_id
from elf.modules import DiffusionModule
from elf.objective.diffusion import add_noise
from elf.training.checkpoints import read_checkpoint


def fit(training: list[str], folder: Path, *more: str) -> trainer.ElfCLI:
    return trainer.run(
        "fit",
        [
            *training,
            f"--trainer.default_root_dir={folder}",
            "--trainer.log_every_n_steps=1",
            "--trainer.callbacks=[{class_path: AdapterCheckpoint, init_args: {every_n_steps: 2}}]",
            *more,
        ],
    )


def flat(value: object, prefix: str = "") -> dict[str, object]:
    """Return all leaves of nested dicts and lists by their path."""
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list | tuple)
        else None
    )
    if items is None:
        return {prefix: value}
    return {k: v for key, inner in items for k, v in flat(inner, f"{prefix}/{key}").items()}


def same(first: Path, second: Path, *parts: str) -> bool:
    one, two = read_checkpoint(first), read_checkpoint(second)
    for part in parts:
        a, b = flat(one[part]), flat(two[part])
        assert a.keys() == b.keys()
        for key, value in a.items():
            equal = (
                torch.equal(value, b[key]) if isinstance(value, torch.Tensor) else value == b[key]
            )
            if not equal:
                return False
    return True


LAST = "checkpoints/last.ckpt"


@pytest.mark.parametrize("kind", ["lora", pytest.param("dora", marks=pytest.mark.slow)])
def test_an_adapter_learns_on_a_fixed_evaluation(
    training: list[str], tmp_path: Path, kind: str
) -> None:
    cli = fit(training, tmp_path, f"--model.adapter.kind={kind}", "--trainer.max_steps=40")
    metrics = cli.trainer.callback_metrics
    assert metrics["val/loss"] < 0.95 * metrics["val/loss_base"]
    assert metrics["val/ratio"] == pytest.approx(
        float(metrics["val/loss"] / metrics["val/loss_base"]), rel=1e-5
    )


@pytest.mark.fault(9)
@pytest.mark.parametrize(
    "stop", [7, *(pytest.param(stop, marks=pytest.mark.slow) for stop in (1, 6, 8, 13))]
)
def test_a_stopped_run_goes_on_as_if_it_had_not_been(
    training: list[str], tmp_path: Path, stop: int
) -> None:
    """Order, dropout, optimizer, schedule, metrics: bit-equal on a CPU. An epoch has 7 steps."""
    options = (
        "--model.adapter.dropout=0.2",
        "--model.lr_scheduler.class_path=torch.optim.lr_scheduler.CosineAnnealingLR",
        "--model.lr_scheduler.init_args.T_max=14",
        "--trainer.val_check_interval=4",
    )
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    fit(training, whole, *options, "--trainer.max_steps=14")
    fit(training, parts, *options, f"--trainer.max_steps={stop}")
    fit(training, parts, *options, "--trainer.max_steps=14", "--ckpt_path=last")
    assert same(whole / LAST, parts / LAST, "state_dict", "optimizer_states", "lr_schedulers")
    assert (whole / "metrics.csv").read_text() == (parts / "metrics.csv").read_text()


def test_a_schedule_spans_the_run_and_the_run_keeps_its_length(
    training: list[str], tmp_path: Path
) -> None:
    cosine = ("--model.schedule.shape=cosine", "--model.schedule.warmup=0.25")
    fit(training, tmp_path / "whole", *cosine, "--trainer.max_steps=4")
    middle = f"--ckpt_path={tmp_path}/whole/checkpoints/step-000002.ckpt"
    fit(training, tmp_path / "parts", *cosine, "--trainer.max_steps=4", middle)
    parts = ("state_dict", "optimizer_states", "lr_schedulers")
    assert same(tmp_path / "whole" / LAST, tmp_path / "parts" / LAST, *parts)
    with pytest.raises(ElfError, match=r"model.schedule.total_steps is 6 here and 4 in the ch"):
        fit(training, tmp_path / "longer", *cosine, "--trainer.max_steps=6", middle)


def test_what_only_preserves_the_base_learns_nothing(training: list[str], tmp_path: Path) -> None:
    """A new LoRA changes nothing, so it agrees with the base exactly, and gets no gradient."""
    fit(training, tmp_path, "--trainer.max_steps=2", "--data.prior_preservation=1")
    with (tmp_path / "metrics.csv").open() as file:
        losses = [row["train/loss"] for row in csv.DictReader(file)]
    assert [float(loss) for loss in losses if loss] == [0, 0]
    state = read_checkpoint(tmp_path / LAST)["state_dict"]
    assert all(not tensor.any() for key, tensor in state.items() if ".lora_B." in key)


@pytest.mark.parametrize("kind", ["lora", pytest.param("dora", marks=pytest.mark.slow)])
def test_preserved_samples_aim_at_the_base_the_others_at_the_noise(
    training: list[str], tmp_path: Path, kind: str
) -> None:
    cli = fit(training, tmp_path, "--trainer.max_steps=20", f"--model.adapter.kind={kind}")
    denoiser = cli.model.denoiser.eval()
    random = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(3, 4, 16, 16, generator=random) for _ in range(2))
    steps = torch.tensor([10, 500, 990])
    batch = {
        "latents": latents,
        "noise": noise,
        "input_noise": noise,
        "timesteps": steps,
        "text": torch.randn(3, 77, 128, generator=random),
        "preserved": torch.tensor([0, 2]),
        "loss_weight": torch.ones(3),
    }
    with torch.no_grad():
        noisy = add_noise(latents, noise, steps, denoiser.alphas_cumprod)
        ours = denoiser(noisy, steps, batch)
        with adapters.disabled(denoiser.unet):
            base = denoiser(noisy, steps, batch)
        mixed, _ = denoiser.training_errors(batch)
    assert not torch.allclose(ours, base, atol=1e-4)
    wanted = torch.stack([base[0], noise[1], base[2]])
    torch.testing.assert_close(mixed, (ours - wanted).square().mean((1, 2, 3)))


def test_a_checkpoint_holds_no_base(training: list[str], tmp_path: Path) -> None:
    fit(training, tmp_path, "--trainer.max_steps=2")
    checkpoint = read_checkpoint(tmp_path / LAST)
    assert checkpoint["state_dict"]
    assert all(".lora_" in key for key in checkpoint["state_dict"])
    assert checkpoint["elf"]["adapter"]["rank"] == 8
    assert len(checkpoint["elf"]["base_sha256"]) == 64
    assert (tmp_path / LAST).stat().st_size < 3e6


@pytest.mark.fault(10)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--model.quantization=int8", "model.quantization is 'int8' here and None in the checkp"),
        (
            "--model.optimizer.init_args.lr=0.5",
            "model.optimizer.lr is 0.5 here and 0.002 in the checkpoint",
        ),
        (
            "--trainer.accumulate_grad_batches=3",
            "trainer.accumulate_grad_batches is 3 here and 1 in the checkpoint",
        ),
        ("--data.batch_size=3", "this checkpoint was trained with global batch 4, now it is 3"),
        *(
            pytest.param(change, message, marks=pytest.mark.slow)
            for change, message in (
                ("--model.adapter.rank=4", "model.adapter.rank is 4 here and 8 in the checkpoint"),
                ("--model.adapter.kind=dora", "model.adapter.kind is 'dora' here and 'lora' in"),
                (
                    "--model.objective.weighting=none",
                    "model.objective.weighting is 'none' here and 'min_snr' in",
                ),
                ("--data.seed=5", "this checkpoint was trained with data.seed 0, now it is 5"),
            )
        ),
    ],
)
def test_a_run_does_not_go_on_as_another(
    training: list[str], tmp_path: Path, change: str, message: str
) -> None:
    fit(training, tmp_path, "--trainer.max_steps=2")
    with pytest.raises(ElfError) as error:
        fit(training, tmp_path, "--trainer.max_steps=4", "--ckpt_path=last", change)
    assert message in str(error.value)


def test_a_run_does_not_go_on_with_another_base(
    training: list[str], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from elf.tiny import base

    fit(training, tmp_path, "--trainer.max_steps=2")
    other = tmp_path_factory.mktemp("other")
    base.build(other, seed=1)
    with pytest.raises(ElfError, match=r"caches were made by another|is not the one this run"):
        fit(
            training, tmp_path, f"--model.base={other}", "--trainer.max_steps=4", "--ckpt_path=last"
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prediction_type": "sample"}, "predicts 'sample'; Elf trains bases that predict epsilon"),
        (
            {"rescale_betas_zero_snr": True},
            "has no signal (zero-terminal SNR), where min_snr of an ε loss is 0/0; take none",
        ),
    ],
)
def test_a_base_that_the_loss_does_not_fit_is_refused(
    tiny_models: dict[str, Path], tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_models["base"], base)
    config = base / "scheduler/scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **settings}))
    with pytest.raises(ElfError, match=re.escape(message)):
        DiffusionModule(str(base)).configure_model()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:min_snr gives timestep 999 weight 0")
def test_a_v_prediction_base_learns(
    training: list[str], tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    """With zero-terminal SNR too: the v loss has a weight everywhere."""
    base = tmp_path / "base"
    shutil.copytree(tiny_models["base"], base)
    config = base / "scheduler/scheduler_config.json"
    settings = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    config.write_text(json.dumps({**json.loads(config.read_text()), **settings}))
    cli = fit(training, tmp_path / "run", f"--model.base={base}", "--trainer.max_steps=40")
    metrics = cli.trainer.callback_metrics
    assert metrics["val/loss"] < 0.95 * metrics["val/loss_base"]


@pytest.mark.fault(12)
def test_a_loss_that_is_not_finite_stops_the_run(training: list[str], tmp_path: Path) -> None:
    with pytest.raises(ElfError, match=r"the loss is (nan|inf) at step \d+ \(pictures [0-9a-f, ]+"):
        fit(training, tmp_path, "--model.optimizer.init_args.lr=1e30", "--trainer.max_steps=30")
    last = tmp_path / LAST
    if last.exists():
        state = read_checkpoint(last)["state_dict"]
        assert all(torch.isfinite(tensor).all() for tensor in state.values())


@pytest.mark.slow  # tests/training/test_recomputing.py counts it block by block
def test_gradient_checkpointing_changes_no_number(training: list[str], tmp_path: Path) -> None:
    fit(training, tmp_path / "a", "--trainer.max_steps=3")
    fit(training, tmp_path / "b", "--trainer.max_steps=3", "--model.gradient_checkpointing=true")
    assert same(tmp_path / "a" / LAST, tmp_path / "b" / LAST, "state_dict")


def test_validation_does_not_depend_on_the_batch_size(training: list[str], tmp_path: Path) -> None:
    losses = []
    for size in (1, 3, 8):
        folder = tmp_path / str(size)
        arguments = [*training, f"--trainer.default_root_dir={folder}", f"--data.batch_size={size}"]
        cli = trainer.run("validate", arguments)
        losses.append(float(cli.trainer.callback_metrics["val/loss"]))
    assert losses[1:] == pytest.approx([losses[0]] * 2, abs=1e-6)


def test_unrelated_pictures_are_validated_and_never_trained_on(
    training: list[str], labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, names = tmp_path / "unrelated", set()
    folder.mkdir()
    for number in range(5):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)
        path = folder / f"{number}.png"
        Image.fromarray(pixels).save(path)
        path.with_suffix(".txt").write_text("noise\n")
        names.add(picture_id(path.read_bytes()))
    learnt = f"pictures: {labelled / 'pictures'}, labels: {labelled / 'labels'}"
    arguments = [
        *training,
        "--data.pictures=data/raw",  # as they are by default: the sets have others
        "--data.labels=data/labels",
        f"--data.sets=[{{{learnt}}}, {{pictures: {folder}, unrelated: true}}]",
        f"--data.shards={tmp_path / 'shards'}",
    ]
    trainer.prepare(arguments)
    trained, validated = set[str](), dict[str, set[str]]()
    training_errors, validation_step = (
        DiffusionModule.training_errors,
        DiffusionModule.validation_step,
    )

    def train(module: DiffusionModule, batch: dict[str, Any]) -> Any:
        trained.update(batch["id"])
        return training_errors(module, batch)

    def validate(module: DiffusionModule, batch: dict[str, Any], *numbers: int) -> None:
        validated.setdefault(batch["kind"], set()).update(batch["id"])
        validation_step(module, batch, *numbers)

    monkeypatch.setattr(DiffusionModule, "training_errors", train)
    monkeypatch.setattr(DiffusionModule, "validation_step", validate)
    cli = fit(
        arguments, tmp_path / "run", "--trainer.max_steps=8", "--trainer.val_check_interval=8"
    )
    everything = {picture_id(path.read_bytes()) for path in (labelled / "pictures").iterdir()}
    assert trained == everything - validated["held_out"], "an epoch has 7 steps"
    assert validated["unrelated"] == names
    assert not names & (validated["held_out"] | validated["trained"])
    with (tmp_path / "run/metrics.csv").open() as file:
        row = next(row for row in csv.DictReader(file) if row["val_unrelated/loss"])
    loss, base, ratio, low, high = (
        float(row[f"val_unrelated/{key}"])
        for key in ("loss", "loss_base", "ratio", "ratio_low", "ratio_high")
    )
    assert ratio == pytest.approx(loss / base, rel=1e-5)
    assert low < ratio < high and ratio != 1
    assert ratio == pytest.approx(float(cli.trainer.callback_metrics["val_unrelated/ratio"]))


def test_a_validation_within_an_accumulation_drops_none_of_it(
    training: list[str], tmp_path: Path
) -> None:
    """Lightning zeroes all gradients before it validates."""
    options = ("--trainer.accumulate_grad_batches=3", "--trainer.max_steps=2")
    fit(training, tmp_path / "with", *options, "--trainer.val_check_interval=2")
    fit(training, tmp_path / "without", *options, "--trainer.limit_val_batches=0")
    assert same(tmp_path / "with" / LAST, tmp_path / "without" / LAST, "state_dict")
