"""Work on all cores: items side by side, results in order, memory bounded, the same for any number.

Most of the time goes into machine code that does not hold the interpreter's lock, so threads are
enough. Whoever has several things to do calls `in_order`. Calls may be nested, as bricks and the
segments in each: all share one crew, so that the segments of a single brick have all cores, and
those of many bricks start no further threads.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from contextvars import Context, ContextVar, copy_context
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from psc_volumetric.errors import ParameterError
from psc_volumetric.of_process import OwnLock

__all__ = [
    "Abandoned",
    "Ahead",
    "Crew",
    "at_most",
    "check_abandoned",
    "ended_by",
    "in_order",
    "mapped",
    "usable_cores",
]

A = TypeVar("A")
R = TypeVar("R")

PATIENCE_S = 1.0
QUOTA = Path("/sys/fs/cgroup/cpu.max")  # microseconds of CPU, and the period they are for


class Abandoned(BaseException):
    """Raised in a thread whose result nobody waits for any more."""


def usable_cores() -> int:
    """Cores that this process may use: those it is bound to, or what its container may take."""
    bound = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if bound else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no such file, or no limit: "max 100000"
        quota, period = map(int, QUOTA.read_text().split())
        cores = min(cores, max(1, round(quota / period)))
    return cores


class _Task(Generic[A, R]):
    """An item to be done, and where its result goes; whoever claims it first does it."""

    def __init__(self, context: Context, function: Callable[[A], R], item: A) -> None:
        self.future: Future[R] = Future()
        self._context, self._function, self._item = context, function, item
        self._claimed = threading.Lock()

    def claim(self) -> bool:
        """Whether nobody else does it, or will."""
        return self._claimed.acquire(blocking=False)

    def run(self) -> bool:
        """Do it, and say so, unless somebody else does."""
        if not self.claim():
            return False
        if self.future.set_running_or_notify_cancel():
            try:
                self.future.set_result(self._context.run(self._function, self._item))
            except BaseException as error:  # noqa: BLE001 - it is for whoever asks for the result
                self.future.set_exception(error)
        return True


class Crew:
    """Threads that share work, those of nested calls for example.

    They end with the process whatever they do, also when a signal comes while one is started.

    Parameters
    ----------
    size : int
        At most so many threads; each is started when there is work for it.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._renew()

    def _renew(self) -> None:
        self._process = os.getpid()
        self._started = 0
        self._tasks: SimpleQueue[_Task[Any, Any] | None] = SimpleQueue()
        self._bells: set[SimpleQueue[None]] = set()

    def begin(self, context: Context, function: Callable[[A], R], item: A) -> Future[R]:
        """Let one of the threads do an item, with the context variables given."""
        task = _Task(context, function, item)
        self.add(task)
        return task.future

    def add(self, task: _Task[Any, Any]) -> None:
        """Let one of the threads do a task, or one that waits in `listening`."""
        if self._process != os.getpid():  # a forked process has none of the threads
            self._renew()
        self._tasks.put(task)
        for bell in list(self._bells):
            bell.put(None)
        if self._started < self.size:
            self._started += 1
            threading.Thread(target=self._work, name="psc-job", daemon=True).start()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            task.run()
            del task  # and with it all that it holds

    @contextmanager
    def listening(self, future: Future[Any]) -> Iterator[SimpleQueue[None]]:
        """A queue that gets something when a task is added, and when the future is done."""
        bell: SimpleQueue[None] = SimpleQueue()
        future.add_done_callback(lambda _: bell.put(None))
        self._bells.add(bell)
        try:
            yield bell
        finally:
            self._bells.discard(bell)

    def close(self) -> None:
        """Let the threads end when they have done what was begun."""
        for _ in range(self._started):
            self._tasks.put(None)


class _Group(Generic[A, R]):
    """Calls of one function that belong together; those they are made in are the parents."""

    def __init__(self, function: Callable[[A], R]) -> None:
        self._function = function
        self._parent = _group.get()
        self._crew = _crew()
        self._is_member = _member_of.get() is self._crew
        self._ended = False
        self._begun: dict[int, _Task[A, R]] = {}
        self._children: set[_Group[Any, Any]] = set()
        if self._parent is not None and self._parent._crew is self._crew:
            self._parent._children.add(self)
        # signals come to the main thread, but not while machine code runs there
        is_main = threading.current_thread() is threading.main_thread()
        self._is_alone = self._crew.size == 1 and not is_main
        self.room = 1 if self._crew.size == 1 else self._crew.size + 1

    def __len__(self) -> int:
        return len(self._begun)

    @property
    def is_abandoned(self) -> bool:
        """Whether nobody waits for results, or for those of a parent."""
        return self._ended or (self._parent is not None and self._parent.is_abandoned)

    def begin(self, number: int, item: A) -> None:
        """Let the crew do an item; where there is none, it is done when it is asked for."""
        context = copy_context()
        context.run(_group.set, self)
        context.run(_member_of.set, self._crew)
        self._begun[number] = task = _Task(context, self._function, item)
        if not self._is_alone:
            self._crew.add(task)

    def result(self, number: int) -> R:
        """Wait for an item that was begun."""
        check_abandoned()
        task = self._begun[number]
        if self._is_member or self._is_alone:
            self._work_until(task)
        found = task.future.result()
        del self._begun[number]
        return found

    def _work_until(self, wanted: _Task[A, R]) -> None:
        """Do the item wanted in this thread, which has no other work, or help who does it.

        Threads of the crew that only waited for one another would be idle, or wait for ever. What
        is done meanwhile are other items of this call, and those of calls made in them.
        """
        if wanted.run():
            return
        with self._crew.listening(wanted.future) as bell:
            while not wanted.future.done():
                if not any(task.run() for task in self._open()):
                    bell.get()

    def _open(self) -> Iterator[_Task[Any, Any]]:
        """Tasks that may still be to do, of this call and of those made in it."""
        yield from list(self._begun.values())
        for child in list(self._children):
            yield from child._open()

    def end(self) -> None:
        """Begin nothing more, end what can be ended, and wait for what is being done.

        A program that is being stopped waits no longer than `PATIENCE_S`: a loop in machine code
        hears of nothing, and its thread ends with the process.
        """
        is_stopping = isinstance(sys.exception(), KeyboardInterrupt)
        self._ended = True
        if self._parent is not None:
            self._parent._children.discard(self)
        with _guard:
            found = [stop for group, stop in _stops.values() if group.is_abandoned]
        for stop in found:
            stop()
        left = [task.future for task in self._begun.values() if not task.claim()]
        wait(left, PATIENCE_S if is_stopping else None)
        self._begun.clear()


