"""The forward and backward pass of a batch, captured once for each form of batches."""

import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from elf.errors import ElfWarning, first_line
from elf.stepping.capture import Recorder
from elf.stepping.gradients import Gradients
from elf.stepping.static import Batch, Form, StaticBatch, form_of

KEPT = 64
"""Graphs that are kept; the one that was not used for the longest time goes first."""


class Step(NamedTuple):
    """What a pass leaves beside gradients.

    Attributes:
        loss: Of the batch, a scalar.
        errors: (B,), of each sample.
    """

    loss: Tensor
    errors: Tensor


class _Captured(NamedTuple):
    inputs: StaticBatch
    replay: Callable[[], None]
    outputs: Step


class Passes:
    """Adds a batch's gradients to those that are there.

    Args:
        function: Does so, by the batch's tensors alone and without waiting for the device.
        gradients: Where.
        recorder: Captures the function; None runs it as it is.
        kept: Graphs at a time.

    Attributes:
        captures: Graphs made so far.
        replays: Passes that were launched as a graph.
        eager: Passes that were not.
    """

    def __init__(
        self,
        function: Callable[[Batch], Step],
        gradients: Gradients,
        recorder: Recorder | None,
        kept: int = KEPT,
    ) -> None:
        self._function = function
        self._gradients = gradients
        self._recorder = recorder
        self._kept = kept
        self._graphs: OrderedDict[Form, _Captured | None] = OrderedDict()
        self.captures = self.replays = self.eager = 0

    def __call__(self, batch: Batch) -> Step:
        """Return the loss and errors of a batch; they are overwritten by the next of its form."""
        if self._recorder is None:
            self.eager += 1
            return self._function(batch)
        form = form_of(batch)
        if form not in self._graphs:
            self._graphs[form] = self._capture(batch, self._recorder)
            while len(self._graphs) > self._kept:
                torch.cuda.synchronize(self._recorder.device)  # it may be at work
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(form)
        graph = self._graphs[form]
        if graph is None:
            self.eager += 1
            return self._function(batch)
        self.replays += 1
        graph.inputs.take(batch)
        graph.replay()
        return graph.outputs

    def release(self) -> bool:
        """Give up all graphs and their memory, and return whether there were any.

        They are captured again when they are needed.
        """
        if self._recorder is None or not self._graphs:
            return False
        torch.cuda.synchronize(self._recorder.device)
        self._graphs.clear()
        self._recorder.forget()
        return True

    def _capture(self, batch: Batch, recorder: Recorder) -> _Captured | None:
        inputs = StaticBatch(batch)
        outputs: list[Step] = []

        def run() -> None:
            outputs[:] = [self._function(inputs.batch)]

        gradients = self._gradients.buffer.clone()
        generator = torch.cuda.get_rng_state(recorder.device)
        try:
            # What is made once and kept is made in the first run, on memory of its own.
            replay = recorder(run, warm_up_in_pool=self.captures > 0)
        except (RuntimeError, torch.OutOfMemoryError) as error:
            warnings.warn(
                "this step runs without a CUDA graph, as it cannot be captured: "
                f"{first_line(error)}",
                ElfWarning,
                stacklevel=2,
            )
            return None
        finally:  # as if it had not run
            self._gradients.buffer.copy_(gradients)
            torch.cuda.set_rng_state(generator, recorder.device)
        self.captures += 1
        return _Captured(inputs, replay, outputs[0])
