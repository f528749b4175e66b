"""Elf against diffusers and peft alone: a loop written by hand has the same losses, step for step.

The loop is that of diffusers' LoRA example: its UNet, noise schedule and SNR, peft's adapter,
torch's AdamW and clipping. It shares with Elf only the batches, with their latents and text states,
and the rule by which a sample's seed gives timestep and noise.
"""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.training_utils import compute_snr
from lightning import seed_everything
from peft import LoraConfig
from torch.nn import functional

from elf import trainer
from elf.datamodules import ShardDataModule

BATCH = 4


@pytest.fixture(scope="module")
def bases(
    training: list[str], tiny_models: dict[str, Path], tiny_sdxl: Path, labelled: Path
) -> dict[str, tuple[Path, Path]]:
    """Return base and prepared shards of each family."""
    shards = labelled / "shards-sdxl"
    trainer.prepare([*training, f"--model.base={tiny_sdxl}", f"--data.shards={shards}"])
    return {"sd15": (tiny_models["base"], labelled / "shards"), "sdxl": (tiny_sdxl, shards)}


def by_elf(training: list[str], folder: Path, steps: int, *options: str) -> list[float]:
    trainer.fit(
        [
            *training,
            f"--trainer.max_steps={steps}",
            "--trainer.log_every_n_steps=1",
            "--trainer.limit_val_batches=0",
            "--trainer.callbacks=[{class_path: AdapterCheckpoint}]",
            f"--trainer.default_root_dir={folder}",
            "--model.adapter.dropout=0",  # both would draw it from one generator, not in step
            "--model.adapter.targets=attention",
            "--data.prior_preservation=0",
            *options,
        ]
    )
    with (folder / "metrics.csv").open() as file:
        losses = [row["train/loss"] for row in csv.DictReader(file)]
    return [float(loss) for loss in losses if loss]


def by_hand(
    base: Path, shards: Path, steps: int, prediction_type: str, gamma: float | None, dora: bool
) -> list[float]:
    seed_everything(0)
    unet = UNet2DConditionModel.from_pretrained(base, subfolder="unet", torch_dtype=torch.float32)
    noising = DDPMScheduler.from_pretrained(
        base, subfolder="scheduler", prediction_type=prediction_type
    )
    unet.requires_grad_(False)
    names = ["to_k", "to_q", "to_v", "to_out.0"]
    unet.add_adapter(LoraConfig(r=8, lora_alpha=8, target_modules=names, use_dora=dora))
    unet.train()
    weights = [weight for weight in unet.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=2e-3, weight_decay=1e-2)
    data = ShardDataModule(
        shards=str(shards), batch_size=BATCH, workers=0, resolution=64, bucket_step=16,
        held_out=0.15, trigger="wood_elf", caption_dropout=0.1,
    )  # fmt: skip
    loader = data.train_dataloader()
    losses: list[float] = []
    while len(losses) < steps:
        for batch in loader:
            loss = step(unet, noising, batch, gamma)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    data.teardown("fit")
    return losses[:steps]


def step(unet: Any, noising: Any, batch: dict[str, Any], gamma: float | None) -> torch.Tensor:
    # Each sample draws timestep, latents and noise from its own seed, in this order.
    sources = [torch.Generator().manual_seed(int(seed)) for seed in batch["seed"]]
    drawn = [torch.rand((), generator=s, dtype=torch.float64) for s in sources]
    timesteps = (torch.stack(drawn) * noising.config.num_train_timesteps).long()
    shape = batch["latent_mean"].shape[1:]
    spread, noise = (
        torch.stack([torch.randn(shape, generator=s) for s in sources]) for _ in range(2)
    )
    latents = batch["latent_mean"] + batch["latent_std"] * spread
    added = None
    if "pooled" in batch:
        ids = [
            StableDiffusionXLPipeline._get_add_time_ids(
                _Pipeline(unet), *(tuple(batch[key][row].tolist()) for key in
                ("original_size", "crop", "size")), torch.float32, batch["pooled"].shape[1],
            )
            for row in range(len(latents))
        ]  # fmt: skip
        added = {"text_embeds": batch["pooled"], "time_ids": torch.cat(ids)}
    noisy = noising.add_noise(latents, noise, timesteps)
    prediction = unet(noisy, timesteps, batch["text"], added_cond_kwargs=added).sample
    snr = compute_snr(noising, timesteps)
    target, divisor = noise, snr
    if noising.config.prediction_type == "v_prediction":
        target, divisor = noising.get_velocity(latents, noise, timesteps), snr + 1
    if gamma is None:
        return functional.mse_loss(prediction, target)
    error = functional.mse_loss(prediction, target, reduction="none").mean(dim=(1, 2, 3))
    return (error * torch.minimum(snr, torch.full_like(snr, gamma)) / divisor).mean()


class _Pipeline:
    """What diffusers' pipeline asks of itself to make its time ids."""

    def __init__(self, unet: Any) -> None:
        self.unet = unet


@pytest.mark.parametrize(
    ("family", "kind", "prediction_type", "gamma", "steps"),
    [
        ("sd15", "lora", "epsilon", 5.0, 8),
        ("sd15", "lora", "v_prediction", None, 8),
        ("sd15", "dora", "epsilon", None, 8),
        ("sdxl", "lora", "v_prediction", 5.0, 8),
        *(
            pytest.param(*pair, prediction_type, gamma, 50, marks=pytest.mark.slow)
            for pair in (("sd15", "lora"), ("sd15", "dora"), ("sdxl", "lora"))
            for prediction_type in ("epsilon", "v_prediction")
            for gamma in (None, 5.0)
        ),
    ],
)
def test_losses_are_those_of_the_libraries_alone(
    training: list[str],
    bases: dict[str, tuple[Path, Path]],
    tmp_path: Path,
    family: str,
    kind: str,
    prediction_type: str,
    gamma: float | None,
    steps: int,
) -> None:
    base, shards = bases[family]
    ours = by_elf(
        training,
        tmp_path / "run",
        steps,
        f"--model.base={base}",
        f"--data.shards={shards}",
        f"--model.prediction_type={prediction_type}",
        f"--model.adapter.kind={kind}",
        f"--model.objective.weighting={'none' if gamma is None else 'min_snr'}",
    )
    theirs = by_hand(base, shards, steps, prediction_type, gamma, kind == "dora")
    assert len(ours) == len(theirs) == steps
    assert ours == pytest.approx(theirs, abs=1e-4, rel=0)
    assert len(set(ours)) == steps