_chosen: ContextVar[Crew | None] = ContextVar("chosen", default=None)
_member_of: ContextVar[Crew | None] = ContextVar("member_of", default=None)
_group: ContextVar[_Group[Any, Any] | None] = ContextVar("group", default=None)
_of_process: dict[int, Crew] = {}
_stops: dict[object, tuple[_Group[Any, Any], Callable[[], None]]] = {}
_guard = OwnLock()


def _crew() -> Crew:
    """The crew of the block of `at_most` around; outside of any, all cores for the process."""
    chosen = _chosen.get()
    if chosen is not None:
        return chosen
    with _guard:
        mine = os.getpid()
        if mine not in _of_process:
            _of_process.clear()
            _of_process[mine] = Crew(usable_cores())
        return _of_process[mine]


@contextmanager
def at_most(jobs: int | None) -> Iterator[None]:
    """Let what is called within the block work on this many cores; None changes nothing.

    Raises
    ------
    ParameterError : fewer than one (kind ``"bad-jobs"``).
    """
    if jobs is None:
        yield
        return
    if jobs < 1:
        raise ParameterError(
            f"jobs must be 1 or more, found {jobs!r}",
            kind="bad-jobs",
            hint="leave it out to use all cores",
        )
    crew = Crew(jobs)
    before = _chosen.set(crew)
    try:
        yield
    finally:
        _chosen.reset(before)
        crew.close()


def check_abandoned() -> None:
    """End the work of this thread if nobody waits for it; for loops that may take long.

    Raises
    ------
    Abandoned
    """
    group = _group.get()
    if group is not None and group.is_abandoned:
        raise Abandoned


@contextmanager
def ended_by(stop: Callable[[], None]) -> Iterator[None]:
    """Have ``stop`` called, from another thread, when nobody waits for what the block does.

    Raises
    ------
    Abandoned : at the end of the block, or before it.
    """
    group, mark = _group.get(), object()
    if group is None:
        yield
        return
    with _guard:
        _stops[mark] = group, stop
    try:
        check_abandoned()
        yield
        check_abandoned()
    finally:
        with _guard:
            del _stops[mark]


@contextmanager
def in_order(function: Callable[[A], R], items: Iterable[A]) -> Iterator[Iterator[R]]:
    """Apply a function to items on several threads; the results come in the order of the items.

    Parameters
    ----------
    function : callable
        Called with the context variables of the caller.
    items : iterable
        Taken one by one by the caller.

    Yields
    ------
    iterator of the results.

    Notes
    -----
    At most one item more than there are cores is begun and not given out, which bounds memory. An
    error comes in the place of its result, so it is that of the first item that has one. When the
    block is left, nothing of it goes on: items that were not begun are dropped, and those that are
    being done end where they call `in_order` or `check_abandoned`. Only where the program is being
    stopped (KeyboardInterrupt) it does not wait for them longer than a second.
    """
    group = _Group(function)
    try:
        yield _results(group, items)
    finally:
        group.end()


def _results(group: _Group[A, R], items: Iterable[A]) -> Iterator[R]:
    left, given = enumerate(items), 0
    while True:
        for number, item in islice(left, group.room - len(group)):
            group.begin(number, item)
        if not len(group):
            return
        yield group.result(given)
        given += 1


def mapped(function: Callable[[A], R], items: Iterable[A]) -> list[R]:
    """All results of `in_order`."""
    with in_order(function, items) as results:
        return list(results)


class Ahead(Generic[A, R]):
    """Results of a function for items that are mostly asked for in a known order.

    While one is used, the next ones are being made: at most one more than there are cores. An item
    that comes out of turn is made when it is asked for, and what was begun is dropped.

    Parameters
    ----------
    function : callable
    order : sequence
        Items that can be asked for, hashable, each once.
    """

    def __init__(self, function: Callable[[A], R], order: Iterable[A]) -> None:
        self._function = function
        self._items = list(order)
        self._numbers = {item: number for number, item in enumerate(self._items)}
        self._group = _Group(function)
        self._next = self._begun = 0

    def start(self) -> None:
        """Begin the first ones before they are asked for, unless there is one core."""
        if self._group.room > 1:
            for number in range(self._begun, min(self._group.room, len(self._items))):
                self._group.begin(number, self._items[number])
                self._begun = number + 1

    def __call__(self, item: A) -> R:
        """The result for one of the items."""
        number = self._numbers[item]
        stop = min(number + self._group.room, len(self._items))
        if number != self._next:
            self.close()
            self._group = _Group(self._function)
            self._begun, stop = number, number + 1
        for following in range(self._begun, stop):
            self._group.begin(following, self._items[following])
        self._next, self._begun = number + 1, stop
        return self._group.result(number)

    def close(self) -> None:
        """Let nothing of it go on."""
        self._group.end()
