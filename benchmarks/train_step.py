"""A training step as the diffusers example script takes it, and Elf's: eager, and captured.

python benchmarks/train_step.py --family sd15 --batch 1 --json sd15-1.json
python benchmarks/train_step.py --family tiny --device cpu --repeats 2   # does the script work?

Networks of full size with random weights, rank 16 on the attention. The columns take turns in one
process; medians. The example's step is that of train_text_to_image_lora.py under fp16: VAE and text
encoders in each step (or latents and states given), autocast, a scaler, AdamW as torch makes it, no
clipping, and a look at the loss. Elf's draws its noise from each sample's seed on the CPU, clips,
logs nothing and looks at a loss when it is there; its batch comes pinned from the CPU. The losses
of the first three steps are compared with those of the first of Elf's sides, which has the same
weights and noise; the example draws its noise on the GPU.
`--json` adds rows to a file that is there already.
"""

import argparse
import datetime
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from random_models import configurations, random_network
from torch import Tensor, nn

from elf import adapters, objective
from elf.adapters import AdapterConfig
from elf.bases.text import encode_tokens
from elf.fused import fuse
from elf.kernels import can_compile
from elf.objective import ObjectiveConfig
from elf.quantized import quantize
from elf.stepping import Stepper
from elf.training.compiling import Scope, compile_network
from elf.training.denoiser import Denoiser
from elf.training.losscheck import LossCheck
from elf.training.recomputing import checkpoint_activations

RANK, GIB = 16, 1 << 30
FORWARD_TFLOP = {"sd15": 0.803, "sdxl": 6.76}
"""Of a forward pass at 512² or 1024²; a step of LoRA needs about twice as much."""


def make(part: str, options: argparse.Namespace) -> nn.Module:
    """Return a part of the base."""
    return random_network(part, options.configs[part], options.dtype, options.device)


class Example:
    """The example script's step."""

    def __init__(self, options: argparse.Namespace, cached: bool) -> None:
        from diffusers import DDPMScheduler
        from peft import LoraConfig

        self.options, self.cached = options, cached
        self.unet = make("unet", options)
        self.unet.add_adapter(
            LoraConfig(
                r=RANK,
                lora_alpha=RANK,
                init_lora_weights="gaussian",
                target_modules=["to_k", "to_q", "to_v", "to_out.0"],
                use_dora=options.kind == "dora",
            )
        )
        self.trained = [p for p in self.unet.parameters() if p.requires_grad]
        for parameter in self.trained:
            parameter.data = parameter.data.float()
        if options.checkpointing:
            self.unet.enable_gradient_checkpointing()
        self.unet.train()
        self.encoders: dict[str, nn.Module] = {}
        if not cached:
            names = [name for name in options.configs if name.startswith("text_encoder")]
            self.encoders = {name: make(name, options) for name in names}
            self.vae = make("vae", options)
            if options.sdxl:
                self.vae.float()  # it overflows in fp16
        self.noise = DDPMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
        )
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-4, weight_decay=1e-2)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda _: 1.0)
        self.scaler = torch.amp.GradScaler(options.kind_of_device, enabled=options.scaled)
        self.batch = options.batch_of(0)

    def latents(self) -> Tensor:
        """Encode the pictures, or take what stands in the cache."""
        batch, options = self.batch, self.options
        if self.cached:
            mean = batch["latent_mean"].to(options.device)
            return (mean + torch.randn_like(mean)).to(options.dtype)
        pixels = batch["pixels"].to(options.device, self.vae.dtype)
        latents: Tensor = self.vae.encode(pixels).latent_dist.sample()
        return (latents * self.vae.config.scaling_factor).to(options.dtype)

    def text(self) -> tuple[Tensor, Any]:
        """Return the text states and what SDXL is told beside them."""
        options, batch = self.options, self.batch
        states = {key: batch[key] for key in ("text", "pooled")}
        if not self.cached:
            tokens = {name: batch["tokens"].to(options.device) for name in self.encoders}
            with torch.no_grad():
                states = encode_tokens(options.family, self.encoders, tokens)
        text = states["text"].to(options.device, options.dtype)
        if not options.sdxl:
            return text, None
        ids = torch.cat([batch[key] for key in ("original_size", "crop", "size")], dim=1)
        return text, {
            "text_embeds": states["pooled"].to(options.device, options.dtype),
            "time_ids": ids.to(options.device, options.dtype),
        }

    def step(self) -> float:
        """Take a step and return its loss."""
        options = self.options
        latents = self.latents()
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, 1000, (options.batch,), device=options.device).long()
        noisy = self.noise.add_noise(latents, noise, timesteps)
        text, added = self.text()
        with torch.autocast(options.kind_of_device, options.dtype, enabled=options.half):
            predicted = self.unet(
                noisy, timesteps, text, added_cond_kwargs=added, return_dict=False
            )[0]
        loss = nn.functional.mse_loss(predicted.float(), noise.float(), reduction="mean")
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        self.optimizer.zero_grad()
        return float(loss.detach())


