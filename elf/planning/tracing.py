"""What a step does, seen without doing it: its tensors exist as shapes, and each kernel is noted.

A training step runs here on torch's fake tensors: the code is the one that trains, the numbers are
left out. Whatever is allocated is counted for as long as something holds it, so that the peak
covers what autograd keeps, what gradient checkpointing recomputes, and what is gone in between.
(Plain ``meta`` tensors know no autocast and no checkpointing; fake ones are on a CPU as far as
anyone sees, whose fused attention keeps what a GPU's does: queries, keys, values, output and its
log-sum-exp.)
"""

import gc
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from elf.planning.kernels import Kernel, kernel_of

BLOCK = 512
"""Bytes to which torch's CUDA allocator rounds each request up."""


class Seen(NamedTuple):
    """What was seen of a function.

    Attributes:
        kept: Bytes that were alive at the end of what was first, the forward pass.
        peak: Most bytes alive at a time; what was there before does not count.
        kernels: All that a GPU would have had to do.
        left: Bytes that the forward pass of each of the modules left alive, by their names.
    """

    kept: int
    peak: int
    kernels: list[Kernel]
    left: dict[str, int]


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types
    """Counts the bytes that are alive of all that operators allocate, and notes the operators."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive = self.peak = 0
        self.kernels: list[Kernel] = []
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        inputs = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        before = {each.untyped_storage()._cdata for each in inputs}
        result = func(*args, **kwargs)
        outputs = [each for each in tree_leaves(result) if isinstance(each, Tensor)]
        made = [each for each in outputs if each.untyped_storage()._cdata not in before]
        for each in made:
            self._hold(each.untyped_storage())
        if made or func._schema.is_mutable:  # else it is a view, for which a GPU does nothing
            self.kernels.append(kernel_of(func, args, inputs, outputs))
        return result

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = -(-storage.nbytes() // BLOCK) * BLOCK

        def gone(_: object) -> None:
            self.alive -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, gone)
        self.alive += size
        self.peak = max(self.peak, self.alive)


@contextmanager
def tolerated() -> Iterator[None]:
    """Let whoever asks a tensor without numbers where these are get 0, without a warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
        yield


class Pretence:
    """A world in which tensors have no numbers; what was made in one is of no use in another."""

    def __init__(self) -> None:
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)

    @contextmanager
    def __call__(self, dtype: torch.dtype = torch.float32) -> Iterator[None]:
        """Let new tensors take no memory for as long as it lasts.

        Args:
            dtype: Of networks that are made meanwhile.
        """
        usual = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with tolerated(), self._mode:
                yield
        finally:
            torch.set_default_dtype(usual)


def watch(
    first: Callable[[], Any],
    second: Callable[[Any], Any],
    modules: Mapping[str, nn.Module] = MappingProxyType({}),
) -> Seen:
    """Return what two functions do, of which the second is given what the first returned.

    Args:
        first: The forward pass.
        second: The backward pass, which gives up what it is given as it goes.
        modules: Of which to see what each leaves alive.
    """
    gc.freeze()  # else Python looks through all modules again and again: half of the time
    try:
        with _Watch() as seen:
            with _left_by(modules, seen) as left:
                result = first()
            kept = seen.alive
            gradients = second(result)
            del result, gradients
    finally:
        gc.unfreeze()
    return Seen(kept, seen.peak, seen.kernels, left)


@contextmanager
def _left_by(modules: Mapping[str, nn.Module], seen: _Watch) -> Iterator[dict[str, int]]:
    """Note how many more bytes are alive after a module's forward pass than before."""
    before: dict[str, int] = {}
    left: dict[str, int] = {}

    def begin(name: str) -> None:
        before[name] = seen.alive

    def end(name: str) -> None:
        left[name] = seen.alive - before[name]

    with ExitStack() as hooks:
        for name, module in modules.items():
            hooks.enter_context(module.register_forward_pre_hook(lambda *_, name=name: begin(name)))
            hooks.enter_context(module.register_forward_hook(lambda *_, name=name: end(name)))
        yield left
