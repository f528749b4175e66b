"""Captured runs of a network at batches whose kernels are done before Python launches others.

At batch 1 a SwinV2 of some 1,500 kernels is given 30 pictures a second by Python, and 200 by a
CUDA graph, on the same card.
"""

import warnings
from collections.abc import Callable

from jaxtyping import Float, UInt8
from torch import Tensor

from elf.errors import ElfWarning, first_line
from elf.memory import is_out_of_memory
from elf.stepping.capture import Recorder

Run = Callable[[Tensor], Tensor]

MOST, MOST_COMPILED = 16, 128
"""Pictures; beyond, the kernels themselves take longer than their launches, also where threads that
decode pictures keep Python from launching."""


class CudaGraphs:
    """Runs a network from bytes to outputs, by a CUDA graph for each size of a batch.

    What a graph gives is compared with the network's own outputs when it is captured: captured
    attention in float16 was seen to give something else at small batches.

    Args:
        run: The network, which must not wait for the device.
        limit: By how much an output may differ from the network's own.
        most: Pictures, beyond which it runs by itself.

    Attributes:
        most: The same; it may change.
    """

    def __init__(self, run: Run, limit: float, most: int = MOST) -> None:
        self._run = run
        self._limit = limit
        self.most = most
        self._graphs: dict[int, tuple[Callable[[], None], Tensor, Tensor]] = {}
        self._record: Recorder | None = None
        self._usable = True

    def __call__(
        self, pixels: UInt8[Tensor, "batch size size 3"]
    ) -> Float[Tensor, "batch outputs"]:
        """Return the outputs; they are overwritten by the next call."""
        count = len(pixels)
        if not self._usable or count > self.most:
            return self._run(pixels)
        if count not in self._graphs:
            reason = self._capture(pixels)
            if reason:
                warnings.warn(
                    f"a CUDA graph of the tagger {reason}; it runs without, slower at small "
                    "batches",
                    ElfWarning,
                    stacklevel=2,
                )
                self.clear()
                self._usable = False
                return self._run(pixels)
        replay, inputs, outputs = self._graphs[count]
        inputs.copy_(pixels, non_blocking=True)
        replay()
        return outputs

    def clear(self) -> None:
        """Free the graphs' memory; they are captured again when they are needed."""
        self._graphs.clear()
        if self._record is not None:
            self._record.forget()

    def _capture(self, pixels: Tensor) -> str:
        """Capture a run at a batch's size; return why that did not work, or nothing."""
        inputs = pixels.clone()
        outputs: list[Tensor] = []
        if self._record is None:
            self._record = Recorder(pixels.device)
        try:
            replay = self._record(lambda: outputs.append(self._run(inputs)))
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            return f"could not be captured ({first_line(error, 120)})"
        replay()
        captured, expected = outputs[-1], self._run(inputs)
        difference = float(((captured - expected).abs() / (1 + expected.abs())).max())
        if not difference <= self._limit:  # NaN too
            return f"gives other outputs than the network (by {difference:.3g})"
        self._graphs[len(pixels)] = (replay, inputs, captured)
        return ""
