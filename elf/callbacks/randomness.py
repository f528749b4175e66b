"""The state of the global random generators, which Lightning does not put into checkpoints."""

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer


def generator_states() -> dict[str, Any]:
    """Return the states of all global generators, as tensors and plain values."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": [kind, torch.from_numpy(np.array(keys)), position, has_gauss, gauss],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_generator_states(state: dict[str, Any]) -> None:
    """Set all global generators to states that ``generator_states`` returned."""
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.numpy(), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


@contextlib.contextmanager
def unchanged_generators() -> Iterator[None]:
    """Leave the global generators as they were, however the block ends."""
    state = generator_states()
    try:
        yield
    finally:
        set_generator_states(state)


class Randomness(Callback):
    """Saves and restores the generators of Python, numpy and torch, so that dropout goes on too.

    A checkpoint holds rank 0's state alone, which every rank gets when it goes on; so what must be
    equal on every world size is drawn from the samples' own seeds instead
    (``elf.objective.diffusion.generators``).
    """

    def __init__(self) -> None:
        self._restored: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the states as tensors and plain values: a checkpoint holds nothing else."""
        return generator_states()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the states until training starts: what happens before would move them on."""
        self._restored = state_dict

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the states of the moment the checkpoint was written."""
        if self._restored is not None:
            set_generator_states(self._restored)
            self._restored = None
