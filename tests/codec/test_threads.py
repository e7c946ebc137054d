"""Items on several threads: the order of results, what is begun, errors, and being stopped."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from psc_volumetric.errors import ParameterError
from psc_volumetric.threads import (
    Ahead,
    at_most,
    check_abandoned,
    ended_by,
    in_order,
    mapped,
    usable_cores,
)
from tests.forking import in_a_fork

LIMIT_S = 30.0
JOBS = (1, 2, 5)


@pytest.mark.parametrize("jobs", JOBS)
def test_results_come_in_order_and_few_are_begun(jobs: int) -> None:
    begun, given, most = [], 0, 0
    lock = threading.Lock()

    def work(number: int) -> int:
        nonlocal most
        with lock:
            begun.append(number)
            most = max(most, len(begun) - given)
        time.sleep(0.002 * (number % 3))
        return -number

    found = []
    with at_most(jobs), in_order(work, range(20)) as results:
        for result in results:
            found.append(result)
            given += 1
    assert found == [-number for number in range(20)]
    assert sorted(begun) == list(range(20)) and most <= jobs + 1


@pytest.mark.parametrize("jobs", JOBS)
def test_the_error_is_that_of_the_first_item_and_later_ones_are_not_begun(jobs: int) -> None:
    begun = []

    def work(number: int) -> int:
        begun.append(number)
        if number == 3:
            time.sleep(0.05)  # another one fails before
        if number >= 3:
            raise ValueError(number)
        return number

    found: list[int] = []
    with pytest.raises(ValueError, match="3"), at_most(jobs), in_order(work, range(99)) as results:
        found.extend(results)
    assert found == [0, 1, 2] and max(begun) <= 3 + jobs


@pytest.mark.parametrize("jobs", JOBS)
def test_nested_calls_share_the_threads(jobs: int) -> None:
    names = set()

    def segment(number: int) -> int:
        names.add(threading.current_thread().name)
        time.sleep(0.001)
        return number

    def brick(number: int) -> int:
        return sum(mapped(segment, range(number)))

    with at_most(jobs):
        assert mapped(brick, range(8)) == [n * (n - 1) // 2 for n in range(8)]
    assert len(names) <= jobs


def test_a_single_brick_has_all_threads_for_its_segments() -> None:
    together = threading.Barrier(2)

    def brick(_: int) -> list[int]:
        return mapped(lambda _: together.wait(LIMIT_S), range(2))

    with at_most(2):
        assert sorted(mapped(brick, [0])[0]) == [0, 1]


def test_a_thread_that_waits_for_another_helps_with_what_is_made_there() -> None:
    together, taken = threading.Barrier(2), threading.Event()

    def segment(_: int) -> int:
        return together.wait(LIMIT_S)

    def part(_: int) -> list[int]:
        taken.set()
        return mapped(segment, range(2))

    def parts() -> Iterator[int]:
        yield 0
        assert taken.wait(LIMIT_S)  # the other thread has it now, and this one will wait for it

    with at_most(2):
        (brick,) = mapped(lambda _: mapped(part, parts()), range(1))
    assert sorted(brick[0]) == [0, 1]


def test_what_nobody_waits_for_ends_soon() -> None:
    running, ended = threading.Event(), []

    def endless(_: int) -> None:
        running.set()
        try:
            while True:
                mapped(time.sleep, [0.001] * 10)
        finally:
            ended.append(True)

    def one(number: int) -> None:
        if number:
            endless(number)
        running.wait(LIMIT_S)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), at_most(2):
        mapped(one, range(2))
    assert ended == [True]


def test_a_loop_of_its_own_can_ask_whether_anybody_waits() -> None:
    def one(number: int) -> None:
        while number:
            check_abandoned()
            time.sleep(0.001)

    with at_most(2), in_order(one, range(2)) as results:
        next(results)


def test_ahead_makes_the_next_ones_meanwhile_and_takes_any_order() -> None:
    made: list[str] = []

    def make(word: str) -> str:
        made.append(word)
        return word.upper()

    words = list("abcdefgh")
    with at_most(2):
        ahead = Ahead(make, words)
        assert [ahead(word) for word in "abc"] == list("ABC")
        deadline = time.monotonic() + LIMIT_S
        while len(made) < 5 and time.monotonic() < deadline:
            time.sleep(0.001)
        assert made[:5] == list("abcde")
        assert [ahead(word) for word in "hgfahbcdefgh"] == list("HGFAHBCDEFGH")
        ahead.close()
    with at_most(1):
        made.clear()
        alone = Ahead(make, words)
        assert alone("a") == "A" and made == ["a"]


@pytest.mark.parametrize("jobs", JOBS)
def test_the_first_ones_are_begun_before_they_are_asked_for(jobs: int) -> None:
    made: list[str] = []

    def make(word: str) -> str:
        made.append(word)
        return word.upper()

    with at_most(jobs):
        ahead = Ahead(make, "abcdefgh")
        ahead.start()
        ahead.start()
        wanted = 0 if jobs == 1 else jobs + 1
        deadline = time.monotonic() + LIMIT_S
        while len(made) < wanted and time.monotonic() < deadline:
            time.sleep(0.001)
        assert sorted(made) == list("abcdefgh")[:wanted]
        assert [ahead(word) for word in "abcdefgh"] == list("ABCDEFGH")
        assert sorted(made) == list("abcdefgh")
        ahead.close()


def test_jobs_are_one_or_more_and_all_cores_without_being_asked() -> None:
    with pytest.raises(ParameterError) as caught, at_most(0):
        pass
    assert caught.value.kind == "bad-jobs"
    assert usable_cores() >= 1
    with at_most(None):
        assert mapped(str, range(3)) == ["0", "1", "2"]


def test_what_waits_for_a_program_is_told_when_nobody_waits_for_it() -> None:
    told, began = threading.Event(), threading.Event()

    def waiting(_: int) -> bool:
        with ended_by(told.set):
            began.set()
            return told.wait(LIMIT_S)

    with at_most(2), in_order(lambda _: mapped(waiting, range(1)), range(1)):
        pass  # nothing is asked for, so nothing has begun
    assert not began.is_set()
    with at_most(3), in_order(lambda n: mapped(waiting, range(1)) if n else None, range(2)) as all_:
        next(all_)
        assert began.wait(LIMIT_S)
    assert told.is_set()


@pytest.mark.parametrize("jobs", JOBS)
def test_a_program_that_is_stopped_waits_for_no_loop_that_hears_of_nothing(jobs: int) -> None:
    began, release = threading.Event(), threading.Event()

    def deaf(_: int) -> None:
        began.set()
        release.wait(LIMIT_S)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, stop)
    start = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt), at_most(jobs):
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            mapped(lambda _: mapped(deaf, range(3)), range(3))
    finally:
        signal.signal(signal.SIGALRM, before)
        release.set()
    assert began.is_set()
    assert time.monotonic() - start < LIMIT_S / 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("jobs", JOBS)
def test_a_forked_process_has_threads_of_its_own(jobs: int) -> None:
    with at_most(jobs):
        assert mapped(str, range(3)) == ["0", "1", "2"]
        assert in_a_fork(lambda: mapped(str, range(3)) == ["0", "1", "2"])
