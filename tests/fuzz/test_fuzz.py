"""Hostile bytes are refused with a kind, in bounded time and memory, or decoded."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from fuzz import mutations
from fuzz.mutations import MUTATORS, SEEDS, header_cuts, header_flips
from fuzz.run import fuzz, make_input, try_input, warm_up
from fuzz.targets import TARGETS, brick_decode, join_prior, prior_files
from psc_volumetric.archive.manifest import Manifest
from psc_volumetric.bitstream.constants import FORMAT_VERSION
from psc_volumetric.conformance import load_case, load_cases
from psc_volumetric.conformance.damage import split
from psc_volumetric.errors import FormatError, LimitExceededError, NumericalError
from psc_volumetric.golden import Case
from psc_volumetric.prior import load_prior, prior_from_files
from psc_volumetric.prior.bundle import METADATA, WEIGHTS
from psc_volumetric.prior.runtime import one_thread

CASES = load_cases()
INPUTS = {"brick_header": 1500, "brick_decode": 120, "prior_files": 150, "manifest": 1000}
OURS = b'{"format": %d' % FORMAT_VERSION
LONGER = 5  # times as many inputs, marked slow
Document = dict[str, Any]


@pytest.fixture(autouse=True)
def _quiet_machine() -> Iterator[None]:
    with one_thread():
        yield


@pytest.mark.parametrize("times", [1, pytest.param(LONGER, marks=pytest.mark.slow)])
@pytest.mark.parametrize("target", TARGETS)
def test_short_round(target: str, times: int) -> None:
    """Fails, too, if one of the inputs that are changed is not good itself."""
    warm_up(target)
    stop = time.perf_counter() + 20 * times
    inputs = iter(range(times * INPUTS[target]))
    finds = [find for _, find in fuzz(target, inputs, stop) if find]
    assert not finds, f"{finds[0].target} seed {finds[0].seed}\n{finds[0].problem}"


@pytest.mark.parametrize("target", TARGETS)
def test_inputs_depend_on_target_and_seed_alone(target: str) -> None:
    constants = json.dumps(mutations.JSON)
    first = [make_input(target, seed) for seed in range(60)]
    for seed in range(60, 60 + 20 * INPUTS[target] // 10):
        make_input(target, seed)
    assert [make_input(target, seed) for seed in range(60)] == first
    assert json.dumps(mutations.JSON) == constants
    assert sum(data is not None for data in first) > 40


def test_the_program_starts_its_clock_after_compiling_and_survives(tmp_path: Path) -> None:
    words = ["--minutes", "0.02", "--seed", "7", "--target", "manifest", "--finds", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.run", *words],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split("manifest: ")[1].split()[0]) > 200


def runs_the_sampler(case: Case) -> bool:
    """Of those two are quick enough: the others are slow tests."""
    quick = case.name in ("fast-effort1-int16", "fast-nan-float32")
    return case.kind is None and case.document.get("method") == "psc" and not quick


@pytest.mark.parametrize("case", [c for c in CASES if c.kind is None], ids=lambda case: case.name)
def test_every_cut_and_every_flipped_bit_of_the_header(case) -> None:
    refused = 0
    for data in header_cuts(case.stream):
        find = try_input("brick_header", data)
        assert find is None, find.problem
    for data in header_flips(case.stream):
        find = try_input("brick_header", data)
        assert find is None, find.problem
        refused += 1
    assert refused > 100


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(c, marks=pytest.mark.slow if runs_the_sampler(c) else (), id=c.name)
        for c in CASES
    ],
)
def test_vectors_need_little_memory(case) -> None:
    most = 4 << 20 if case.kind else 32 << 20
    peak = peak_of_decoding(case.stream)
    if peak >= most:
        peak = peak_of_decoding(case.stream)  # first use loads tables and the prior
    assert peak < most, f"{peak >> 20} MiB"


def peak_of_decoding(data: bytes) -> int:
    """The most memory that Python and numpy had at once, in bytes."""
    tracemalloc.start()
    try:
        brick_decode_quietly(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def brick_decode_quietly(data: bytes) -> None:
    find = try_input("brick_decode", data)
    assert find is None, find.problem


def test_flipped_payload_under_correct_checks_never_decodes_as_if_nothing_was() -> None:
    """A changed word changes symbols, and these the state that is compared at each level."""
    good = load_case("fast-effort1-int16")
    parts = split(good.stream)
    refused = 0
    for name, data in parts.sections:
        if name.startswith("level"):
            for at in range(0, len(data) - 8, max(1, len(data) // 10)):
                changed = bytearray(data)
                changed[at] ^= 0x10
                try:
                    brick_decode(parts.with_section(name, bytes(changed)).join())
                except FormatError as error:
                    assert error.kind in ("diverged", "bad-symbol")
                    refused += 1
    assert refused >= 18


# --- crafted priors -----------------------------------------------------------------------------


def crafted(change: Callable[[Document, dict[str, np.ndarray]], None]) -> dict[str, bytes]:
    files = load_prior("test-tiny").files()
    document, tensors = json.loads(files[METADATA]), dict(load(files[WEIGHTS]))
    change(document["psc_prior"]["identity"], tensors)
    return {METADATA: json.dumps(document).encode(), WEIGHTS: save(tensors)}


def steps(identity: Document, op: str) -> list[Document]:
    return [step for step in identity["network"]["steps"] if step["op"] == op]


def set_step(step_op: str, /, **values: Any) -> Callable[[Document, dict[str, np.ndarray]], None]:
    return lambda identity, tensors: steps(identity, step_op)[0].update(values)


def set_network(**values: Any) -> Callable[[Document, dict[str, np.ndarray]], None]:
    return lambda identity, tensors: identity["network"].update(values)


def fill(name: str, value: int) -> Callable[[Document, dict[str, np.ndarray]], None]:
    return lambda identity, tensors: tensors.update(
        {k: np.full_like(v, value) for k, v in tensors.items() if k.endswith(name)}
    )


CRAFTED = {
    "factor zero": (set_step("unfold", factor=0), "bad-program"),
    "factor huge": (set_step("unfold", factor=64), "bad-program"),
    "no inputs": (set_step("conv", inputs=[]), "bad-program"),
    "input not a name": (set_step("conv", inputs=[["x"]]), "bad-program"),
    "unknown register": (set_step("conv", inputs=["nowhere"]), "bad-program"),
    "register written twice": (set_step("conv", out="x"), "bad-program"),
    "stride as text": (set_step("conv", stride="1"), "bad-program"),
    "stride as float": (set_step("conv", stride=1.0), "bad-program"),
    "short quant": (set_step("conv", quant=[1, 2]), "bad-program"),
    "quant of fractions": (set_step("conv", quant=[0.5, -9, 9]), "bad-program"),
    "unknown key": (set_step("conv", script="x"), "bad-program"),
    "unknown step": (set_step("conv", op="exec"), "bad-program"),
    "groups zero": (set_step("norm_act", groups=0), "bad-program"),
    "epsilon a fraction": (set_step("norm_act", epsilon=1.5), "bad-program"),
    "steps an object": (set_network(steps={}), "bad-program"),
    "no steps": (set_network(steps=[]), "limit"),
    "a billion voxels": (set_network(tile=1 << 30), "bad-program"),
    "infinite slices": (set_network(slices=float("inf")), "bad-program"),
    "most negative beta": (fill(".beta", -(1 << 63)), "bad-program"),
    "most negative floor": (fill("scale.floor", -(1 << 63)), "bad-prior"),
    "clip of text": (lambda identity, tensors: identity.update(clip=["a", "b"]), "bad-prior"),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_crafted_prior_is_refused(name: str) -> None:
    change, kind = CRAFTED[name]
    with pytest.raises(FormatError) as caught:
        prior_from_files(crafted(change))
    assert caught.value.kind == kind


def test_prior_whose_sums_may_overflow_is_refused() -> None:
    with pytest.raises(NumericalError) as caught:
        prior_from_files(crafted(fill(".weight", 127)))
    assert caught.value.kind == "overflow"


def test_prior_that_would_fill_memory_is_refused_without_using_any() -> None:
    """Unfold, then fold back, a hundred thousand voxels at a time."""

    def change(identity: Document, tensors: dict[str, np.ndarray]) -> None:
        names = itertools.count()
        chain, last = [], "x"
        for op in ("unfold", "fold") * 200:
            out = f"big{next(names)}"
            chain.append({"op": op, "out": out, "inputs": [last], "factor": 4})
            last = out
        identity["network"].update(steps=chain, tile=512)

    tracemalloc.start()
    try:
        with pytest.raises(LimitExceededError) as caught:
            prior_from_files(crafted(change))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.kind == "limit" and peak < 16 << 20


@pytest.mark.parametrize(
    "metadata", [b"[]", b"1", b"[" * 100_000, b"\xff\xfe", b"", b'{"psc_prior":[]}']
)
def test_metadata_that_is_no_object_is_refused(metadata: bytes) -> None:
    weights = load_prior("test-tiny").files()[WEIGHTS]
    with pytest.raises(FormatError) as caught:
        prior_files(join_prior(metadata, weights))
    assert caught.value.kind == "bad-prior"


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 100_000,
        OURS + b', "digest": "", "keys": {"a": {"size": 1e999, "sha256": ""}}}',
        OURS + b', "digest": "", "keys": []}',
        OURS + b', "digest": "", "keys": {"\\udadd": {"size": 1, "sha256": ""}}}',
        OURS + b"}",
        b"null",
        b"",
    ],
)
def test_damaged_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError) as caught:
        Manifest.from_bytes(data, where="here")
    assert caught.value.kind == ("limit" if data.startswith(b"[[") else "manifest-damaged")


def test_every_target_has_seeds_and_mutators() -> None:
    assert TARGETS.keys() == SEEDS.keys() == MUTATORS.keys() == INPUTS.keys()
