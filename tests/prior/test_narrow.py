"""Networks in 16 bits: the integers of plain torch, at every edge; nothing beside an array."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from psc_volumetric.errors import ParameterError
from psc_volumetric.prior import installed_posteriors, installed_priors, load_prior
from psc_volumetric.prior import narrow as narrow_module
from psc_volumetric.prior.fused import FusedRuntime
from psc_volumetric.prior.narrow import (
    NarrowRuntime,
    convolve,
    empty_planes,
    room_for,
)
from psc_volumetric.prior.narrow_layout import layout_of
from psc_volumetric.prior.narrow_loops import Addend, Extents, Room, nine, one
from psc_volumetric.prior.program import Program
from psc_volumetric.prior.runtime import TorchRuntime
from psc_volumetric.prior.step import Step, limit_of
from psc_volumetric.prior.trusted import fastest
from tests.forking import in_a_fork

NAMES = sorted({*installed_posteriors(), *installed_priors()} - {"test-tiny"})
RESIDUAL = 32767


def narrow_of(program: Program) -> NarrowRuntime:
    layout = layout_of(program)
    assert layout is not None
    return NarrowRuntime(program, layout)


def assert_same(program: Program, x: np.ndarray, level: int = 0) -> None:
    given = torch.from_numpy(np.ascontiguousarray(x, np.int32))
    want = TorchRuntime(program, "cpu", torch.float64)(given, level)
    assert torch.equal(narrow_of(program)(given, level), want)


def extreme(rng: np.random.Generator, shape: tuple[int, ...], low: int, high: int) -> np.ndarray:
    """Mostly the ends of a range."""
    x = rng.integers(low, high, shape, endpoint=True)
    ends = rng.choice([low, high, 0], shape)
    return np.where(rng.random(shape) < 0.7, ends, x)


def full_weight(rng: np.random.Generator, shape: tuple[int, ...], low: int, high: int, most: int):
    """Random weights whose sums come as near to 2^24 as they may, with room for a bias."""
    w = rng.integers(-most, most, shape, endpoint=True) * (rng.random(shape) < 0.5)
    room = (1 << 24) - 4096
    factor = min(1.0, room / max(int(limit_of(w, low, high).max()), 1))
    return np.trunc(w * factor).astype(np.int16)


def random_program(seed: int, channels: tuple[int, int, int] = (3, 20, 8)) -> Program:
    """Convolutions, one of which adds, between folds; ranges as wide as 16 bits allow."""
    rng = np.random.default_rng(seed)
    first, middle, last = channels
    low, high = (-int(rng.integers(0, 8192)), int(rng.integers(1, 8192)))
    wide = (-RESIDUAL, RESIDUAL)
    shapes = {
        "a": (middle, 4 * first, 3, 3),
        "b": (middle, middle, 3, 3),
        "c": (4 * last, 2 * middle, 1, 1),
    }
    ranges = {"a": (low, high), "b": (low, high), "c": wide}
    tensors: dict[str, np.ndarray] = {}
    for name, shape in shapes.items():
        most = 32767 if name == "c" else int(rng.choice([3000, 511, 3640]))
        tensors[f"{name}.weight"] = full_weight(rng, shape, *ranges[name], most)
        tensors[f"{name}.shift"] = rng.integers(-8, 25, shape[0]).astype(np.int8)
        tensors[f"{name}.bias"] = rng.integers(-4095, 4096, (2, shape[0])).astype(np.int32)
    shifts = rng.integers(-16, 17, 3).tolist()
    steps = (
        Step("unfold", "r0", ("x",), factor=2),
        Step("conv", "r1", ("r0",), "a", pad=1, quant=(shifts[0], low, high)),
        Step("conv", "r2", ("r1",), "b", pad=1, quant=(shifts[1], low, high), limit=9, add="r1"),
        Step("concat", "r3", ("r2", "r1")),
        Step("conv", "r4", ("r3",), "c", quant=(shifts[2], *wide)),
        Step("fold", "r5", ("r4",), factor=2),
    )
    return Program(steps, first, 8, 2, 11, tensors, last)


@pytest.mark.parametrize("name", NAMES)
def test_networks_that_ship_give_the_integers_of_float64(name: str) -> None:
    program = load_prior(name).program
    rng = np.random.default_rng(1)
    shape = (program.tile, program.tile)
    if program.outputs:
        multiple = program.reach.multiple
        shape = (11 * multiple, 9 * multiple)
    x = extreme(rng, (2, program.slices, *shape), -RESIDUAL, RESIDUAL)
    x[1] = rng.normal(0, 700, x[1].shape)
    assert_same(program, x, program.levels - 1)
    assert isinstance(fastest(program, "cpu"), NarrowRuntime)


@pytest.mark.parametrize("seed", range(12))
def test_random_programs_at_the_ends_of_their_ranges(seed: int) -> None:
    program = random_program(seed)
    rng = np.random.default_rng(seed)
    shape = (2, program.slices, *(2 * rng.integers(1, 20, 2)).tolist())
    assert_same(program, extreme(rng, shape, -RESIDUAL, RESIDUAL), seed % 2)


def test_sums_that_reach_their_limit_in_every_pixel() -> None:
    """All weights of one sign and all inputs at an end: 4 x 2^24 less a little, either way."""
    for sign in (-1, 1):
        weight = np.full((16, 16, 3, 3), sign * 227, np.int16)  # 144 x 227 x 513 < 2^24
        quant = (0, -513, 513)
        tensors = {
            "a.weight": weight, "a.shift": np.full(16, 9, np.int8),
            "a.bias": np.full((1, 16), 7000, np.int32),
        }  # fmt: skip
        steps = (Step("conv", "r", ("x",), "a", pad=1, quant=quant),)
        program = Program(steps, 16, 8, 1, 11, tensors, 16)
        for value in (-RESIDUAL, RESIDUAL):
            assert_same(program, np.full((1, 16, 5, 6), value))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (7, 1), (2, 2), (5, 3), (13, 50)])
def test_planes_of_any_extents(height: int, width: int) -> None:
    program = random_program(3)
    rng = np.random.default_rng(5)
    assert_same(program, rng.integers(-3000, 3000, (1, program.slices, 2 * height, 2 * width)))


def test_planes_that_grow() -> None:
    """As in the half of an autoencoder that decodes."""
    program, rng = random_program(8), np.random.default_rng(8)
    weight = full_weight(rng, (12, 3, 3, 3), -500, 500, 100)
    last = full_weight(rng, (2, 3, 3, 3), -500, 500, 100)
    tensors: dict[str, np.ndarray] = {}
    for name, values in (("a", weight), ("b", last)):
        tensors[f"{name}.weight"] = values
        tensors[f"{name}.shift"] = np.full(len(values), 3, np.int8)
        tensors[f"{name}.bias"] = np.zeros((1, len(values)), np.int32)
    steps = (
        Step("conv", "r1", ("x",), "a", pad=1, quant=(4, -500, 500)),
        Step("fold", "r2", ("r1",), factor=2),
        Step("conv", "r3", ("r2",), "b", pad=1, quant=(4, -500, 500)),
    )
    grows = Program(steps, program.slices, 8, 1, 11, tensors, 2, 16)
    assert_same(grows, rng.integers(-9000, 9000, (11, 3, 8, 8)))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_batches_and_threads_change_nothing(threads: int, monkeypatch) -> None:
    program = load_prior("climate-grid").program
    rng = np.random.default_rng(9)
    x = torch.from_numpy(rng.integers(-900, 900, (9, 8, 64, 64), np.int32))
    run = narrow_of(program)
    whole = run(x, 5)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        monkeypatch.setattr(narrow_module, "SAMPLES_PER_GROUP", threads)
        assert torch.equal(run(x, 5), whole)
    finally:
        torch.set_num_threads(before)
    for number in (0, 8):
        assert torch.equal(run(x[number : number + 1], 5), whole[number : number + 1])
    assert run(x[:0], 5).shape == (0, 8, 64, 64)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_splits_batches_among_threads_of_its_own() -> None:
    program = load_prior("test-tiny-posterior").program
    x = torch.from_numpy(np.random.default_rng(2).integers(-900, 900, (3, 6, 16, 16), np.int32))
    runs = [narrow_of(program), FusedRuntime(program)]
    want = runs[0](x, 0)

    def all_the_same() -> bool:
        return all(torch.equal(run(x, 0), want) for run in runs)

    assert all_the_same()
    assert in_a_fork(all_the_same)


def test_numbers_that_no_register_has_go_another_way() -> None:
    program = load_prior("test-tiny-posterior").program
    x = torch.full((1, program.slices, 8, 8), 1 << 20, dtype=torch.int32)
    assert torch.equal(narrow_of(program)(x, 0), TorchRuntime(program)(x, 0))


def unproven(program: Program, **changes: object) -> Program:
    """Another program, of which only the layout is asked."""
    made = object.__new__(Program)
    made.__dict__.update({**program.__dict__, **changes})
    return made


def test_what_does_not_fit_keeps_its_carrier() -> None:
    program = load_prior("test-tiny-posterior").program
    assert isinstance(fastest(load_prior("test-tiny").program, "cpu"), FusedRuntime)
    assert layout_of(unproven(program)) is not None
    first, *rest = program.steps
    for wrong in ({"quant": (2, -8192, 8192)}, {"quant": None}, {"stride": 2}, {"upsample": True}):
        assert layout_of(unproven(program, steps=(replace(first, **wrong), *rest))) is None
    name = f"{first.name}.weight"
    heavy = program.tensors[name].copy()
    heavy[0, 0, 1, 1] = heavy[0, 0, 0, 0] = 32767
    assert layout_of(unproven(program, tensors={**program.tensors, name: heavy})) is None
    assert layout_of(unproven(program, text=(8, 8))) is None


def ones(name: str, outputs: int, inputs: int) -> dict[str, np.ndarray]:
    """Tensors of a 1 x 1 convolution."""
    return {
        f"{name}.weight": np.ones((outputs, inputs, 1, 1), np.int8),
        f"{name}.shift": np.zeros(outputs, np.int8),
        f"{name}.bias": np.zeros((1, outputs), np.int32),
    }


def test_what_would_grow_too_much_keeps_its_carrier() -> None:
    """Fifteen channels for nothing with each, and copies of weights that are shared."""

    def one(out: str, source: str, name: str) -> Step:
        return Step("conv", out, (source,), name, quant=(0, -1, 1))

    def deep(count: int) -> Program:
        steps = [Step("unfold", "r0", ("x",), factor=16)]
        steps += [one(f"r{n + 1}", f"r{n}", "w") for n in range(count)]
        steps.append(Step("fold", "out", (f"r{count}",), factor=16))
        return Program(tuple(steps), 8, 16, 1, 11, ones("w", 2048, 2048), 8, 16)

    padded = (
        Step("unfold", "a", ("x",), factor=16),
        one("b", "a", "w"),
        Step("fold", "c", ("b",), factor=16),
    )
    # one channel, of which each pixel of a block has sixteen as kept: 2^16 weights become 2^24
    wide = Program(padded, 1, 16, 1, 11, ones("w", 256, 256), 1, 16)
    plane = Program((one("a", "x", "w"),), 1, 1024, 1, 11, ones("w", 1, 1), 1, 1024)
    planes = tuple(one(f"r{n}", "x", "w") for n in range(3))
    many = Program(planes, 1, 1024, 1, 11, ones("w", 1, 1), 1, 1024)
    assert layout_of(plane) is not None
    for program in (deep(3), wide, many):
        assert isinstance(fastest(program, "cpu"), FusedRuntime)


def guarded(size: int, kind: type) -> tuple[np.ndarray, np.ndarray]:
    """An array with something around it, and both."""
    whole = np.full(size + 128, 77, kind)
    return whole[64:-64], whole


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (8, 30)])
@pytest.mark.parametrize("out", ["r1", "r4"])
def test_loops_write_nothing_beside_their_arrays(out: str, height: int, width: int) -> None:
    layout = layout_of(random_program(4))
    assert layout is not None
    layer = layout.layers[out]
    plain = room_for([(layer, height, width)])
    parts = [guarded(array.size, array.dtype.type) for array in plain]
    room = Room(*(part for part, _ in parts))
    pixels = 2 * height * width + 1
    source, result = (
        np.full(pixels * layer.inputs, 30000, np.int16),
        guarded(pixels * layer.outputs, np.int16),
    )
    extents = Extents(2, height, width, layer.inputs, layer.outputs)
    loop = nine if layer.is_nine else one
    loop(source, layer.scaling, layer.weights(0), extents, room, Addend(source[:0], 0), result[0])
    for _, whole in (*parts, result):
        assert (whole[:64] == 77).all() and (whole[-64:] == 77).all()


def test_arrays_that_are_too_small_are_refused() -> None:
    layout = layout_of(random_program(0))
    assert layout is not None
    layer = layout.layers["r2"]
    good, room = empty_planes(1, 6, 6, layer.inputs), room_for([(layer, 6, 6)])
    good.numbers[:] = 0
    small = good._replace(numbers=good.numbers[:-1])
    bad_rooms = [
        room._replace(**{name: getattr(room, name)[:-1]}) for name in ("inputs", "parts", "sums")
    ]
    cases = [(small, room, None), (good, room, small), (good._replace(height=0), room, None)]
    cases += [(good, each, None) for each in bad_rooms]
    convolve(layer, 0, good, room, good)
    for source, each, add in cases:
        with pytest.raises(ParameterError) as caught:
            convolve(layer, 0, source, each, add)
        assert caught.value.kind == "shape"
