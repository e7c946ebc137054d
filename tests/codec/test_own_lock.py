"""Locks that a thread of the parent holds are free in a process that is forked meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import pytest

from psc_volumetric import machine_code, threads
from psc_volumetric.archive import kept_process, priors
from psc_volumetric.machine_code import MAKING, compiled
from psc_volumetric.methods import choice, search
from psc_volumetric.methods.posterior.network import estimator_for
from psc_volumetric.methods.psc import trust
from psc_volumetric.of_process import OwnLock
from psc_volumetric.prior import load_prior, runtime
from psc_volumetric.prior.trusted import Trusted
from tests.forking import in_a_fork

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
PROCESS_WIDE = (
    MAKING, choice._lock, estimator_for._lock, kept_process._lock, priors._lock,
    runtime._thread_lock, search._lock, threads._guard, trust._lock,
)  # fmt: skip


@contextmanager
def held_by_another_thread(lock: AbstractContextManager[None]) -> Iterator[Callable[[], None]]:
    """A lock that is held until the block ends, or what it is given is called."""
    taken, done = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            taken.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()
    try:
        yield done.set
    finally:
        done.set()
        thread.join()


@compiled()
def thrice(x: int) -> int:
    return 3 * x


@compiled(_nrt=False)
def total(x: np.ndarray) -> int:
    found = 0
    for n in x:
        found += n
    return found


def test_a_forked_process_has_every_lock_of_the_package() -> None:
    for lock in PROCESS_WIDE:
        assert isinstance(lock, OwnLock)

        def takes(lock: OwnLock = lock) -> bool:
            with lock, lock:
                return True

        with held_by_another_thread(lock):
            assert in_a_fork(takes)


def test_a_lock_is_one_for_all_threads_of_a_process() -> None:
    lock, order = OwnLock(), list[str]()
    with held_by_another_thread(lock) as let_go:
        thread = threading.Timer(0.3, lambda: (order.append("given back"), let_go()))
        thread.start()
        with lock:
            order.append("taken")
        thread.join()
    assert order == ["given back", "taken"]


def test_what_a_thread_has_taken_it_gives_back_on_both_sides_of_a_fork() -> None:
    lock = OwnLock()

    def takes_again() -> bool:
        with lock:
            return True

    with lock:
        assert in_a_fork(takes_again)
    with held_by_another_thread(lock):  # which it can have
        pass


def test_loops_are_compiled_in_a_fork_while_a_thread_compiles() -> None:
    numbers = np.arange(5)
    with held_by_another_thread(MAKING):
        assert in_a_fork(lambda: thrice(4) == 12 and total(numbers) == 10)


def test_a_fork_waits_for_what_numba_compiles() -> None:
    """Its own locks stay as they are, and what the thread was at is done."""
    assert thrice(5) == 15  # numba is in use
    lock = lock_of_numba()
    with held_by_another_thread(lock) as let_go:
        threading.Timer(0.3, let_go).start()
        begun = time.monotonic()
        assert in_a_fork(lambda: thrice(2.5) == 7.5 and not machine_code.BEING_MADE)
        assert time.monotonic() - begun > 0.2
    with held_by_another_thread(lock):  # the fork gave it back
        pass


@compiled(_nrt=False)
def largest(x: np.ndarray) -> int:
    found = x[0]
    for n in x:
        found = max(found, n)
    return found


@compiled()
def twice(x: int) -> int:
    return 2 * x


def test_two_threads_that_compile_at_once_do_not_wait_for_each_other() -> None:
    """One compiles a bare loop; numba, which compiles in the other, asks for one that it calls."""
    numbers, results = np.arange(4), list[int]()
    bare = threading.Thread(target=lambda: results.append(largest(numbers)), daemon=True)
    with lock_of_numba():
        bare.start()
        time.sleep(0.3)  # it waits for numba, and holds nothing that is asked for here
        asked = threading.Thread(target=lambda: twice._numba_type_, daemon=True)
        asked.start()
        asked.join(60)
        assert not asked.is_alive()
    bare.join(60)
    assert results == [3]


def lock_of_numba() -> AbstractContextManager[None]:
    from numba.core.compiler_lock import global_compiler_lock

    found: AbstractContextManager[None] = global_compiler_lock
    return found


def test_networks_are_trusted_in_a_fork_while_a_thread_tests_them() -> None:
    """A slow self-test in a thread; another process makes and tests its own."""
    prior, begun, go_on = load_prior("test-tiny-posterior"), threading.Event(), threading.Event()
    is_slow = [True]

    def check(made: object) -> None:
        if is_slow[0]:
            begun.set()
            go_on.wait()

    trusted = Trusted(lambda prior, device, carrier: (prior.digest, device), check)
    thread = threading.Thread(target=trusted, args=(prior, "cpu"))
    thread.start()
    begun.wait()

    def is_trusted() -> bool:
        is_slow[0] = False
        return trusted(prior, "cpu") == (prior.digest, "cpu")

    try:
        assert in_a_fork(is_trusted)
    finally:
        go_on.set()
        thread.join()
