"""Rebuilds the tiny models: `python -m elf.tiny.train captioner`, or several kinds, or `all`."""

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

# torch is imported late: every process that draws imports this file first.
KINDS = ("tagger", "probe", "captioner", "clip", "language", "base")

# Optimizer steps, batch and peak learning rate that gave the weights in models/tiny.
RECIPES: dict[str, tuple[int, int, float]] = {
    "tagger": (4000, 128, 3e-3),
    "probe": (2500, 128, 3e-3),
    "captioner": (3000, 128, 1.5e-3),
    "clip": (2500, 256, 1e-3),
    "language": (2400, 16, 3e-3),
    "vae": (8000, 64, 1e-3),
    "decoder": (12000, 64, 1e-3),
    "unet": (10000, 512, 1e-3),
}

PICTURES = {"tagger": 10000, "captioner": 10000, "clip": 10000, "probe": 6000, "base": 24000}
"""Square pictures; of each other size there are a quarter as many."""

CHATS = 60000
"""What the language model reads, none of it twice."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    line = argparse.ArgumentParser(prog="python -m elf.tiny.train", description=__doc__)
    line.add_argument("kind", nargs="+", choices=(*KINDS, "all", "data"), help="what to train")
    line.add_argument("--output", default="models/tiny", help="folder of the models")
    line.add_argument("--device", default=None, help="cuda or cpu; default: cuda if there is one")
    line.add_argument("--seed", type=int, default=0, help="of weights, order and noise")
    line.add_argument("--workers", type=int, default=os.cpu_count(), help="drawing processes")
    line.add_argument("--cache", type=Path, default=None, help="folder that keeps the drawings")
    line.add_argument("--scale", type=float, default=1.0, help="of steps and pictures, to try out")
    line.add_argument("--batch", type=int, default=None, help="pictures a step, to try out")
    line.add_argument("--nofigures", action="store_true", help="train and write, measure later")
    line.add_argument("--eager", action="store_true", help="no CUDA graphs")
    line.add_argument(
        "--seconds", type=float, default=float("inf"), help="bound on the base, refinement aside"
    )
    return line


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what was asked for, and write figures beside each model."""
    started = time.monotonic()
    args = parser().parse_args(arguments)
    kinds = KINDS if "all" in args.kind else args.kind
    if "data" in kinds:
        _draw_everything(args.scale, args.workers, args.cache)
        return
    import torch

    from elf.tiny import figures, probe, train_captioner, train_clip, train_language, train_tagger
    from elf.tiny.loop import Budget

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")

    def budget(name: str) -> Budget:
        steps, batch, rate = RECIPES[name]
        steps, batch = max(2, round(steps * args.scale)), args.batch or batch
        return Budget(steps, batch, rate, device, args.seed, graphs=not args.eager)

    output = Path(args.output)
    drawn = {"workers": args.workers, "cache": args.cache}
    recipes = {
        "tagger": train_tagger.fit,
        "captioner": train_captioner.fit,
        "clip": train_clip.fit,
        "probe": probe.fit,
    }
    for kind in kinds:
        count = round(PICTURES.get(kind, CHATS) * args.scale)
        if kind == "language":
            train_language.fit(output / kind, budget(kind), count)
        elif kind == "base":
            from elf.tiny import train_base

            budgets = budget("vae"), budget("unet")
            left = args.seconds - (time.monotonic() - started)
            train_base.fit(output / kind, *budgets, count=count, seconds=left, **drawn)
            train_base.refine(output / kind, budget("decoder"), count=count, **drawn)
        else:
            recipes[kind](output / kind, budget(kind), count=count, **drawn)
        if args.nofigures:
            continue
        sample = max(0.1, min(1.0, args.scale))
        print(kind, json.dumps(figures.measure(kind, output, device, sample)), flush=True)


def _draw_everything(scale: float, workers: int, cache: Path) -> None:
    from elf.tiny.captions import caption_tokens
    from elf.tiny.data import BASE, EVERYTHING, PROBE, draw_splits

    draw_splits(EVERYTHING, round(PICTURES["tagger"] * scale), workers, cache)
    draw_splits(BASE, round(PICTURES["base"] * scale), workers, cache)
    caption_tokens(round(PICTURES["base"] * scale), cache)
    draw_splits(PROBE, round(PICTURES["probe"] * scale), workers, cache)


if __name__ == "__main__":
    main()
