"""The promise of low rates is read from curves: when it holds, and when it must not."""

from __future__ import annotations

from typing import Any

import pytest

from pipelines.development.rate_perception import count_lines, table_lines
from pipelines.evaluation.perception.promise import kept_promises

RATES = (0.01, 0.02, 0.04)
MEAN, VIEW = "ours-wavelet", "ours-wavelet@sample"


def point(codec: str, rate: float, psnr: float, swd: float, spectrum: float) -> dict[str, Any]:
    return {
        "codec": codec, "rate_bpv": rate, "psnr_db": psnr,
        "perception": {"swd": swd}, "quality": {"spectrum_error_db": spectrum},
    }  # fmt: skip


def volume(*, below: float = 1.0, swd: float = 40.0, gap: float = 2.0, coarsest: float = 0.01):
    points = [
        p
        for rate in RATES
        for p in (
            point(MEAN, rate, 30 + 100 * rate, 90, 8),
            point(VIEW, rate, 30 + 100 * rate - below, swd, gap),
            point("av1", rate * coarsest / RATES[0], 30 + 100 * rate, 100, 7),
            point("vvc", rate, 30.5 + 100 * rate, 60, 6),
        )
    ]
    return {"name": "a head", "points": points}


def told(**changes: float):
    found = kept_promises(volume(**changes), RATES, MEAN, VIEW, ("av1", "vvc"))
    return {(k.peer, k.bpv): k for k in found}


def test_a_view_that_is_nearer_holds_and_half_is_told_apart():
    found = told()
    assert len(found) == 6
    assert all(k.holds for k in found.values())
    assert found["av1", 0.02].halves
    assert not found["vvc", 0.02].halves
    assert found["vvc", 0.02].below_mean_db == pytest.approx(1)
    assert found["vvc", 0.02].below_peer_db == pytest.approx(1.5)


@pytest.mark.parametrize(
    "changes", [{"below": 2.6}, {"swd": 101.0}, {"gap": 7.5}], ids=lambda c: next(iter(c))
)
def test_each_part_can_break_it(changes):
    assert not any(k.holds for k in told(**changes).values())


def test_a_peer_that_cannot_go_so_low_is_taken_at_its_lowest_and_said_so():
    found = told(coarsest=0.015)
    assert found["av1", 0.01].at_coarsest
    assert found["av1", 0.01].swd[1] == 100
    assert not found["av1", 0.02].at_coarsest


def test_a_peer_without_points_gives_no_verdict():
    bare = volume()
    bare["points"] = [p for p in bare["points"] if p["codec"] != "vvc"]
    assert {k.peer for k in kept_promises(bare, RATES, MEAN, VIEW, ("av1", "vvc"))} == {"av1"}


def test_the_table_says_where_it_does_not_hold():
    broken = volume(below=2.6)
    rows = list(table_lines(broken, RATES))
    assert len(rows) == len(RATES)
    assert all("**no**" in row for row in rows)
    lines = list(count_lines([volume(), broken], RATES))
    assert "AV1 at 0.01: holds on 1 of 2 volumes, with half the SWD on 1" in lines
