"""A training step with peft's DoRA and with the closed form, beside LoRA: time, memory, gradients.

python benchmarks/dora.py --device cuda --dtype float16 --latent 64 --json dora.json
python benchmarks/dora.py --unet tiny --latent 8 --repeats 3      # does the script work?

A step is forward, backward and AdamW on the adapter of a UNet with random weights, eager; all
variants in turn in one process, medians. Peak memory is of a step in a process of its own on a CPU
(its resident set, weights and libraries included), of the allocator on a GPU. The gradients of the
two output-axis DoRAs are compared in float32 before anything is timed.
"""

import argparse
import copy
import datetime
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import peft
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from elf import adapters
from elf.adapters import AdapterConfig
from elf.adapters.presets import preset

VARIANTS = ("lora", "peft dora", "dora", "dora, norms in each pass", "dora input")
RANK, TEXT = 16, 77


def build(unet: str) -> nn.Module:
    """Return a UNet of SD1.5's size, or the tiny base's, with random weights."""
    from diffusers import UNet2DConditionModel

    from elf.tiny import base

    torch.manual_seed(0)
    if unet == "tiny":
        return base.unet()
    return UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)  # its defaults


def sharing(network: nn.Module) -> nn.Module:
    """Return a copy with the same frozen weights, which are never changed."""
    return copy.deepcopy(network, {id(p): p for p in network.parameters()})


class Side:
    """A network with one of the adapters, and what a step of it takes."""

    def __init__(self, variant: str, base: nn.Module, options: argparse.Namespace) -> None:
        network = sharing(base)
        targets = preset("unet", options.targets)
        if variant == "peft dora":
            network.requires_grad_(False)
            settings = LoraConfig(
                r=RANK, lora_alpha=RANK, target_modules=list(targets), use_dora=True
            )
            inject_adapter_in_model(settings, network)
            for name, parameter in network.named_parameters():
                if ".lora_" in name:
                    parameter.data = parameter.data.float()
        else:
            kind = "lora" if variant == "lora" else "dora"
            axis = "input" if variant.endswith("input") else "output"
            adapters.inject(network, AdapterConfig(kind, RANK, targets=options.targets, axis=axis))
        trained = {n: p for n, p in network.named_parameters() if p.requires_grad}
        for name, parameter in sorted(trained.items()):
            if ".lora_" in name and "magnitude" not in name:
                random = torch.Generator().manual_seed(len(name))
                noise = torch.randn(parameter.shape, generator=random)
                parameter.data.copy_((0.05 if "lora_B" in name else 0.1) * noise)
        self.network, self.trained, self.options = network.train(), trained, options
        self.optimizer = torch.optim.AdamW(trained.values(), lr=1e-5, fused=True)
        if "each pass" not in variant:
            adapters.reuse_norms(network, self.optimizer)
        random = torch.Generator().manual_seed(1)
        size, width = options.latent, network.config.cross_attention_dim
        shapes = ((options.batch, 4, size, size), (options.batch, TEXT, width))
        dtype = getattr(torch, options.dtype)
        self.inputs = [
            torch.randn(shape, generator=random).to(options.device, dtype) for shape in shapes
        ]

    def gradients(self) -> dict[str, Tensor]:
        """Return the gradients of one pass, by name."""
        self.optimizer.zero_grad()
        latents, text = self.inputs
        timesteps = torch.full((len(latents),), 500, device=latents.device)
        half = self.options.dtype != "float32"
        kind = torch.device(self.options.device).type
        with torch.autocast(kind, getattr(torch, self.options.dtype), enabled=half):
            output = self.network(latents, timesteps, text, return_dict=False)[0]
        output.float().square().mean().backward()
        return {name: p.grad for name, p in self.trained.items() if p.grad is not None}

    def step(self) -> float:
        """Take a step and return what it took, s."""
        synchronize(self.options.device)
        start = time.perf_counter()
        self.gradients()
        self.optimizer.step()
        synchronize(self.options.device)
        return time.perf_counter() - start


def synchronize(device: str) -> None:
    """Wait for a GPU."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def compare(sides: dict[str, Side]) -> float:
    """Return the largest difference of gradients of the two DoRAs, relative to their largest."""
    theirs, ours = (sides[name].gradients() for name in ("peft dora", "dora"))
    assert theirs.keys() == ours.keys()
    return max(
        float((ours[name] - theirs[name]).abs().max() / theirs[name].abs().max()) for name in ours
    )


def frozen(options: argparse.Namespace) -> nn.Module:
    """Return the base as it is trained on."""
    network = build(options.unet).to(options.device)
    for parameter in network.parameters():
        parameter.data = parameter.data.to(getattr(torch, options.dtype))
    return network.requires_grad_(False)


def peak(variant: str, base: nn.Module, options: argparse.Namespace) -> float:
    """Return the peak memory of two steps, MiB."""
    if options.device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        side = Side(variant, base, options)
        side.step()
        side.step()
        return torch.cuda.max_memory_allocated() / 2**20
    command = [sys.executable, __file__, "--peak", variant, *sys.argv[1:]]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each variant."""
    base = frozen(options)
    memory = {variant: peak(variant, base, options) for variant in VARIANTS}
    sides = {variant: Side(variant, base, options) for variant in VARIANTS}
    if options.dtype == "float32":
        print(f"gradients of peft's DoRA and the closed form differ by {compare(sides):.1e}")
    times: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for round_ in range(options.repeats + 1):
        for variant, side in sides.items():
            seconds = side.step()
            if round_:
                times[variant].append(seconds)
    medians = {variant: statistics.median(values) for variant, values in times.items()}
    return [
        {
            "name": variant,
            "value": 1e3 * seconds,
            "unit": "ms",
            "baseline": 1e3 * medians["lora"],
            "ratio": seconds / medians["lora"],
            "peak_mib": memory[variant],
        }
        for variant, seconds in medians.items()
    ]


def main() -> None:
    """Measure, print a table, write rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32")
    parser.add_argument("--unet", choices=["sd15", "tiny"], default="sd15")
    parser.add_argument("--targets", default="attention", help="a preset")
    parser.add_argument("--latent", type=int, default=64, help="side of the latents, px")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, help="file for the rows")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        side = Side(options.peak, frozen(options), options)
        side.step()
        side.step()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    rows = measure(options)
    for row in rows:
        print(
            f"{row['name']:<26}{row['value']:10.1f} ms  ×{row['ratio']:.2f} of LoRA"
            f"{row['peak_mib']:10.0f} MiB"
        )
    if options.json:
        cuda = options.device.startswith("cuda")
        about = {
            "date": datetime.date.today().isoformat(),
            "card": torch.cuda.get_device_name() if cuda else None,
            "machine": platform.machine(),
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "peft": peft.__version__,
        }
        options.json.write_text(json.dumps({"about": about, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
