"""A planned step takes what the step takes: on the tiny base, and as was measured on a card."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from elf import adapters
from elf.adapters import AdapterConfig
from elf.bases import Base, open_base
from elf.bases.configs import CONFIGS
from elf.bases.families import FAMILIES
from elf.errors import ElfError
from elf.objective import ObjectiveConfig
from elf.planning import Choice, Footprint, PlannedTraining, find_card, step_seconds
from elf.planning.memory import frozen_bytes, optimizer_state
from elf.planning.probing import filled
from elf.planning.tracing import watch
from elf.training.building import build
from elf.training.optimization import LearningRates, adamw

CHOICE = Choice(2, False, None, adamw)
SIZE = (64, 64)


@pytest.fixture(scope="module")
def tiny(tiny_models: dict[str, Path]) -> PlannedTraining:
    return planned(open_base(str(tiny_models["base"])))


def planned(base: Base, **options: Any) -> PlannedTraining:
    values = {
        "adapter": AdapterConfig("lora", 8),
        "objective": ObjectiveConfig(),
        "dtype": torch.float32,
        "text_states": "cached",
        "rates": LearningRates(),
        "fused": False,
    }
    return PlannedTraining(base, **{**values, **options})


def really(training: PlannedTraining, choice: Choice) -> tuple[int, int, int]:
    """Return the frozen bytes, the bytes kept and the peak of a step with all its numbers."""
    built = build(
        training.base,
        training.adapter,
        training.objective,
        training.dtype,
        training.text_states,
        choice.gradient_checkpointing,
        choice.quantization,
    )
    denoiser = built.denoiser
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], 0.1)
    for network in denoiser.parts.values():
        adapters.reuse_norms(network, optimizer)
    batch = filled(training.batch(choice.batch, SIZE, built), torch.device("cpu"))
    trained = [each for each in denoiser.parameters() if each.requires_grad]
    seen = watch(
        lambda: denoiser.training_errors(batch)[1].mean(),
        lambda loss: torch.autograd.grad(loss, trained, allow_unused=True),
    )
    return frozen_bytes(denoiser), seen.kept, seen.peak


@pytest.mark.parametrize(
    ("options", "choice"),
    [
        ({}, {}),
        ({"adapter": AdapterConfig("dora", 8)}, {}),
        ({}, {"gradient_checkpointing": True}),
        ({}, {"gradient_checkpointing": ("up_blocks.1", "mid_block")}),
        ({}, {"quantization": "int8"}),
        ({"text_states": "live"}, {}),
        ({"preserved": 0.5}, {}),
        (
            {"adapter": AdapterConfig("lora", 8, text_targets="attention"), "text_states": "live"},
            {},
        ),
    ],
    ids=["lora", "dora", "checkpointing", "some blocks", "int8", "live", "preserved", "text"],
)
def test_memory_is_that_of_the_real_step(
    tiny: PlannedTraining, options: dict[str, Any], choice: dict[str, Any]
) -> None:
    training = dataclasses.replace(tiny, **options)
    chosen = dataclasses.replace(CHOICE, **choice)
    frozen, kept, peak = really(training, chosen)
    found = training.footprint(chosen, SIZE)
    assert found.memory.frozen == frozen
    assert found.kept == pytest.approx(kept, rel=2e-3)  # masks that transformers makes of numbers
    assert found.memory.activations == pytest.approx(peak, rel=2e-3)


def test_what_is_trained_is_counted(tiny: PlannedTraining) -> None:
    found = tiny.footprint(CHOICE, SIZE)
    assert found.parameters == 89_600
    # weight, gradient, two moments, and a counter of 4 bytes for each of the parameters
    assert found.memory.trained == 16 * found.parameters + 4 * len(found.shapes)
    averaged = dataclasses.replace(tiny, averaged=True).footprint(CHOICE, SIZE)
    assert averaged.memory.trained - found.memory.trained == 4 * found.parameters


def test_memory_grows_with_batch_and_size(tiny: PlannedTraining) -> None:
    def activations(batch: int, size: tuple[int, int]) -> int:
        choice = dataclasses.replace(CHOICE, batch=batch)
        return tiny.footprint(choice, size).memory.activations

    one, two, four = (activations(batch, SIZE) for batch in (1, 2, 4))
    assert four - two == pytest.approx(2 * (two - one), rel=0.02)
    assert activations(1, (128, 64)) == pytest.approx(two, rel=0.1)
    assert activations(1, (64, 128)) == activations(1, (128, 64))


def test_half_precision_halves_the_frozen_weights(tiny: PlannedTraining) -> None:
    half = dataclasses.replace(tiny, dtype=torch.float16, text_states="live")
    full = dataclasses.replace(half, dtype=torch.float32)
    sizes = [each.footprint(CHOICE, SIZE).memory.frozen for each in (half, full)]
    assert sizes[0] / sizes[1] == pytest.approx(0.5, rel=0.01)


@pytest.mark.parametrize(
    ("name", "state"), [("SGD", 0), ("Adam", 8), ("Adagrad", 4), ("Lion8bit", None)]
)
def test_states_of_optimizers(tiny: PlannedTraining, name: str, state: int | None) -> None:
    if state is None:
        assert optimizer_state(name, [(100, 100)]).size == 10_000 + 10_000 // 64
        return
    factory = partial(getattr(torch.optim, name), lr=1e-3)
    found = tiny.footprint(dataclasses.replace(CHOICE, optimizer=factory), SIZE)
    assert found.optimizer == name
    assert found.state.size == pytest.approx(state * found.parameters, rel=0.01)
    assert found.state.known


def test_optimizers_that_look_at_values_are_known_by_name(tiny: PlannedTraining) -> None:
    factory = partial(torch.optim.Adafactor, lr=1e-3)
    found = tiny.footprint(dataclasses.replace(CHOICE, optimizer=factory), SIZE)
    assert 0 < found.state.size < 4 * found.parameters
    assert optimizer_state("AdamW8bit", [(4096,)]).size == 2 * 4096 + 2 * 4 * 16
    assert optimizer_state("AdamW8bit", [(64,)]).size == 8 * 64  # too small for 8 bit
    unknown = optimizer_state("Mine", [(3, 4)])
    assert (unknown.size, unknown.known) == (8 * 12, False)


def test_an_8_bit_optimizer_keeps_what_it_is_known_for(tiny: PlannedTraining) -> None:
    """Its step is a kernel of a GPU's, but its state can be made anywhere."""
    library = pytest.importorskip("bitsandbytes")
    factory = partial(library.optim.AdamW8bit, lr=1e-3)
    found = tiny.footprint(dataclasses.replace(CHOICE, optimizer=factory), SIZE)
    assert (found.optimizer, found.state.known) == ("AdamW8bit", True)
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in found.shapes]
    optimizer = library.optim.AdamW8bit(parameters, lr=1e-3)
    for index, parameter in enumerate(parameters):
        parameter.grad = torch.zeros_like(parameter)
        optimizer.init_state(optimizer.param_groups[0], parameter, 0, index)
    states = [v for each in optimizer.state.values() for v in each.values()]
    tensors = {v.data_ptr(): v for v in states if isinstance(v, torch.Tensor) and v.numel() != 256}
    size = sum(v.numel() * v.element_size() for v in tensors.values())
    assert found.state.size == pytest.approx(size, rel=0.02)