class Ours:
    """Elf's step, but for Lightning's part in it."""

    def __init__(
        self,
        options: argparse.Namespace,
        graphs: bool,
        scope: Scope | None = None,
        fused: bool = True,
    ) -> None:
        from diffusers import DDPMScheduler

        self.options = options
        graphs = graphs and options.kind_of_device == "cuda"
        unet = make("unet", options)
        if options.kind_of_device == "cuda":  # from the CPU, as a run does, and counted from there
            unet.to("cpu")
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        if options.quantization:
            quantize(unet, options.quantization, torch.device(options.device))
        adapters.inject(unet, AdapterConfig(options.kind, RANK))
        unet.train()
        if fused and scope is None and can_compile(torch.device(options.device)):
            fuse(unet, torch.device(options.device))
        if options.checkpointing:
            checkpoint_activations(unet)
        if scope is not None:
            compile_network(unet, scope, torch.device(options.device))
        base: Any = SimpleNamespace(
            family=options.family,
            conditions=options.sdxl,
            prediction_type="epsilon",
            noise_schedule=DDPMScheduler(
                beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
            ),
        )
        self.denoiser = Denoiser(unet, base, ObjectiveConfig(), dtype=options.dtype)
        self.denoiser.to(options.device)
        trained = self.denoiser.trained_parameters()
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=1e-2, fused=True)
        adapters.reuse_norms(unet, self.optimizer)
        scaler = torch.amp.GradScaler(options.kind_of_device) if options.scaled else None
        self.stepper = Stepper(
            self.errors,
            trained,
            self.optimizer,
            limit=1.0,
            scaler=scaler,
            graphs=graphs,
            changed=self.denoiser.refresh_norms,
        )
        self.losses = LossCheck(lambda: "")
        self.steps = 0

    def errors(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Return the errors, under the trainer's autocast."""
        options = self.options
        with torch.autocast(
            options.kind_of_device, options.dtype, enabled=options.half, cache_enabled=False
        ):
            return self.denoiser.training_errors(batch)

    def step(self) -> Tensor:
        """Take a step and return its loss, which may not be there yet."""
        options = self.options
        self.steps += 1
        given = options.batch_of(self.steps)
        drawn = objective.draw(given, ObjectiveConfig(), 1000)
        unused = ("latent_mean", "latent_std", "pixels", "tokens", "seed")
        batch = {key: value for key, value in given.items() if key not in unused} | drawn
        if options.kind_of_device == "cuda":
            batch = {
                key: value.pin_memory().to(options.device, non_blocking=True)
                for key, value in batch.items()
            }
        step = self.stepper(batch)
        loss = step.loss.clone()
        self.losses.add(loss, loss, self.steps, [])
        self.losses.check(wait=False)
        self.stepper.step()
        return loss


def prepare(options: argparse.Namespace) -> None:
    """Work out from the options what the sides share."""
    options.sdxl = options.family == "sdxl"
    options.kind_of_device = torch.device(options.device).type
    options.half = options.precision != "fp32"
    options.scaled = options.precision == "fp16"
    options.dtype = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}[
        options.precision
    ]
    options.configs = configurations(options.family)
    width = options.configs["unet"]["cross_attention_dim"]
    if options.family == "tiny":
        options.family, side, pooled = "sd15", 16, 32
    else:
        side, pooled = (128, 1280) if options.sdxl else (64, 768)
    size, draw = options.batch, torch.Generator().manual_seed(0)
    fixed = {
        "pixels": torch.randn(size, 3, 8 * side, 8 * side, generator=draw),
        "tokens": torch.randint(1, 99, (size, 77), generator=draw),
        "latent_mean": torch.randn(size, 4, side, side, generator=draw),
        "latent_std": torch.full((size, 4, side, side), 0.1),
        "text": torch.randn(size, 77, width, generator=draw),
        "pooled": torch.randn(size, pooled, generator=draw),
        "original_size": torch.full((size, 2), 8 * side),
        "crop": torch.zeros(size, 2, dtype=torch.long),
        "size": torch.full((size, 2), 8 * side),
        "loss_weight": torch.ones(size),
    }
    options.batch_of = lambda step: {**fixed, "seed": step * size + torch.arange(size)}


def synchronize(options: argparse.Namespace) -> None:
    """Wait for a GPU."""
    if options.kind_of_device == "cuda":
        torch.cuda.synchronize()


SIDES: dict[str, Callable[[argparse.Namespace], Any]] = {
    "example": lambda options: Example(options, cached=False),
    "example, cached": lambda options: Example(options, cached=True),
    "elf, eager": lambda options: Ours(options, graphs=False),
    "elf, captured": lambda options: Ours(options, graphs=True),
    "elf, captured, not fused": lambda options: Ours(options, graphs=True, fused=False),
    "elf, blocks compiled": lambda options: Ours(options, graphs=True, scope="blocks"),
    "elf, compiled": lambda options: Ours(options, graphs=True, scope="full"),
}

