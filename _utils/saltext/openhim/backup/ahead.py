"""Several producers ahead of one consumer that takes their output in order, in bounded memory."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

#: Seconds of waiting after which a producer says that it is still wanted.
IDLE = 120.0


class Source(Protocol[T_co]):
    """What is read ahead: a sequence of items, made in a thread of its own."""

    def __iter__(self) -> Iterator[T_co]: ...

    def keep_alive(self) -> None:
        """Called now and then while nobody takes its items."""

    def close(self) -> None:
        """Called once, at the end or when its items are not wanted any more."""


class _Unwanted(Exception):
    """The consumer is gone."""


class ReadAhead(Generic[T]):
    """Runs ``sources`` in ``workers`` threads; :meth:`take` gives their items, source by source.

    At most ``limit`` units (as ``size`` measures an item) wait to be taken, and one item per worker
    beyond that. The source whose turn it is always gets its next item in.
    """

    def __init__(
        self,
        sources: Sequence[Source[T]],
        size: Callable[[T], int],
        limit: int,
        workers: int,
    ):
        self._sources = sources
        self._size = size
        self._limit = limit
        self._held = 0
        self._turn = 0
        self._next = 0
        self._closed = False
        self._changed = threading.Condition()
        self._items: list[deque[T]] = [deque() for _ in sources]
        self._outcome: list[BaseException | bool] = [False for _ in sources]
        self._threads = [
            threading.Thread(target=self._work, name="read-ahead", daemon=True)
            for _ in range(min(workers, len(sources)))
        ]
        for thread in self._threads:
            thread.start()

    def _work(self) -> None:
        while True:
            with self._changed:
                index = self._next
                if self._closed or index >= len(self._sources):
                    return
                self._next += 1
            outcome: BaseException | bool = True
            source = self._sources[index]
            try:
                for item in source:
                    self._put(index, item, source)
            except _Unwanted:
                return
            # Whatever it is, the consumer is to hear of it, in its own thread.
            except BaseException as error:
                outcome = error
            finally:
                source.close()
                with self._changed:
                    self._outcome[index] = outcome
                    self._changed.notify_all()

    def _put(self, index: int, item: T, source: Source[T]) -> None:
        told = time.monotonic()
        while not self._put_before(told + IDLE, index, item):
            # Nobody else waits for the network meanwhile.
            source.keep_alive()
            told = time.monotonic()

    def _put_before(self, deadline: float, index: int, item: T) -> bool:
        """Whether there was room in time. Others taking and putting does not move the deadline."""
        size = self._size(item)
        with self._changed:
            while not self._closed and not self._has_room(index, size):
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
            if self._closed:
                raise _Unwanted
            self._items[index].append(item)
            self._held += size
            self._changed.notify_all()
            return True

    def _has_room(self, index: int, size: int) -> bool:
        if self._held + size <= self._limit:
            return True
        return index == self._turn and not self._items[index]

    def take(self, index: int) -> Iterator[T]:
        """The items of one source; sources are taken in order. Raises what the source raised."""
        with self._changed:
            self._turn = index
            self._changed.notify_all()
        while True:
            with self._changed:
                while not self._items[index] and self._outcome[index] is False:
                    self._changed.wait()
                if not self._items[index]:
                    break
                item = self._items[index].popleft()
                self._held -= self._size(item)
                self._changed.notify_all()
            yield item
        outcome = self._outcome[index]
        if isinstance(outcome, BaseException):
            raise outcome

    def close(self) -> None:
        """Ends the threads; what they hold is dropped."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        for items in self._items:
            items.clear()


def total(items: Iterable[memoryview]) -> int:
    """How many bytes these are together."""
    return sum(map(len, items))
