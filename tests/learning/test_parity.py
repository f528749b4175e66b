"""Elf against plain diffusers and peft: a loop written by hand learns the same, step for step."""

import csv
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from lightning import seed_everything
from peft import LoraConfig

from elf import trainer
from elf.datamodules import ShardDataModule
from elf.quickstart import draw_pictures
from elf.resources import find

STEPS = 100
SHARED = {"resolution": 64, "bucket_step": 16, "held_out": 0.05, "trigger": "wood_elf"}


def trained_by_elf(folder: Path, kind: str) -> list[float]:
    draw_pictures(folder / "raw")
    data = [f"--data.{name}={folder / name}" for name in ("labels", "shards")]
    trainer.predict(
        [
            "--config=configs/tag/quickstart.yaml",
            f"--data.root={folder / 'raw'}",
            f"--data.cache={folder / 'cache'}",
            data[0],
        ]
    )
    training = [
        "--config=configs/train/quickstart.yaml",
        f"--data.pictures={folder / 'raw'}",
        *data,
        f"--model.adapter.kind={kind}",
        f"--trainer.max_steps={STEPS}",
        "--model.adapter.dropout=0",  # both would draw it from one generator, but not in step
        "--trainer.log_every_n_steps=1",
        "--trainer.callbacks=[{class_path: AdapterCheckpoint, init_args: {every_n_steps: 100}}]",
        f"--trainer.default_root_dir={folder / 'run'}",
    ]
    trainer.prepare(training)
    trainer.fit(training)
    with (folder / "run" / "metrics.csv").open() as file:
        losses = [row["train/loss"] for row in csv.DictReader(file)]
    return [float(loss) for loss in losses if loss]


def trained_by_hand(folder: Path, kind: str) -> list[float]:
    seed_everything(0)
    base = find("models/tiny/base")
    unet = UNet2DConditionModel.from_pretrained(base, subfolder="unet", torch_dtype=torch.float32)
    noising = DDPMScheduler.from_pretrained(base, subfolder="scheduler")
    unet.requires_grad_(False)
    names = ["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"]
    unet.add_adapter(LoraConfig(r=16, lora_alpha=16, target_modules=names, use_dora=kind == "dora"))
    unet.train()
    weights = [weight for weight in unet.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=5e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=5e-3, total_steps=600, pct_start=0.1, cycle_momentum=False
    )
    snr = noising.alphas_cumprod / (1 - noising.alphas_cumprod)
    data = ShardDataModule(
        shards=str(folder / "shards"), batch_size=12, workers=0,
        caption_dropout=0.1, prior_preservation=0.33, **SHARED,
    )  # fmt: skip
    loader = data.train_dataloader()
    losses: list[float] = []
    while len(losses) < STEPS:
        for batch in loader:
            # Each sample draws timestep, latents and noise from its own seed, in this order.
            sources = [torch.Generator().manual_seed(int(seed)) for seed in batch["seed"]]
            timesteps = torch.stack([torch.randint(1000, (), generator=s) for s in sources])
            shape = batch["latent_mean"].shape[1:]
            spread, noise = (
                torch.stack([torch.randn(shape, generator=s) for s in sources]) for _ in range(2)
            )
            latents = batch["latent_mean"] + batch["latent_std"] * spread
            noisy = noising.add_noise(latents, noise, timesteps)
            with torch.no_grad():
                unet.disable_adapters()
                prior = unet(noisy, timesteps, batch["text"]).sample
                unet.enable_adapters()
            target = torch.where(batch["preserved"].view(-1, 1, 1, 1), prior, noise)
            error = (unet(noisy, timesteps, batch["text"]).sample - target).square().mean((1, 2, 3))
            loss = (error * snr[timesteps].clamp(max=5) / snr[timesteps]).mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
            if len(losses) == STEPS:
                break
    data.teardown("fit")
    return losses


@pytest.mark.learning
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_elf_learns_what_the_libraries_alone_would(tmp_path: Path, kind: str) -> None:
    ours, theirs = trained_by_elf(tmp_path, kind), trained_by_hand(tmp_path, kind)
    assert len(ours) == len(theirs) == STEPS
    last = [torch.tensor(losses[-30:]).mean() for losses in (ours, theirs)]
    assert float(last[0]) == pytest.approx(float(last[1]), rel=0.01)
    first = torch.tensor(ours[:20]).mean()
    assert last[0] < 0.95 * first  # and it is something that was learnt
    print(f"{kind}: loss {first:.4f}, then {last[0]:.5f} by Elf and {last[1]:.5f} by hand")
