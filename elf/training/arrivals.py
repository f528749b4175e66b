"""Numbers on their way from a GPU: to look at one at once is to wait for all that it has to do.

The processor runs some steps ahead of the GPU. A look at a loss lets the GPU come to its end, and
then it stands idle until the next step has been prepared: at each look, as long as the processor
needs for a step.
"""

from collections import deque
from collections.abc import Iterator
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class _Sent(NamedTuple):
    """Values that are on the CPU once an event is ``ready``; None: they are there."""

    values: Tensor
    ready: Any
    about: Any


class Arrivals(Generic[T]):
    """Values that were sent to the CPU, in their order, each with what they are about.

    Args:
        most: How many may be on their way when they are looked at; of more the oldest is waited
            for. None: any number.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._sent: deque[_Sent] = deque()

    def send(self, values: Tensor, about: T) -> None:
        """Send values as they are now; they may be changed afterwards."""
        values = values.detach()
        if values.device.type != "cuda":
            self._sent.append(_Sent(values.to("cpu", copy=True), None, about))
            return
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        host.copy_(values, non_blocking=True)
        ready: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        ready.record()
        self._sent.append(_Sent(host, ready, about))

    def take(self, wait: bool = False) -> Iterator[tuple[Tensor, T]]:
        """Yield what has arrived, each once.

        Args:
            wait: For all that was sent.
        """
        while self._sent:
            ready = self._sent[0].ready
            if ready is not None:
                too_many = self._most is not None and len(self._sent) > self._most
                if not (wait or too_many or ready.query()):
                    return
                ready.synchronize()
            values, _, about = self._sent.popleft()
            yield values, about
