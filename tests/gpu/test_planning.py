"""What `elf plan` predicts is what a step really takes, at full size with random weights.

Run with `pytest -m gpu tests/gpu/test_planning.py -s`, which prints a row for each configuration.
"""

import gc
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from elf.adapters import AdapterConfig
from elf.bases import Base
from elf.bases.checkpoint import empty
from elf.bases.configs import CONFIGS
from elf.bases.families import FAMILIES
from elf.objective import ObjectiveConfig
from elf.planning import Choice, PlannedTraining, card_at_hand, step_seconds
from elf.planning.probing import probe
from elf.training.optimization import LearningRates, adamw

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = torch.device("cuda")


class RandomParts:
    """The parts of a published base by their configurations, with random weights.

    On the CPU, as they come from a file: on the GPU those that get quantized would count twice.
    """

    def __init__(self, family: str) -> None:
        self.where = Path(family)
        self.family = FAMILIES[family]
        self.scheduler = CONFIGS[family]["scheduler"]

    def config(self, part: str) -> dict[str, Any]:
        return CONFIGS[self.family.name][part]

    def network(self, part: str, cls: Any, dtype: torch.dtype) -> nn.Module:
        network: nn.Module = empty(cls, self.config(part)).to(dtype).to_empty(device="cpu")
        for name, parameter in network.named_parameters():
            if parameter.dim() > 1:
                drawn = torch.empty(parameter.shape, dtype=dtype, device=CUDA)
                parameter.data.copy_(drawn.normal_(0, parameter[0].numel() ** -0.5))
            else:
                parameter.data.fill_(float("norm" in name and name.endswith("weight")))
        return network.eval()


@pytest.mark.parametrize(
    ("family", "kind", "batch", "checkpointing", "quantization"),
    [
        ("sd15", "lora", 1, False, None),
        ("sd15", "lora", 8, False, None),
        ("sd15", "dora", 1, False, None),
        ("sd15", "lora", 1, True, None),
        ("sdxl", "lora", 1, True, None),
        ("sdxl", "lora", 1, False, None),
        ("sdxl", "lora", 1, ("up_blocks.0", "down_blocks.2"), None),
        ("sdxl", "lora", 1, True, "nf4"),
    ],
)
def test_predictions_hold(
    family: str, kind: Any, batch: int, checkpointing: Any, quantization: Any
) -> None:
    """Within 10 % of the memory and, on a card with known figures, 20 % of the time."""
    parts: Any = RandomParts(family)
    adapter, rates = AdapterConfig(kind, 16), LearningRates()
    training = PlannedTraining(
        Base(family, parts), adapter, ObjectiveConfig(), torch.float16, "cached", rates
    )
    choice = Choice(batch, checkpointing, quantization, adamw)
    size = (512, 512) if family == "sd15" else (1024, 1024)
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    found = probe(training, choice, size, CUDA, 1, True, 1.0, None)
    assert found.reserved is not None
    reserved = found.reserved - before
    planned = training.footprint(choice, size)
    hand = card_at_hand()
    assert hand is not None
    card = hand[1]
    seconds = step_seconds(planned.kernels, planned.parameters, card) if card else None
    print(
        f"\n{family} {kind} batch {batch} checkpointing {checkpointing} {quantization}: "
        f"{planned.memory.total / 2**30:.2f} GiB predicted, {reserved / 2**30:.2f} measured; "
        f"{1e3 * (seconds or 0):.1f} ms predicted, {1e3 * found.seconds:.1f} measured"
    )
    assert planned.memory.total == pytest.approx(reserved, rel=0.1)
    if seconds is not None:
        assert seconds == pytest.approx(found.seconds, rel=0.2)
