"""The gradients of all that is trained, in one buffer."""

from collections.abc import Sequence

import torch
from torch import Tensor, distributed, nn


class Gradients:
    """One buffer, of which each parameter's ``grad`` is a part.

    It stays where it is, for captured graphs; it is zeroed, and averaged over processes, at once.

    Args:
        parameters: What is trained, of one type and on one device.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        first = self.parameters[0]
        size = sum(parameter.numel() for parameter in self.parameters)
        self.buffer = torch.zeros(size, dtype=first.dtype, device=first.device)
        self._parts: list[Tensor] = []
        begin = 0
        for parameter in self.parameters:
            part = self.buffer[begin : begin + parameter.numel()]
            self._parts.append(part.view_as(parameter))
            begin += parameter.numel()
        self.attach()

    def attach(self) -> None:
        """Let the parameters' gradients be the buffer's parts, whatever they were."""
        for parameter, part in zip(self.parameters, self._parts, strict=True):
            parameter.grad = part

    def add(self, loss: Tensor) -> None:
        """Add the gradients of a loss.

        Not by ``backward``: the nodes by which that adds up belong to the stream on which they were
        made, which need not be the one that is captured, and DDP listens to them.
        """
        gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        pairs = zip(self._parts, gradients, strict=True)
        used = [(part, gradient) for part, gradient in pairs if gradient is not None]
        if used:
            torch._foreach_add_([part for part, _ in used], [gradient for _, gradient in used])

    def average(self) -> None:
        """Take the mean over all processes of the default group."""
        distributed.all_reduce(self.buffer)
        self.buffer.div_(distributed.get_world_size())
