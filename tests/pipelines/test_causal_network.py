"""Networks that foresee integers: recorded, trained, rounded, and what the coder makes of them."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from pipelines.training.causal.__main__ import app
from pipelines.training.causal.convert import arranged, check_sums, convert, rounded
from pipelines.training.causal.network import (
    CausalNet,
    bits_of,
    load_checkpoint,
    save_checkpoint,
)
from pipelines.training.causal.record import ROW, record
from pipelines.training.causal.seen import USED, prepared, seen_in
from pipelines.training.causal.train import Rows, train
from psc_volumetric.coders.context.coder import encode_integers
from psc_volumetric.coders.context.given import Cells
from psc_volumetric.coders.context.layout import MAX_SETS
from psc_volumetric.coders.context.network import GUESSES, HIDDEN, INPUTS, Network
from psc_volumetric.coders.context.networks import (
    NO_NETWORK,
    PATH,
    known_networks,
    network,
    with_room,
)
from psc_volumetric.errors import NumericalError, ParameterError, StorageError

STEPS = 300
SHAPE = (8, 96, 96)
Tensors = dict[str, NDArray[np.signedinteger]]


def quiet(line: str) -> None:
    """Say nothing."""


def smooth(rng: np.random.Generator, spread: tuple[float, float, float]) -> NDArray[np.float64]:
    """Noise after a Gaussian filter, of standard deviation 1."""
    noise = np.fft.rfftn(rng.normal(size=SHAPE))
    frequencies = (np.fft.fftfreq(8), np.fft.fftfreq(96), np.fft.rfftfreq(96))
    grid = np.meshgrid(*frequencies, indexing="ij")
    squares = sum((s * f) ** 2 for s, f in zip(spread, grid, strict=True))
    made = np.fft.irfftn(noise * np.exp(-2 * np.pi**2 * squares), SHAPE, axes=(0, 1, 2))
    scaled: NDArray[np.float64] = made / made.std()
    return scaled


def two_tissues() -> NDArray[np.int64]:
    """Two tissues with a smooth border, whose textures differ."""
    rng = np.random.default_rng(0)
    shape, texture = smooth(rng, (1, 4, 4)), smooth(rng, (0, 0.8, 0.8))
    made = 400 * (1 + np.tanh(4 * shape)) + (5 + 25 * (shape > 0)) * texture
    return np.rint(np.clip(made, 0, None)).astype(np.int64)


@pytest.fixture(scope="module")
def values() -> NDArray[np.int64]:
    return two_tissues()


@pytest.fixture(scope="module")
def folder(values: NDArray[np.int64], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A volume to train on, and one that the recipe `mr-head` holds out."""
    folder = tmp_path_factory.mktemp("volumes")
    for name in ("made", "patient12_made"):
        image = nibabel.Nifti1Image(values.T.astype(np.int16), np.eye(4))
        nibabel.save(image, folder / f"{name}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def recorded(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("recorded") / "rows"
    assert record([folder], out, seed=1, report=quiet) > 100_000
    return out


@pytest.fixture(scope="module")
def checkpoint(recorded: Path) -> Path:
    path = recorded.parent / "trained.safetensors"
    train(recorded, 0, path, steps=STEPS, report=quiet)
    return path


def cells_around(values: NDArray[np.int64], error: int) -> Cells:
    middle = (values + error) // (2 * error + 1) * (2 * error + 1)
    return Cells(middle - error, middle + error)


@pytest.mark.parametrize("error", [None, 2], ids=["plain", "refinement"])
def test_what_is_seen_is_of_the_stream_that_the_coder_writes(
    values: NDArray[np.int64], error: int | None
) -> None:
    cells = None if error is None else cells_around(values, error)
    segment, seen = prepared(values, NO_NETWORK, cells=cells), seen_in(values, cells=cells)
    assert segment is not None and seen is not None
    code = segment.code()
    assert code is not None and encode_integers(values, cells=cells).endswith(code)
    np.testing.assert_array_equal(segment.decode(code), values)
    least = 0 if segment.given.cells is None else segment.given.cells.least
    most = segment.settings.top if segment.given.cells is None else segment.given.cells.most
    free = np.flatnonzero(np.broadcast_to(most > least, values.shape))
    assert set(seen.places) <= set(free)  # but where nothing was off before
    assert len(free) - 20 < len(seen.places)
    above = (segment.coded - least).reshape(-1)[seen.places]
    np.testing.assert_array_equal(seen.facts[:, 0] - seen.facts[:, 1], above << 8)
    widths = np.broadcast_to(most - least, values.shape).reshape(-1)[seen.places]
    np.testing.assert_array_equal(seen.facts[:, 2] - seen.facts[:, 1], widths << 8)
    assert not seen.inputs[:, ~USED].any()
    absent = GUESSES + np.arange(len(segment.settings.predictors[1]), MAX_SETS)
    looked = np.setdiff1d(np.flatnonzero(USED), absent)
    assert seen.inputs[:, looked].any(axis=0).all()


def test_inputs_are_those_of_the_specification(values: NDArray[np.int64]) -> None:
    """Of the neighbours above and in the slice before."""
    segment, seen = prepared(values, NO_NETWORK), seen_in(values)
    assert segment is not None and seen is not None
    whole = segment.coded << 8
    at = np.unravel_index(seen.places, SHAPE)
    facts, inputs = np.ones((*SHAPE, 4), np.int64), np.zeros((*SHAPE, INPUTS), np.int64)
    facts[at], inputs[at] = seen.facts, seen.inputs
    run = np.zeros(SHAPE, bool)
    run[at] = True
    mean, scale = whole - facts[..., 0], facts[..., 3]
    down = np.maximum(np.floor(np.log2(scale)).astype(np.int64) - 8, 0)

    def as_input(away: NDArray[np.int64], box: tuple[slice, ...]) -> NDArray[np.int64]:
        cut = np.clip(away >> down[box], -8191, 8191)
        scaled = (cut * (2**15 // (scale[box] >> down[box]))) >> 10
        limited: NDArray[np.int64] = np.clip(scaled, -511, 511) * run[box]
        return limited

    below, later = (slice(None), slice(1, None)), (slice(1, None),)
    north, before = whole[:, :-1] - mean[below], whole[:-1] - mean[later]
    np.testing.assert_array_equal(inputs[below][..., 8 + 3], as_input(north, below))
    np.testing.assert_array_equal(inputs[later][..., 32 + 16 + 3], as_input(before, later))


def test_a_constant_segment_shows_nothing() -> None:
    assert seen_in(np.full((2, 20, 20), 7)) is None


def test_crops_of_training_volumes_alone_are_recorded(recorded: Path) -> None:
    crops = json.loads((recorded / "1.json").read_text())
    assert {crop["volume"] for crop in crops} == {"made"}
    kinds = {crop["kind"] for crop in crops}
    assert "lossless" in kinds and any(kind.startswith("refinement of") for kind in kinds)
    rows = Rows(recorded)
    assert len(rows) == sum(crop["voxels"] for crop in crops)
    inputs, facts = rows.take(np.arange(len(rows)))
    assert inputs.shape == (len(rows), INPUTS) and float(inputs.abs().max()) <= 511 / 32
    value, least, most, scale = facts.unbind(1)
    assert bool(((least <= value) & (value <= most) & (least < most) & (scale >= 16)).all())


def coded(values: NDArray[np.int64], known: Network, cells: Cells | None = None) -> int:
    """Bytes that values take, which come back."""
    segment = prepared(values, known, cells=cells)
    assert segment is not None
    data = segment.code()
    assert data is not None
    again = segment._replace(settings=segment.settings._replace(network=emptied(known)))
    np.testing.assert_array_equal(again.decode(data), values)
    return len(data)


def emptied(known: Network) -> Network:
    """The same weights with room of their own."""
    return with_room(known.weights, known.biases)


def test_a_trained_network_takes_fewer_bytes_than_one_that_says_nothing(
    values: NDArray[np.int64], checkpoint: Path, tmp_path: Path
) -> None:
    convert([checkpoint], tmp_path / "networks.safetensors", report=quiet)
    stored = load_file(tmp_path / "networks.safetensors")
    own = {name.removeprefix("0."): tensor for name, tensor in stored.items()}
    weights, biases = arranged(own)
    nothing = np.zeros_like(weights), np.zeros_like(biases)
    for of, cells, share in (
        (values, None, 0.97),
        ((values + 2) // 5, None, 0.95),
        (values, cells_around(values, 10), 1.0),
    ):
        taught = coded(of, with_room(weights, biases), cells)
        assert taught < share * coded(of, with_room(*nothing), cells)


def test_training_goes_on_from_a_checkpoint(recorded: Path, checkpoint: Path) -> None:
    lines: list[str] = []
    out = recorded.parent / "further.safetensors"
    train(recorded, 0, out, resume=checkpoint, steps=1, report=lines.append)
    alone, after = (float(line.split(" bits")[0].split()[-1]) for line in lines)
    assert after < 0.97 * alone
    before, further = load_file(checkpoint), load_file(out)
    away = {name: float(np.abs(further[name] - before[name]).max()) for name in before}
    assert 0 < max(away.values()) < 1e-3  # one step of the lowest rate


def test_shares_of_a_cell_add_up_to_one() -> None:
    least, most, centre = -7, 12, 100
    x = torch.arange(least, most + 1, dtype=torch.float32) * 256 - centre
    ends = (least * 256.0 - centre, most * 256.0 - centre)
    for shift, widening, scale in ((0.0, 0.0, 900.0), (0.5, -1.3, 2000.0), (-1.0, 2.5, 300.0)):
        others = torch.tensor([*ends, scale]).expand(len(x), 3)
        outputs = torch.tensor([[shift, widening]]).expand(len(x), 2)
        bits = bits_of(outputs, torch.cat([x[:, None], others], dim=1))
        assert abs(float(torch.exp2(-bits).sum()) - 1) < 1e-4
        assert int(bits.argmin()) == int((x - shift * scale).abs().argmin())


def by_the_specification(made: Tensors, x: NDArray[np.int64]) -> NDArray[np.int64]:
    """Outputs o of inputs X, as SPEC 15.11 writes them."""
    first, second, last, bias = (
        made[name].astype(np.int64) for name in ("first", "second", "last", "biases")
    )
    a = np.clip((bias[:HIDDEN] + x @ first.T) >> 4, 0, 4095)
    b = np.clip((bias[HIDDEN : 2 * HIDDEN] + a @ second.T) >> 6, 0, 4095)
    outputs: NDArray[np.int64] = bias[2 * HIDDEN :] + b @ last.T
    return outputs


def test_rounding_to_integers_loses_next_to_nothing(recorded: Path, checkpoint: Path) -> None:
    net = load_checkpoint(checkpoint)
    inputs, facts = Rows(recorded).take(np.arange(0, 100_000, 50))
    whole = (inputs.numpy() * 32).astype(np.int64)
    outputs = by_the_specification(rounded(net, what="net"), whole) / (1 << 13)
    with torch.no_grad():
        floats = bits_of(net(inputs), facts).mean()
    integers = bits_of(torch.from_numpy(outputs.astype(np.float32)), facts).mean()
    alone = bits_of(torch.zeros(len(facts), 2), facts).mean()
    assert abs(float(integers - floats)) < 0.03 * float(alone - floats)


def test_networks_whose_numbers_or_sums_do_not_fit_are_refused(tmp_path: Path) -> None:
    net = CausalNet()
    with torch.no_grad():
        net.second.weight[3, 4] = 512.5
    save_checkpoint(net, tmp_path / "weight.safetensors")
    with torch.no_grad():
        net.second.weight[3] = 180.0  # 48 of them x 64 x 4095 > 2^31
    save_checkpoint(net, tmp_path / "sum.safetensors")
    for name, said in (("weight", "512.5"), ("sum", "unit 3")):
        with pytest.raises(NumericalError, match=said) as caught:
            convert([tmp_path / f"{name}.safetensors"], tmp_path / "out", report=quiet)
        assert caught.value.kind == "overflow"
        assert not (tmp_path / "out").exists()


def test_sums_are_proven_for_the_worst_inputs() -> None:
    made = rounded(CausalNet(), what="net")
    made["first"][:] = 0
    made["first"][5, :2], made["biases"][5] = (300, -300), -7
    assert check_sums(made, what="net")[0] == max(600 * 511 + 7, abs(made["biases"][:HIDDEN]).max())


def test_unreadable_and_foreign_checkpoints_are_refused(tmp_path: Path) -> None:
    garbage, foreign, dead, infinite, out = (tmp_path / name for name in "abcde")
    garbage.write_bytes(b"not a checkpoint")
    save_file({"first.weight": np.zeros((2, 3), np.float32)}, foreign)
    net = CausalNet()
    with torch.no_grad():
        net.first.weight[0, 7] = 0.5
    save_checkpoint(net, dead)
    with torch.no_grad():
        net.last.bias[0] = torch.inf
    save_checkpoint(net, infinite)
    for path in (garbage, foreign, dead, infinite, tmp_path / "missing"):
        with pytest.raises(ParameterError) as caught:
            convert([path], out, report=quiet)
        assert caught.value.kind == "bad-checkpoint" and str(path) in str(caught.value)
    assert not out.exists()


def test_a_file_of_networks_is_never_replaced(checkpoint: Path) -> None:
    with pytest.raises(StorageError) as caught:
        convert([checkpoint], checkpoint, report=quiet)
    assert caught.value.kind == "target-exists"


def test_a_network_gets_the_next_number_after_those_that_ship(
    checkpoint: Path, tmp_path: Path
) -> None:
    out, first = tmp_path / "more.safetensors", tmp_path / "first.safetensors"
    words = ["convert", str(checkpoint), "--after", str(PATH), "--out", str(out)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    shipped, found = load_file(PATH), load_file(out)
    made = convert([checkpoint], first, report=quiet)
    number = known_networks()
    assert set(found) == set(shipped) | {name.replace("0.", f"{number}.") for name in made}
    for name, array in shipped.items():
        np.testing.assert_array_equal(found[name], array)
    for name, array in made.items():
        np.testing.assert_array_equal(found[name.replace("0.", f"{number}.")], array)


def test_what_comes_first_must_be_networks(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "garbage").write_bytes(b"no networks")
    for path in (tmp_path / "garbage", tmp_path / "missing", checkpoint):
        with pytest.raises(ParameterError) as caught:
            convert([checkpoint], tmp_path / "out", after=path, report=quiet)
        assert caught.value.kind == "bad-networks" and str(path) in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_seed_is_recorded_once(folder: Path, recorded: Path) -> None:
    with pytest.raises(StorageError) as caught:
        record([folder], recorded, seed=1, report=quiet)
    assert caught.value.kind == "target-exists"


def test_rows_of_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError) as caught:
        train(tmp_path, 0, tmp_path / "out", steps=1, report=quiet)
    assert caught.value.kind == "nothing-recorded"
    np.save(tmp_path / "0-000.npy", np.zeros(4))
    with pytest.raises(ParameterError) as caught:
        train(tmp_path, 0, tmp_path / "out", steps=1, report=quiet)
    assert caught.value.kind == "bad-recording"
    (tmp_path / "0-000.npy").write_bytes(b"cut")
    with pytest.raises(ParameterError) as caught:
        train(tmp_path, 0, tmp_path / "out", steps=1, report=quiet)
    assert caught.value.kind == "bad-recording"
    assert ROW.itemsize == 2 * INPUTS + 16


def test_commands_refuse_without_a_volume_to_train_on(folder: Path, tmp_path: Path) -> None:
    held_out = folder / "patient12_made.nii.gz"
    (tmp_path / "empty").mkdir()
    flat = tmp_path / "flat.nii"
    nibabel.save(nibabel.Nifti1Image(np.zeros((40, 40, 8), np.int16), np.eye(4)), flat)
    for source, said in (
        (held_out, "held out"),
        (tmp_path / "empty", "found"),
        (flat, "volumes of measurements"),
    ):
        words = ["record", str(source), "--out", str(tmp_path / "rows")]
        outcome = CliRunner().invoke(app, words)
        assert outcome.exit_code == 1 and said in outcome.stderr
        assert not list(tmp_path.glob("rows/*.json"))


def test_no_time_to_train_is_refused() -> None:
    words = ("train", "x", "--minutes", "0", "--out", "y")
    assert CliRunner().invoke(app, words).exit_code == 2


@pytest.mark.parametrize("number", range(known_networks()))
def test_networks_that_ship_have_no_dead_weights_and_sums_of_32_bits(number: int) -> None:
    stored = load_file(PATH)
    made = {name: stored[f"{number}.{name}"] for name in ("first", "second", "last", "biases")}
    assert not made["first"][:, ~USED].any()
    assert max(check_sums(made, what=f"network {number}")) < 1 << 31
    for mine, theirs in zip(arranged(made), network(number)[:2], strict=True):
        np.testing.assert_array_equal(mine, theirs)
