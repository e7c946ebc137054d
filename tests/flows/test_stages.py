"""Items go through their stages with few tasks in flight, and an error ends one item only."""

from __future__ import annotations

from typing import Any, cast

import pytest

from flows.cluster import Call, Cluster
from flows.records import ItemTaskError
from flows.stages import Stages, work_through
from flows.tasks import encode_brick


class Counting:
    """Does the oldest call, one at a time: its number doubled, or an error for number 13."""

    slots = 2

    def __init__(self) -> None:
        self.most = 0
        self.done: list[int] = []

    def submit(self, call: Call) -> tuple[int, int]:
        return call.parameters["item"], call.parameters["number"]

    def finished(self, running: list[tuple[int, int]]) -> list[tuple[int, int]]:
        self.most = max(self.most, len(running))
        return running[:1]

    def result(self, future: tuple[int, int]) -> Any:
        self.done.append(future[1])
        wrong = ItemTaskError(0, "unlucky", "thirteen", lasting=True)
        return wrong if future[1] == 13 else 2 * future[1]


def item(number: int, counts: list[int], begun: list[int]) -> Stages[str]:
    begun.append(number)
    total = 0
    try:
        for stage, count in enumerate(counts):
            first = 10 * stage
            calls = [{"item": number, "number": first + n} for n in range(count)]
            total += sum((yield [Call(encode_brick, call) for call in calls]))
    except ItemTaskError as error:
        return error.kind
    return f"{number}: {total}"


def run(*items: list[int]) -> tuple[list[str], Counting]:
    cluster, begun = Counting(), list[int]()
    stages = (item(number, counts, begun) for number, counts in enumerate(items))
    outcomes = work_through(cast(Cluster, cluster), stages)
    assert begun == list(range(len(items)))
    return outcomes, cluster


@pytest.mark.parametrize(
    ("items", "outcomes"),
    [([], []), ([[]], ["0: 0"]), ([[0]], ["0: 0"]), ([[0, 0, 1]], ["0: 40"])],
)
def test_stages_without_calls_are_passed_through(
    items: list[list[int]], outcomes: list[str]
) -> None:
    assert run(*items)[0] == outcomes


def test_results_come_in_order_and_few_calls_are_in_flight() -> None:
    outcomes, cluster = run(*[[8, 3, 1]] * 20)
    assert cluster.most == 2 * cluster.slots + 2
    assert outcomes == [f"{number}: {2 * (28 + 33 + 20)}" for number in range(20)]


def test_calls_after_an_error_are_left_out() -> None:
    outcomes, cluster = run([1, 30, 1], [1, 2])
    assert outcomes == ["unlucky", "1: 42"]
    assert max(cluster.done) < 30