DEFAULT = [name for name in SIDES if "compiled" not in name and "not" not in name]
"""Compiling takes minutes."""


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each side."""
    on_gpu = options.kind_of_device == "cuda"
    sides, first, memory = {}, {}, {}
    losses: dict[str, list[float]] = {}
    for name in options.sides or DEFAULT:
        if on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_reserved() if on_gpu else 0
        torch.manual_seed(0)  # each side has the same weights
        sides[name] = SIDES[name](options)
        synchronize(options)
        start = time.perf_counter()
        losses[name] = [float(sides[name].step())]
        synchronize(options)
        first[name] = time.perf_counter() - start
        losses[name] += [float(sides[name].step()) for _ in range(2)]
        memory[name] = (torch.cuda.max_memory_reserved() - before) / GIB if on_gpu else 0.0
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(options.repeats):
        for name, side in sides.items():
            synchronize(options)
            start = time.perf_counter()
            for _ in range(options.steps):  # a loop of them: the CPU may run ahead of the GPU
                side.step()
            synchronize(options)
            times[name].append((time.perf_counter() - start) / options.steps)
    medians = {name: statistics.median(values) for name, values in times.items()}
    compared = medians.get("example", next(iter(medians.values())))
    ours = [name for name in sides if name.startswith("elf")]
    rate = matrix_rate(options) if on_gpu else None
    work = 2 * FORWARD_TFLOP.get(options.family, 0) * options.batch
    return [
        {
            "name": f"{options.label}, {name}",
            "value": 1e3 * seconds,
            "unit": "ms",
            "baseline": 1e3 * compared,
            "ratio": compared / seconds,
            "pictures_per_s": options.batch / seconds,
            "matrix_share": work / seconds / rate if rate else None,
            "reserved_gib": memory[name],
            "first_step_s": first[name],
            "loss_difference": difference(losses[ours[0]], losses[name]) if name in ours else None,
        }
        for name, seconds in medians.items()
    ]


def difference(some: list[float], others: list[float]) -> float:
    """Return the largest difference between losses, as a share of them."""
    return max(abs(one - other) / abs(one) for one, other in zip(some, others, strict=True))


def matrix_rate(options: argparse.Namespace) -> float:
    """Return the matrix rate of the card as measured, TFLOP/s."""
    side = 8192
    left, right = (torch.randn(side, side, device=options.device).half() for _ in range(2))
    for _ in range(5):
        left @ right
    synchronize(options)
    start = time.perf_counter()
    for _ in range(20):
        left @ right
    synchronize(options)
    return 20 * 2 * side**3 / (time.perf_counter() - start) / 1e12


def add_rows(file: Path, rows: list[dict[str, Any]], on_gpu: bool) -> None:
    """Add rows to those of a file, with what they were measured on."""
    about = {
        "date": datetime.date.today().isoformat(),
        "card": torch.cuda.get_device_name() if on_gpu else None,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    known = json.loads(file.read_text())["rows"] if file.exists() else []
    file.write_text(json.dumps({"about": about, "rows": known + rows}, indent=2) + "\n")


def main() -> None:
    """Measure, print a table, add rows to a file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", choices=["sd15", "sdxl", "tiny"], default="sd15")
    parser.add_argument("--kind", choices=["lora", "dora"], default="lora")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--precision", choices=["fp16", "bf16", "fp32"], default="fp16")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--quantization", choices=["nf4", "int8"], help="of Elf's base")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeats", type=int, default=5)
    at_a_time = "at a time, of which the first waits for the CPU"
    parser.add_argument("--steps", type=int, default=10, help=at_a_time)
    parser.add_argument("--sides", nargs="*", choices=list(SIDES), help="without the compiled ones")
    parser.add_argument("--json", type=Path, help="file for the rows")
    options = parser.parse_args()
    if options.device == "cpu":
        options.precision = "fp32"
    checkpointed = ", checkpointing" if options.checkpointing else ""
    checkpointed += f", {options.quantization}" if options.quantization else ""
    options.label = (
        f"{options.family} {options.kind} {options.precision} batch {options.batch}{checkpointed}"
    )
    prepare(options)
    rows = measure(options)
    for row in rows:
        share = f"{row['matrix_share']:.0%}" if row["matrix_share"] else "-"
        apart = row["loss_difference"]
        print(
            f"{row['name']:<58}{row['value']:9.1f} ms  ×{row['ratio']:.2f}"
            f"{row['pictures_per_s']:8.1f}/s  {share} of the matrix rate"
            f"{row['reserved_gib']:7.2f} GiB  first {row['first_step_s']:.1f} s"
            f"{'' if apart is None else f'  loss {apart:.1e} apart'}"
        )
    if options.json:
        add_rows(options.json, rows, options.kind_of_device == "cuda")


if __name__ == "__main__":
    main()
