"""Items that go through several stages at once, with a bounded number of tasks in flight.

What happens to one item is a generator: it yields the calls of a stage, gets their results when all
are there, and returns how the item ended. An `ItemTaskError` of a call is raised in it. Only
as many items are begun as keep the slots busy, so that memory does not grow with the folder.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Sequence
from typing import Any, Generic, TypeVar

from flows.cluster import Call, Cluster
from flows.records import ItemTaskError

__all__ = ["Stages", "work_through"]

T = TypeVar("T")
Stages = Generator[Sequence[Call], list[Any], T]


def work_through(cluster: Cluster, items: Iterable[Stages[T]]) -> list[T]:
    """Take every item through its stages.

    Parameters
    ----------
    cluster : Cluster
    items : iterable of generators
        Consumed as slots become free.

    Returns
    -------
    list
        What the items returned, in their order.

    Raises
    ------
    StorageError : the cluster is lost, see `Cluster.finished`.
    """
    limit = 2 * cluster.slots + 2
    waiting = iter(items)
    begun: list[_Item[T]] = []
    running: dict[Any, tuple[_Item[T], int]] = {}
    while True:
        at_work = [item for item in begun if not item.is_over]
        while len(at_work) <= cluster.slots and (stages := next(waiting, None)) is not None:
            item = _Item(stages)
            begun.append(item)
            at_work += [] if item.is_over else [item]
        for item in at_work:
            while item.calls and len(running) < limit:
                index, call = item.calls.popleft()
                running[cluster.submit(call)] = (item, index)
                item.in_flight += 1
        if not running:
            return [item.outcome for item in begun]
        for future in cluster.finished(list(running)):
            item, index = running.pop(future)
            item.take(index, cluster.result(future))


class _Item(Generic[T]):
    """One item: its generator, the calls of its stage, and what has come back of them."""

    outcome: T

    def __init__(self, stages: Stages[T]) -> None:
        self.calls: deque[tuple[int, Call]] = deque()
        self.in_flight = 0
        self.is_over = False
        self._stages = stages
        self._results: list[Any] | None = None  # of the stage; None before the first
        self._error: ItemTaskError | None = None
        self._advance()

    def take(self, index: int, result: Any) -> None:
        """Note a result; after an error, calls that have not begun are left out."""
        self.in_flight -= 1
        if isinstance(result, ItemTaskError):
            self._error = self._error or result
            self.calls.clear()
        elif self._results is not None:
            self._results[index] = result
        if not self.calls and not self.in_flight:
            self._advance()

    def _advance(self) -> None:
        """Go on to the next stage that has calls."""
        while not self.calls and not self.is_over:
            error, results = self._error, self._results
            self._error = None
            try:
                calls = (
                    self._stages.send(results)  # type: ignore[arg-type]  # None begins it
                    if error is None
                    else self._stages.throw(error)
                )
            except StopIteration as end:
                self.outcome, self.is_over = end.value, True
                return
            self._results = [None] * len(calls)
            self.calls = deque(enumerate(calls))
