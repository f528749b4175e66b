"""What a training will be, before it is started: memory, time and disk, from shapes alone.

The step that trains is run on tensors without numbers (`tracing`), and each of its kernels is
counted (`kernels`); a card's few figures (`cards`) turn that into bytes and seconds.
"""

from elf.planning.cards import Card, card_at_hand, find_card
from elf.planning.memory import Memory
from elf.planning.steps import Choice, Footprint, PlannedTraining
from elf.planning.timing import step_seconds

__all__ = [
    "Card",
    "Choice",
    "Footprint",
    "Memory",
    "PlannedTraining",
    "card_at_hand",
    "find_card",
    "step_seconds",
]
