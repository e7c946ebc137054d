"""Bricks that are coded to see what comes out: bytes and errors at a step, well or as drafts."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from pipelines.archiving.bricks import encoded, jobs_of
from pipelines.archiving.plan import ItemPlan, VariablePlan
from pipelines.archiving.step_search import FIRST_STEP
from psc_volumetric.archive.layout import VariableSpec
from psc_volumetric.codec import EncodedBrick
from psc_volumetric.threads import mapped
from psc_volumetric.tiling import TileGrid

__all__ = ["has_drafts", "measured", "squared_error", "trial"]

WITHOUT_HASTE = "wavelet"  # the method that has no quick way unless it is thorough
_KEPT_BYTES = 64 << 20

Position = tuple[int, ...]


class _Tile(Protocol):
    @property
    def position(self) -> tuple[int, int, int]: ...

    @property
    def mse(self) -> tuple[float, ...]: ...


def has_drafts(item: ItemPlan) -> bool:
    """Whether bricks can be coded quicker than they will be; networks have no quick way."""
    options = item.options
    return item.prior is None and (options.is_thorough or options.lossy_base != WITHOUT_HASTE)


_trials: OrderedDict[tuple[str, str, Position, float, bool], EncodedBrick] = OrderedDict()
_lock = threading.Lock()


def trial(
    item: ItemPlan,
    variable: VariablePlan,
    position: Position,
    step: float,
    *,
    is_draft: bool = False,
) -> EncodedBrick:
    """One brick coded with a step, or exactly; the latest ones are remembered."""
    if "target" not in variable.spec.parameters:
        step, is_draft = FIRST_STEP, False
    key = (repr((item.candidate, item.options)), variable.spec.name, position, step, is_draft)
    with _lock:
        if key in _trials:
            _trials.move_to_end(key)
            return _trials[key]
    job = replace(jobs_of(item, variable, position, step), is_draft=is_draft)
    brick = replace(encoded(job)[1], last=None)
    with _lock:
        _trials[key] = brick
        while len(_trials) > 1 and sum(len(b.data) for b in _trials.values()) > _KEPT_BYTES:
            _trials.popitem(last=False)
    return brick


def measured(
    item: ItemPlan,
    variable: VariablePlan,
    positions: Sequence[Position],
    step: float,
    kind: str,
    *,
    is_draft: bool = False,
) -> float:
    """Bytes (kind ``"bpv"``) or squared error (``"psnr"``) of several bricks at a step."""
    found = mapped(lambda p: trial(item, variable, p, step, is_draft=is_draft), positions)
    bricks = list(zip(positions, found, strict=True))
    if kind == "bpv":
        return float(sum(len(brick.data) for _, brick in bricks))
    return math.fsum(squared_error(variable.spec, p, brick.records) for p, brick in bricks)


def squared_error(spec: VariableSpec, position: Position, tiles: Sequence[_Tile]) -> float:
    """Sum of squared errors of a brick at its last level, over all its voxels."""
    valid = spec.valid(position)
    if len(tiles) == 1:
        return tiles[0].mse[-1] * math.prod(valid)
    grid = TileGrid(valid, spec.tile_shape)
    sizes = {
        grid.position(number): math.prod(s.stop - s.start for s in grid.box(number))
        for number in range(len(grid))
    }
    return math.fsum(tile.mse[-1] * sizes[tile.position] for tile in tiles)