def test_what_cannot_be_trained_is_refused_as_in_training(tiny: PlannedTraining) -> None:
    training = dataclasses.replace(tiny, adapter=AdapterConfig("lora", 8, targets=["nothing"]))
    with pytest.raises(ElfError, match="nothing"):
        training.footprint(CHOICE, SIZE)


def test_no_weights_are_read(tiny: PlannedTraining, monkeypatch: pytest.MonkeyPatch) -> None:
    from elf.bases import folder

    monkeypatch.setattr(folder, "load", None)  # what reads them
    assert tiny.footprint(CHOICE, SIZE).kept


# --- as measured on one H100 80GB, fp16, captured, rank 16 on the attention, AdamW --------------


class Published:
    """The parts of a published base, by their configurations; there are no files."""

    def __init__(self, family: str) -> None:
        self.where = Path(family)
        self.family = FAMILIES[family]
        self.scheduler = CONFIGS[family]["scheduler"]

    def config(self, part: str) -> dict[str, Any]:
        return CONFIGS[self.family.name][part]


def full_size(family: str, kind: str, choice: Choice, fused: bool) -> Footprint:
    parts: Any = Published(family)
    adapter = AdapterConfig(kind, 16)  # type: ignore[arg-type]
    training = planned(Base(family, parts), adapter=adapter, dtype=torch.float16, fused=fused)
    side = 512 if family == "sd15" else 1024
    return training.footprint(choice, (side, side))


class Measured(NamedTuple):
    """A step of a card."""

    family: str
    kind: str
    batch: int
    fused: bool
    ms: float
    gib: float
    checkpointing: bool = False
    slow: bool = True


MEASURED = [
    Measured("sd15", "lora", 1, True, ms=15.2, gib=2.31, slow=False),
    Measured("sd15", "lora", 8, True, ms=51.5, gib=6.50),
    Measured("sd15", "dora", 1, True, ms=17.4, gib=2.55),
    Measured("sd15", "dora", 8, True, ms=54.6, gib=7.68),
    Measured("sd15", "lora", 1, True, ms=20.5, gib=1.96, checkpointing=True),
    Measured("sdxl", "lora", 1, True, ms=62.5, gib=9.72),
    Measured("sdxl", "lora", 1, True, ms=104.1, gib=6.00, checkpointing=True),
    Measured("sd15", "lora", 1, False, ms=24.3, gib=2.51),
    Measured("sdxl", "lora", 1, False, ms=134.1, gib=5.36, checkpointing=True),
]


@pytest.mark.parametrize(
    "point",
    [pytest.param(p, marks=[pytest.mark.slow] * p.slow) for p in MEASURED],
    ids=lambda p: (
        f"{p.family}-{p.kind}-{p.batch}" + "-checkpointing" * p.checkpointing + "-fused" * p.fused
    ),
)
def test_predictions_are_near_what_was_measured(point: Measured) -> None:
    """Within 10 % of the memory and 20 % of the time, which is what is asked for."""
    choice = Choice(point.batch, point.checkpointing, None, adamw)
    found = full_size(point.family, point.kind, choice, point.fused)
    assert found.memory.total / 2**30 == pytest.approx(point.gib, rel=0.1)
    seconds = step_seconds(found.kernels, found.parameters, find_card("H100 80GB"))
    assert 1e3 * seconds == pytest.approx(point.ms, rel=0.2)
