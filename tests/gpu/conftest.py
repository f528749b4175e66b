"""What tests on a GPU share."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch


@contextmanager
def _waiting_is_an_error() -> Iterator[None]:
    def synchronize(*_: Any) -> None:
        raise RuntimeError("torch.cuda.synchronize was called")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "synchronize", synchronize)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
            torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:  # else each later test of this process fails
            torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def waiting_is_an_error() -> Callable[[], AbstractContextManager[None]]:
    """Return a context in which whatever waits for the GPU fails, but for a wait for an event."""
    return _waiting_is_an_error
