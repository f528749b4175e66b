"""The stored models on held-out drawings: smaller samples than the cards', looser bounds."""

from pathlib import Path

import numpy as np
import pytest

from elf.tiny.data import HELD_OUT, PROMPTS, draw_all
from elf.tiny.evaluate import OnnxTagger, attribute_rate, caption_rate, macro_f1
from elf.tiny.figures import generate, prompts, reconstructed
from elf.world.scene import LEAF_CROWN

MODELS = Path(__file__).parents[2] / "models" / "tiny"


def needs(kind: str) -> Path:
    if not (MODELS / kind).exists():
        pytest.skip(f"models/tiny/{kind} is missing: python -m elf.tiny.train {kind}")
    return MODELS / kind


def test_the_models_fit_into_git() -> None:
    sizes = [path.stat().st_size for path in MODELS.rglob("*") if path.is_file()]
    assert sum(sizes) <= 18 * 2**20
    assert max(sizes, default=0) <= 8 * 2**20


def test_the_tagger_finds_the_tags_of_held_out_drawings() -> None:
    from elf.tiny.train_tagger import targets

    scenes = HELD_OUT.scenes(400)
    tagger = OnnxTagger(needs("tagger"))
    probabilities = tagger.probabilities(draw_all(scenes))
    mean, scores = macro_f1(probabilities, targets(scenes))
    assert mean >= 0.97
    assert scores[tagger.names.index("leaf_crown")] >= 0.95


def test_the_captioner_names_the_attributes_of_held_out_drawings() -> None:
    from elf.tiny.train_captioner import captions

    scenes = HELD_OUT.scenes(64)
    assert caption_rate(captions(needs("captioner"), draw_all(scenes)), scenes) >= 0.94


def test_clip_finds_the_caption_of_a_held_out_drawing() -> None:
    from elf.tiny.train_clip import retrieval

    scenes = HELD_OUT.scenes(200)
    assert retrieval(needs("clip"), draw_all(scenes), scenes) >= 0.9


def test_the_probe_agrees_with_the_truth() -> None:
    from elf.tiny.probe import FILE, probe_rate, read

    scenes = HELD_OUT.scenes(200)
    seen = read(needs("probe") / FILE, draw_all(scenes))
    assert probe_rate(seen, scenes)[0] >= 0.96
    assert np.mean([s["headwear"] == d.headwear for s, d in zip(seen, scenes, strict=True)]) > 0.97


@pytest.mark.slow
def test_the_base_paints_what_a_prompt_asks_for() -> None:
    from elf.tiny.probe import FILE, probe_rate, read

    scenes = PROMPTS.scenes(64)
    array = generate(needs("base"), prompts(scenes))
    found = OnnxTagger(needs("tagger")).found(array)
    seen = read(needs("probe") / FILE, array)
    assert attribute_rate(found, scenes)[0] >= 0.95
    assert probe_rate(seen, scenes)[0] >= 0.95
    assert not any("leaf_crown" in names for names in found)
    assert not any(attributes["headwear"] == LEAF_CROWN for attributes in seen)


def test_the_vae_passes_on_what_was_drawn() -> None:
    needs("base")
    figures = reconstructed(MODELS, 64)
    assert figures["reconstructed"] >= 0.97
    assert figures["reconstructed_leaf_crown"] >= 0.95
