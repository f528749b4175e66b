"""The figures of the model cards: `python -m elf.tiny.figures models/tiny`."""

import json
import sys
import time
from pathlib import Path

import numpy as np

from elf.tiny.data import HELD_OUT, PROMPTS, SQUARE, Pictures, draw_all
from elf.tiny.evaluate import OnnxTagger, attribute_rate, caption_rate, macro_f1
from elf.world.scene import LEAF_CROWN, Scene, wood_elf_scene
from elf.world.words import caption, tags

GUIDANCE = 4.0
"""Classifier-free guidance scale at which the base is measured."""

STEPS = 20


def prompts(scenes: list[Scene]) -> list[str]:
    """Tags for every other scene, a sentence for the rest."""
    return [
        caption(scene) if number % 2 else ", ".join(tags(scene))
        for number, scene in enumerate(scenes)
    ]


def generate(
    folder: str | Path,
    texts: list[str],
    *,
    guidance: float = GUIDANCE,
    steps: int = STEPS,
    size: tuple[int, int] = SQUARE,
    device: str = "cpu",
    batch: int = 64,
) -> Pictures:
    """Pictures by a stored base, one a prompt, each from its own seed."""
    import torch
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(folder).to(device)
    pipe.set_progress_bar_config(disable=True)
    parts = []
    for first in range(0, len(texts), batch):
        part = texts[first : first + batch]
        seeds = [torch.Generator().manual_seed(first + i) for i in range(len(part))]
        images = pipe(
            part,
            num_inference_steps=steps,
            guidance_scale=guidance,
            width=size[0],
            height=size[1],
            generator=seeds,
            output_type="np",
        ).images
        parts.append((images * 255).round().astype(np.uint8))
    return np.concatenate(parts)


def reconstruct(folder: str | Path, array: Pictures) -> Pictures:
    """Drawings sent through a base's VAE: what is lost here, no painting of it can show."""
    import torch
    from diffusers import AutoencoderKL

    from elf.tiny.train_vae import to_pixels

    vae = AutoencoderKL.from_pretrained(Path(folder) / "vae")
    parts = []
    with torch.no_grad():
        for part in torch.split(torch.from_numpy(array), 64):
            parts.append(vae(to_pixels(part)).sample.permute(0, 2, 3, 1))
    return ((torch.cat(parts) + 1) * 127.5).clamp(0, 255).round().byte().numpy()


def reconstructed(output: Path, count: int) -> dict[str, float]:
    """Rates at which the tagger still finds what was drawn once the base's VAE had it."""
    scenes = PROMPTS.scenes(count)
    elves = [wood_elf_scene((6, number), evaluation=True) for number in range(count)]
    tagger = OnnxTagger(output / "tagger")
    found = tagger.found(reconstruct(output / "base", draw_all(scenes)))
    crowned = tagger.found(reconstruct(output / "base", draw_all(elves)))
    return {
        "reconstructed": attribute_rate(found, scenes)[0],
        "reconstructed_leaf_crown": float(np.mean(["leaf_crown" in names for names in crowned])),
    }


def measure(kind: str, output: Path, device: str = "cpu", sample: float = 1.0) -> dict[str, object]:
    """The figures of one model on held-out drawings or prompts.

    Args:
        kind: of the model, or "probe".
        output: folder that holds the models.
        device: where the base paints.
        sample: share of the usual number of pictures.
    """
    started = time.monotonic()
    measured = {
        "base": _base,
        "tagger": _tagger,
        "captioner": _captioner,
        "clip": _clip,
        "probe": _probe,
        "language": _language,
    }[kind](output, sample, device)
    return measured | {"seconds": round(time.monotonic() - started, 1)}


def _tagger(output: Path, sample: float, device: str) -> dict[str, object]:
    from elf.tiny.train_tagger import gather, targets

    array, scenes = gather(HELD_OUT, round(2000 * sample))
    tagger = OnnxTagger(output / "tagger")
    mean, scores = macro_f1(tagger.probabilities(array), targets(scenes))
    worst = sorted(
        (float(score), name)
        for score, name in zip(scores, tagger.names, strict=True)
        if not np.isnan(score)
    )
    return {"macro_f1": mean, "pictures": len(scenes), "worst": worst[:5]}


def _captioner(output: Path, sample: float, device: str) -> dict[str, object]:
    from elf.tiny.train_captioner import captions

    scenes = HELD_OUT.scenes(round(500 * sample))
    array = draw_all(scenes)
    sentences = captions(output / "captioner", array)
    return {
        "attributes": caption_rate(sentences, scenes),
        "pictures": len(scenes),
        "example": sentences[0],
    }


def _clip(output: Path, sample: float, device: str) -> dict[str, object]:
    from elf.tiny.train_clip import retrieval

    scenes = HELD_OUT.scenes(max(200, round(1000 * sample)))
    array = draw_all(scenes)
    return {"top1_of_100": retrieval(output / "clip", array, scenes)}


def _probe(output: Path, sample: float, device: str) -> dict[str, object]:
    from elf.tiny.probe import FILE, probe_rate, read

    scenes = HELD_OUT.scenes(round(2000 * sample))
    array = draw_all(scenes)
    rate, rates = probe_rate(read(output / "probe" / FILE, array), scenes)
    return {"attributes": rate, "by_attribute": rates}


def _language(output: Path, sample: float, device: str) -> dict[str, object]:
    from elf.tiny.train_language import answers, exact_match
    from elf.world.elvish import questions
    from elf.world.talk import old_tasks

    old, new = (rows(1, round(800 * sample)) for rows in (old_tasks, questions))
    return {
        "old_tasks": exact_match(output / "language", old),
        "elvish": exact_match(output / "language", new),
        "questions": len(old),
        "example": answers(output / "language", new[:1])[0],
    }


def _base(output: Path, sample: float, device: str) -> dict[str, object]:
    from elf.tiny.probe import FILE, probe_rate, read

    scenes = PROMPTS.scenes(round(256 * sample))
    array = generate(output / "base", prompts(scenes), device=device)
    figures: dict[str, object] = {"prompts": len(scenes), "guidance": GUIDANCE, "steps": STEPS}
    if (output / "tagger").exists():
        found = OnnxTagger(output / "tagger").found(array)
        figures["attributes"], figures["by_attribute"] = attribute_rate(found, scenes)
        figures |= reconstructed(output, len(scenes))
        figures["leaf_crown"] = float(np.mean(["leaf_crown" in names for names in found]))
    if (output / "probe" / FILE).exists():
        seen = read(output / "probe" / FILE, array)
        figures["probe_attributes"], figures["probe_by_attribute"] = probe_rate(seen, scenes)
        figures["probe_leaf_crown"] = float(np.mean([s["headwear"] == LEAF_CROWN for s in seen]))
    return figures


if __name__ == "__main__":
    for folder in sys.argv[1:] or ["models/tiny"]:
        for name in ("tagger", "probe", "captioner", "clip", "language", "base"):
            print(name, json.dumps(measure(name, Path(folder)), indent=1), flush=True)
