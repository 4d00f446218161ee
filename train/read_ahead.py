"""Input is read in a thread of its own while the devices compute."""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")

DEPTH = 2
"""Items held in memory at most: one may be late once without a wait."""


class ReadAhead(Iterator[T], Generic[T]):
    """The items of an iterable, in their order; up to `DEPTH` are read while the caller works on those before.

    What the iterable raises comes out of `next` in the place of the item. Leaving the `with` block waits for the item that
    is being read, and reads no other.
    """

    def __init__(self, items: Iterable[T]):
        self.waited = 0.0
        """Seconds that the caller has waited in `next`."""
        self._items = iter(items)
        self._coming: deque[Future[tuple[T] | None]] = deque()

    def __enter__(self) -> "ReadAhead[T]":
        self._thread = ThreadPoolExecutor(1, "read_ahead")
        self._coming.extend(self._thread.submit(self._read) for _ in range(DEPTH))
        return self

    def _read(self) -> tuple[T] | None:
        for item in self._items:
            return (item,)
        return None

    def __next__(self) -> T:
        begun = time.perf_counter()
        read = self._coming.popleft().result() if self._coming else None
        self.waited += time.perf_counter() - begun
        if read is None:
            raise StopIteration
        self._coming.append(self._thread.submit(self._read))
        return read[0]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=True)
