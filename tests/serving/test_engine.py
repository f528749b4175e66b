"""What is drawn is what was asked for, whatever was drawn before and is asked beside it."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from elf import adapters
from elf.bases import Base
from elf.errors import ElfError
from elf.generation import GenerationConfig, SamplingStopped
from elf.modules import DiffusionModule
from elf.serving.engine import Engine
from elf.serving.request import Limits, Request

ASKED = Request("forest, night", seed=3, steps=3, guidance=3.0, width=32, height=32)
CONFIG = GenerationConfig(steps=3, guidance=3.0, width=32, height=32)


def pixels(engine: Engine, **changes: Any) -> np.ndarray:
    (drawn,) = engine.draw([replace(ASKED, **changes)])
    return np.asarray(drawn.image)


@pytest.mark.parametrize("name", ["lora", "dora", "text"])
def test_an_adapter_draws_as_its_training_does(engine: Engine, base: Base, name: str) -> None:
    trained = engine.served[name].trained
    module = DiffusionModule(base.name, trained.config)
    module.configure_model()
    module.load_state_dict(dict(trained.state))
    prompt = "wood_elf, forest, night" if name == "lora" else "forest, night"
    (expected,) = module.generate([prompt], CONFIG, [3])
    assert np.array_equal(pixels(engine, adapter=name), np.asarray(expected))


def test_the_base_stays_what_it_is_through_all_changes(engine: Engine, base: Base) -> None:
    module = DiffusionModule(base.name)
    module.configure_model()
    with module.denoiser.adapter_off():
        (expected,) = module.generate(["forest, night"], CONFIG, [3])
    plain = np.asarray(expected)
    first = {name: pixels(engine, adapter=name) for name in ("lora", "dora", "text")}
    assert len({picture.tobytes() for picture in (plain, *first.values())}) == 4
    for name in ("text", "lora", "dora", "dora", "lora"):
        assert np.array_equal(pixels(engine), plain)
        assert np.array_equal(pixels(engine, adapter=name, strength=0, trigger=False), plain)
        assert np.array_equal(pixels(engine, adapter=name), first[name])


def test_a_strength_is_that_of_its_request(engine: Engine) -> None:
    full, half = (pixels(engine, adapter="dora", strength=each) for each in (1, 0.5))
    assert not np.array_equal(full, half)
    assert np.array_equal(pixels(engine, adapter="dora"), full)
    assert np.array_equal(pixels(engine, adapter="dora", strength=0.5), half)


def test_the_trigger_is_put_before_prompts_that_lack_it(engine: Engine) -> None:
    with_it, without = (
        engine.draw([replace(ASKED, adapter="lora", trigger=each)])[0] for each in (True, False)
    )
    assert with_it.infotext.startswith("wood_elf, forest, night <lora:lora:1>\n")
    assert without.infotext.startswith("forest, night <lora:lora:1>\n")
    own = engine.draw([replace(ASKED, prompt="a wood_elf", adapter="lora")])[0]
    assert own.infotext.startswith("a wood_elf <lora:lora:1>\n")


def test_fifty_at_once_are_each_their_own(engine: Engine) -> None:
    names = [None, "lora", "dora", "text"]
    asked = [
        replace(ASKED, adapter=names[n % 4], seed=n % 5, strength=0.5 + n % 2) for n in range(50)
    ]
    alone = {each: engine.draw([each])[0].image.tobytes() for each in set(asked)}
    with ThreadPoolExecutor(50) as pool:
        drawn = list(pool.map(lambda each: engine.draw([each])[0], asked))
    for each, found in zip(asked, drawn, strict=True):
        assert found.request == each
        assert found.image.tobytes() == alone[each]


def test_a_stop_leaves_the_engine_as_it_was(engine: Engine) -> None:
    before, told = pixels(engine, adapter="lora"), list[tuple[int, int]]()
    stops = threading.Event()

    def progress(done: int, of: int) -> None:
        told.append((done, of))
        if done == 2:
            stops.set()

    with pytest.raises(SamplingStopped):
        engine.draw([ASKED, replace(ASKED, adapter="dora")], progress, stops.is_set)
    assert told == [(1, 6), (2, 6)]
    assert np.array_equal(pixels(engine, adapter="lora"), before)


def test_an_adapter_that_fails_half_way_leaves_none(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, before = pixels(engine), pixels(engine, adapter="text")
    real = adapters.load_adapter_state

    def failing(network: Any, state: Any) -> None:
        real(network, state)
        raise RuntimeError("no more")

    monkeypatch.setattr("elf.adapters.slot.adapters.load_adapter_state", failing)
    with pytest.raises(RuntimeError, match="no more"):
        pixels(engine, adapter="dora")
    monkeypatch.undo()
    assert np.array_equal(pixels(engine), plain)
    assert np.array_equal(pixels(engine, adapter="text"), before)


def test_what_is_full_or_unknown_is_said(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ElfError, match=r"there is no adapter '\.\./lora'"):
        pixels(engine, adapter="../lora")

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("elf.serving.engine.generate", full)
    with pytest.raises(ElfError, match="32 × 32 px take more memory than cpu has"):
        pixels(engine)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps 0 is not within 1 to 150"),
        ({"width": 4096}, "width 4096 is not within 8 to 1536"),
        ({"height": 60}, "height 60 is no multiple of 8"),
        ({"strength": float("nan")}, "strength nan is not within -1.0 to 2.0"),
        ({"guidance": 51.0}, "guidance 51.0 is not within 0 to 50"),
        ({"seed": 2**32}, "seed 4294967296 is not within -1 to 4294967295"),
        ({"prompt": "a" * 4001}, "prompt has 4001 characters, of 4000 at most"),
    ],
)
def test_limits_are_held(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ElfError, match=message):
        replace(ASKED, **changes).checked(Limits())


def test_a_seed_is_drawn_where_none_is_given() -> None:
    seeds = {replace(ASKED, seed=-1).checked(Limits()).seed for _ in range(5)}
    assert len(seeds) == 5 and min(seeds) >= 0


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    yield


def test_infotext_is_as_web_uis_read_it(engine: Engine, base: Base) -> None:
    (drawn,) = engine.draw([replace(ASKED, negative_prompt="blurry", adapter="dora", strength=0.5)])
    first, second, third = drawn.infotext.splitlines()
    assert first == "forest, night <lora:dora:0.5>"
    assert second == "Negative prompt: blurry"
    assert third.startswith("Steps: 3, Sampler: ")
    assert f"CFG scale: 3, Seed: 3, Size: 32x32, Model: {Path(base.name).stem}, Version:" in third
