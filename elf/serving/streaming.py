"""What a blocking work tells, as it tells it."""

import queue
import threading
from collections.abc import Callable, Generator
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def streamed(
    work: Callable[[Callable[[T], None], Callable[[], bool]], R], stop: threading.Event
) -> Generator[T, None, R]:
    """Yield the latest of what a work tells, and return its result.

    The work runs in a thread of its own. Whoever gives the generator up stops the work.

    Args:
        work: Is given whom to tell, and what says whether it is to stop.
        stop: Stops it.

    Raises:
        Exception: What the work raises.
    """
    told: queue.SimpleQueue[T | None] = queue.SimpleQueue()
    abandoned = threading.Event()
    done: list[R] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            done.append(work(told.put, lambda: stop.is_set() or abandoned.is_set()))
        except BaseException as error:
            failed.append(error)
        finally:
            told.put(None)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while (latest := told.get()) is not None:
            while not told.empty():
                following = told.get()
                if following is None:
                    told.put(None)
                    break
                latest = following
            yield latest
    finally:
        abandoned.set()
        thread.join()
    if failed:
        raise failed[0]
    return done[0]
