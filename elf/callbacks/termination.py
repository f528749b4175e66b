"""What SIGTERM and Ctrl-C mean to a run: a checkpoint at the next optimizer step, then the end."""

import os
import signal
import threading
from types import FrameType
from typing import Any

from lightning.pytorch import Trainer

from elf.platforms import ending_signals, let_end
from elf.processes import gather, place

SIGNALS = ending_signals()


class Termination:
    """Notes a signal instead of dying of it; a second one ends the process at once.

    Lightning's own handler ends a run within an accumulation, without a checkpoint and with exit
    code 0.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._before: dict[int, Any] = {}

    def install(self) -> None:
        """Handle the signals from now on; in the main thread, where alone that can be done."""
        self._received = None
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}

    def uninstall(self) -> None:
        """Handle them as before."""
        while self._before:
            signal.signal(*self._before.popitem())

    def _note(self, number: int, _: FrameType | None) -> None:
        if self._received is not None:
            let_end(number)
        self._received = number
        # not print: the signal may have come while something was being printed
        os.write(
            2, b"\nelf: stopping after this step, with a checkpoint; once more stops at once\n"
        )

    @property
    def received(self) -> bool:
        """Whether this process was told to end; no other is asked."""
        return self._received is not None

    def requested(self, trainer: Trainer) -> bool:
        """Whether any process of the run was told to end; each asks at the same steps."""
        received = self.received
        if trainer.world_size > 1:
            return bool(trainer.strategy.reduce_boolean_decision(received, all=False))
        return received

    def end(self, step: int) -> None:
        """End the process as the signal would have; every process of the run must call it.

        Raises:
            SystemExit: With 128 and the signal's number, as a shell has it; the same in all.
        """
        number = max(gather(self._received or 0)) or signal.SIGTERM
        name = signal.Signals(number).name
        if place()[1] == 0:
            print(f"elf: {name}: saved at step {step}; go on with --ckpt_path last", flush=True)
        raise SystemExit(128 + number)
