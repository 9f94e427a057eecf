"""Reading ahead and writing behind: the device need not wait for the disk, and memory stays bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice, pairwise
from types import TracebackType
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)
Work = TypeVar("Work")
Result = TypeVar("Result")


def made_ahead(
    items: Iterable[Work], make: Callable[[Work], Result], depth: int = 1, threads: int = 1
) -> Generator[Result, None, None]:
    """What `make` returns for each item, in order, made in a thread while the caller works on an earlier one.

    SimpleITK, Pillow, NumPy and zlib let other threads run, so a thread is enough, and nothing has to be copied.

    Args:
        items: what to make; they are taken in the caller's thread.
        make: called in the thread, one item at a time; what it raises is raised in the item's turn.
        depth: at most this many results are made or wait beside the one in use.
        threads: at most this many items are in the making.
    """
    todo = iter(items)
    with ThreadPoolExecutor(threads, thread_name_prefix="ahead") as pool:
        waiting = deque(pool.submit(make, item) for item in islice(todo, depth))
        try:
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(make, item) for item in islice(todo, 1))
                yield result
                del result
        finally:
            for future in waiting:
                future.cancel()


class AheadReader(Generic[Item, Result]):
    """A function of one item that has the item expected next made while the caller works on the present one.

    Args:
        read: the function.
        worth_it: whether an item may be made ahead; one too large to lie beside another is made when it is asked for.
    """

    def __init__(self, read: Callable[[Item], Result], worth_it: Callable[[Item], bool] = lambda _item: True) -> None:
        self._read = read
        self._worth_it = worth_it
        self._pool: ThreadPoolExecutor | None = None
        self._next: dict[Item, Item] = {}
        self._waiting: dict[Item, Future[Result]] = {}

    def expect(self, items: Sequence[Item]) -> None:
        """Say in which order items will be asked for; asking in another one works too, only not faster."""
        self._next = dict(pairwise(items))
        self._forget()

    def __call__(self, item: Item) -> Result:
        """The item's result, or what `read` raised for it."""
        future = self._waiting.pop(item, None)
        self._forget()
        result = self._read(item) if future is None else future.result()
        following = self._next.get(item)
        if following is not None and self._worth_it(following):
            self._pool = self._pool or ThreadPoolExecutor(1, thread_name_prefix="ahead")
            self._waiting[following] = self._pool.submit(self._read, following)
        return result

    def _forget(self) -> None:
        for future in self._waiting.values():
            future.cancel()
        self._waiting.clear()


class BehindWriter:
    """Does jobs in order in a thread; leaving the `with` block waits for them.

    Args:
        depth: at most this many jobs wait or run; one more makes :meth:`submit` wait.
    """

    def __init__(self, depth: int = 2) -> None:
        self._depth = depth
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="behind")
        self._jobs: deque[Future[object]] = deque()

    def submit(self, job: Callable[[], object]) -> None:
        """Add a job; what an earlier one raised is raised here, or at the end."""
        while self._jobs and (self._jobs[0].done() or len(self._jobs) >= self._depth):
            self._jobs.popleft().result()
        self._jobs.append(self._pool.submit(job))

    def wait(self) -> None:
        """Return when every job is done."""
        while self._jobs:
            self._jobs.popleft().result()

    def __enter__(self) -> BehindWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            # after an error of the caller, the jobs already submitted are whole pieces of work: they are still done
            self._pool.shutdown(wait=True, cancel_futures=error is None)
