"""Two threads beside the caller's own: one reads ahead, one writes behind.

Decoding and encoding release the interpreter lock, so they overlap with the model. The queues between are bounded:
whoever is too fast waits, and memory does not grow with the clip.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition, Thread
from typing import Generic, TypeVar

Item = TypeVar("Item")

PATIENCE = 5.0  # seconds that a cancelled thread gets to end; it may hang in a read from a pipe without a writer


class Cancelled(Exception):
    """The other side of a channel has gone away on purpose."""


class Channel(Generic[Item]):
    """A bounded queue between two threads that also carries the end, and the failure, of either side.

    Args:
        size: Items that wait at most; a sender that is ahead of this blocks.
        dropping: How many of the oldest items are dropped instead, where the receiver is too slow; 0 for none.
        on_drop: Told how many were dropped, in the sender's thread.

    Raises:
        ValueError: If ``size`` is not positive.
    """

    def __init__(self, size: int, *, dropping: int = 0, on_drop: Callable[[int], None] = lambda count: None) -> None:
        if size < 1:
            raise ValueError(f"a channel holds at least one item, not {size}")
        self._size, self._dropping, self._on_drop = size, dropping, on_drop
        self._items: deque[Item] = deque()
        self._changed = Condition()
        self._ended = False
        self._failure: BaseException | None = None

    def put(self, item: Item) -> None:
        """Hand one item over, waiting for room.

        Raises:
            BaseException: Whatever the receiver failed with, as soon as it has.
        """
        with self._changed:
            if self._dropping and len(self._items) >= self._size:
                count = min(self._dropping, len(self._items))
                for _ in range(count):
                    self._items.popleft()
                self._on_drop(count)
            self._changed.wait_for(lambda: self._failure is not None or len(self._items) < self._size)
            self.raise_failure()
            self._items.append(item)
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Item]:
        """Yield the items in order until the sender ends; raise its failure as soon as it fails."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._failure is not None or self._items or self._ended)
                self.raise_failure()
                if not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item

    def end(self) -> None:
        """Say, as the sender, that nothing follows."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def fail(self, failure: BaseException) -> None:
        """Drop what waits and raise ``failure`` on the other side; the first failure stays."""
        with self._changed:
            self._failure = self._failure or failure
            self._items.clear()
            self._changed.notify_all()

    def raise_failure(self) -> None:
        """Raise the error of the other side, if it failed."""
        if self._failure is not None:
            raise self._failure


def _start(work: Callable[[], None], channel: Channel[Item], name: str) -> Thread:
    def run() -> None:
        try:
            work()
        except BaseException as failure:  # noqa: BLE001 - not swallowed: the thread that waits on the channel raises it
            channel.fail(failure)

    thread = Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread


@contextmanager
def read_ahead(
    produce: Callable[[Callable[[Item], None]], None],
    *,
    size: int,
    dropping: int = 0,
    on_drop: Callable[[int], None] = lambda count: None,
) -> Iterator[Iterator[Item]]:
    """Run a producer in a thread of its own while the body consumes.

    Args:
        produce: Called once, in the thread, with a function that takes one item. That function raises ``Cancelled``
            once the body has left, and ``produce`` should let it pass.
        size: Items that wait at most.
        dropping: See `Channel`.
        on_drop: See `Channel`.

    Yields:
        An iterator over the items; it raises what ``produce`` raised.
    """
    channel: Channel[Item] = Channel(size, dropping=dropping, on_drop=on_drop)

    def work() -> None:
        produce(channel.put)
        channel.end()

    thread = _start(work, channel, "flashvsr-read")
    try:
        yield iter(channel)
    finally:
        channel.fail(Cancelled())
        thread.join(PATIENCE)


@contextmanager
def write_behind(consume: Callable[[Iterator[Item]], None], *, size: int) -> Iterator[Callable[[Item], None]]:
    """Run a consumer in a thread of its own while the body produces.

    Args:
        consume: Called once, in the thread, with an iterator over the items. The iterator raises ``Cancelled`` if the
            body fails, and ``consume`` should let it pass.
        size: Items that wait at most.

    Yields:
        A function that hands one item over; it raises what ``consume`` raised. When the body ends, everything handed
        over is consumed before the block is left, and a late failure is raised there.
    """
    channel: Channel[Item] = Channel(size)
    thread = _start(lambda: consume(iter(channel)), channel, "flashvsr-write")
    try:
        yield channel.put
        channel.end()
        thread.join()
        channel.raise_failure()
    finally:
        channel.fail(Cancelled())
        thread.join(PATIENCE)
