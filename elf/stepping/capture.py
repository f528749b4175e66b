"""CUDA graphs: the kernels of a function, recorded once and then launched together."""

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

import torch

_BROKEN: list[torch.cuda.CUDAGraph] = []
"""Graphs whose capture failed. torch's allocators go on asking them about streams, so they stay."""

WARM_UPS = 2
"""Runs before a capture, in which kernels are chosen and workspaces made."""


class Recorder:
    """Captures functions that run one after the other, so that they can share their memory.

    A capture that fails leaves torch as it was: at 2.11 and 2.14 it does not do so by itself (the
    allocator goes on as if it were capturing, and later work in the process may hang).

    Args:
        device: A CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(
        self,
        function: Callable[[], object],
        before: Callable[[], object] = lambda: None,
        warm_up_in_pool: bool = False,
    ) -> Callable[[], None]:
        """Return what launches the kernels of a function again, on the same memory.

        Args:
            function: What to capture; it may not wait for the device.
            before: Called before each run that warms up.
            warm_up_in_pool: Whether these take their memory from the graphs': else as much again
                is needed. A tensor that they leave behind for good would stand in memory that
                earlier graphs write to.

        Raises:
            RuntimeError: If the function does what no capture may; ``OutOfMemoryError`` too.
        """
        here = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(here)
        with self._held_pool(warm_up_in_pool) as allocating:
            with torch.cuda.stream(self._stream), allocating:
                for _ in range(WARM_UPS):
                    before()
                    function()
            here.wait_stream(self._stream)
            return self._capture(function)

    @contextmanager
    def _held_pool(self, held: bool) -> Iterator[AbstractContextManager[None]]:
        """Hold the graphs' memory, and yield what lets the current stream allocate from it."""
        if not held:
            yield nullcontext()
            return
        backend: Any = torch._C
        place = (self.device.index, self._pool)

        @contextmanager
        def allocating() -> Iterator[None]:
            backend._cuda_beginAllocateCurrentStreamToPool(*place)
            try:
                yield
            finally:
                backend._cuda_endAllocateToPool(*place)

        try:
            yield allocating()
        finally:  # not before the capture, which refuses memory that nobody holds
            backend._cuda_releasePool(*place)

    def _capture(self, function: Callable[[], object]) -> Callable[[], None]:
        here = torch.cuda.current_stream(self.device)
        _give_up_workspaces()
        graph = torch.cuda.CUDAGraph()
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="The CUDA Graph is empty")  # it broke off
                # Other threads, which decode pictures, may go on using CUDA.
                with (
                    _no_collection(),
                    torch.cuda.device(self.device),
                    torch.cuda.graph(graph, self._pool, self._stream, "thread_local"),
                ):
                    function()
        except BaseException:
            self._mend(graph)
            raise
        finally:
            torch.cuda.set_stream(here)  # a capture that fails leaves its own stream behind
            _give_up_workspaces()
        return graph.replay

    def forget(self) -> None:
        """Go on with other memory; nothing can be captured into that of graphs that are gone."""
        self._pool = torch.cuda.graph_pool_handle()

    def _mend(self, graph: torch.cuda.CUDAGraph) -> None:
        """Do what torch leaves undone where the end of a capture fails."""
        _BROKEN.append(graph)
        graph.reset()
        backend: Any = torch._C
        with suppress(RuntimeError):  # it was ended
            backend._cuda_endAllocateToPool(self.device.index, self._pool)
            backend._cuda_releasePool(self.device.index, self._pool)
        self.forget()  # the allocator of pinned memory goes on with that pool
        # The random generator still counts for the graph; a capture that ends well ends that too.
        with torch.cuda.device(self.device), torch.cuda.graph(torch.cuda.CUDAGraph()):
            torch.zeros(1, device=self.device)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep Python from freeing old graphs and events within: that would break a capture off."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _give_up_workspaces() -> None:
    """Let cuBLAS take new workspaces: a graph's own during a capture, others after it.

    Whoever clears torch's (a Trainer does when it starts and when it ends) would free what a graph
    goes on writing to: its next run was an "unspecified launch failure".
    """
    backend: Any = torch._C
    backend._cuda_clearCublasWorkspaces()
