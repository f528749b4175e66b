"""A training step with peft's DoRA and with the closed form, beside LoRA: time, memory, gradients.

python benchmarks/dora.py --device cuda --dtype float16 --latent 64 --json dora.json
python benchmarks/dora.py --unet tiny --latent 8 --repeats 3      # does the script work?

A step is forward, backward and AdamW on the adapter of a UNet with random weights, eager; all
variants in turn in one process, medians; on a CPU in processor time, which other work on the
machine changes less. Peak memory is the allocator's on a GPU; on a CPU it is what two steps in a
forked process add to the resident set, the frozen weights left out. The gradients of the two
output-axis DoRAs are compared in float32 before anything is timed.
"""

import argparse
import copy
import datetime
import json
import multiprocessing
import platform
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import peft
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from elf import adapters
from elf.adapters import AdapterConfig
from elf.adapters.presets import UNET

VARIANTS = ("lora", "peft dora", "dora", "dora, norms in each pass", "dora input")
RANK, TEXT = 16, 77


def build(unet: str) -> nn.Module:
    """Return a UNet of SD1.5's size or smaller, with random weights."""
    from diffusers import UNet2DConditionModel

    from elf.tiny import base

    torch.manual_seed(0)
    if unet == "tiny":
        return base.unet()
    if unet == "small":  # SD1.5's first two levels
        return UNet2DConditionModel(
            block_out_channels=(320, 640),
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=768,
            attention_head_dim=8,
        )
    return UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)  # its defaults


def sharing(network: nn.Module) -> nn.Module:
    """Return a copy with the same frozen weights, which are never changed."""
    return copy.deepcopy(network, {id(p): p for p in network.parameters()})


class Side:
    """A network with one of the adapters, and what a step of it takes."""

    def __init__(self, variant: str, base: nn.Module, options: argparse.Namespace) -> None:
        network = sharing(base)
        targets = UNET[options.targets]
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
        """Take a step and return what it took, s; on a CPU the processor's time."""
        cuda = self.options.device.startswith("cuda")
        clock = time.perf_counter if cuda else time.process_time
        synchronize(self.options.device)
        start = clock()
        self.gradients()
        self.optimizer.step()
        synchronize(self.options.device)
        return clock() - start


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
    context = multiprocessing.get_context("fork")  # before the parent's first backward pass
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(added_by_steps, variant, base, options).result()


def added_by_steps(variant: str, base: nn.Module, options: argparse.Namespace) -> float:
    """Return what two steps add to this process's resident set at most, MiB."""
    before = resident()
    side = Side(variant, base, options)
    side.step()
    side.step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before


def resident() -> float:
    """Return this process's resident set, MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


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
    parser.add_argument("--unet", choices=["sd15", "small", "tiny"], default="sd15")
    parser.add_argument("--targets", default="attention", help="a preset")
    parser.add_argument("--latent", type=int, default=64, help="side of the latents, px")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, help="file for the rows")
    options = parser.parse_args()
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
