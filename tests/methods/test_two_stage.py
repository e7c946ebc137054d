"""The method two-stage: latents that round-trip, bad input, and bundles that are refused."""

from __future__ import annotations

import hashlib
import json
import pickle
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
import xarray
from safetensors.numpy import load, save
from typer.testing import CliRunner

from pipelines.cli import app
from psc_volumetric.bitstream import constants as c
from psc_volumetric.bitstream.header import BrickHeader
from psc_volumetric.codec import BrickOptions, EncodedBrick, Guarantee, decode_brick, encode_brick
from psc_volumetric.conformance.damage import split
from psc_volumetric.entropy.symbols import SymbolReader, SymbolWriter
from psc_volumetric.errors import (
    FormatError,
    LimitExceededError,
    NumericalError,
    PriorMismatchError,
)
from psc_volumetric.methods.parameters import CodecParameters
from psc_volumetric.methods.protocol import EncodeJob, Resources
from psc_volumetric.methods.registry import REGISTRY
from psc_volumetric.methods.two_stage.brick import LatentGrid
from psc_volumetric.methods.two_stage.latents import (
    code_latents,
    joined_tiles,
    split_tiles,
    symbols_of,
)
from psc_volumetric.methods.two_stage.method import METHOD
from psc_volumetric.methods.two_stage.network import Autoencoder, autoencoder_for, check_autoencoder
from psc_volumetric.prior import Prior, load_prior, prior_from_files, resolve_prior
from psc_volumetric.prior.bundle import METADATA, WEIGHTS
from psc_volumetric.prior.making.build import build_autoencoder
from psc_volumetric.prior.program import canonical_digest
from psc_volumetric.prior.runtime import TorchRuntime
from psc_volumetric.values.mapping import IntensityMapping

SCALAR, VECTOR = "test-tiny-vae", "test-tiny-vq"
RANGE = IntensityMapping(0, 1000)
WHOLE = (slice(None),) * 3


def head(shape: tuple[int, int, int] = (6, 61, 70)) -> np.ndarray:
    """Blobs like those that the networks were trained on."""
    z, y, x = np.indices(shape)
    blobs = np.zeros(shape)
    for cz, cy, cx, r in ((2, 20, 30, 14), (4, 40, 45, 9), (1, 50, 12, 7), (3, 12, 60, 8)):
        distance = np.sqrt(4.0 * (z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2)
        blobs += 300 / (1 + np.exp(2 * (distance - r)))
    return (blobs + np.random.default_rng(2).normal(0, 4, shape)).clip(0, 999).astype("<u2")


def code(
    values: np.ndarray,
    prior: str = SCALAR,
    step: float = 2.0,
    guarantee: Guarantee | None = None,
    base: str = "two-stage",
) -> EncodedBrick:
    return encode_brick(
        values,
        position=(0, 0, 0),
        shape=tuple(-(-n // 8) * 8 for n in values.shape),
        mapping=RANGE,
        parameters=CodecParameters(step=step),
        prior=load_prior(prior),
        guarantee=guarantee or Guarantee(coders=("zstd",)),
        options=BrickOptions(base=base),
    )


def restored(brick: EncodedBrick, level: int | None = None) -> np.ndarray:
    def read(start: int, length: int) -> bytes:
        return brick.data[start : start + length]

    return decode_brick(read, selection=WHOLE, prior=resolve_prior, level=level).values


@pytest.mark.parametrize("prior", [SCALAR, VECTOR])
def test_symbols_survive_the_stream_wherever_they_lie(prior: str) -> None:
    """Latents of noise are far from what the model expects: escapes, and ends of the range."""
    model = load_prior(prior).latents
    assert model is not None
    rng, shape = np.random.default_rng(1), (2, 5, 4)
    for step, spread in ((16, 6000), (256, 300), (4096, 40000)):
        latents = np.rint(rng.normal(0, spread, (*shape, model.channels))).astype(np.int64)
        symbols = symbols_of(model, latents, step)
        port = SymbolWriter()
        written = code_latents(port, model, step, shape, symbols)
        port.mark()
        read = code_latents(SymbolReader(port.finish()[0]), model, step, shape, None)
        assert np.array_equal(read, written)
        if not model.is_vector:
            assert np.array_equal(written, np.clip(symbols * model.steps(step), -32767, 32767))


def test_tiles_of_latents_lie_side_by_side() -> None:
    tiles = np.arange(2 * 3 * 2 * 5 * 4 * 4).reshape(12, 5, 4, 4)
    joined = joined_tiles(tiles, (2, 3, 2))
    assert joined.shape == (2, 12, 8, 5)
    assert np.array_equal(joined[1, 4:8, 4:8, 2], tiles[1 * 6 + 1 * 2 + 1, 2])
    assert np.array_equal(split_tiles(joined, 4), tiles)


def test_coarser_latents_cost_less_and_say_less() -> None:
    values = head((4, 61, 40))
    bricks = [code(values, step=step) for step in (0.5, 2.0, 8.0)]
    sizes = [brick.index.nbytes for brick in bricks]
    errors = [float(np.mean((restored(b) - values.astype(float)) ** 2)) for b in bricks]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 3
    assert errors == sorted(errors)
    assert errors[0] < 0.5 * float(values.var())


@pytest.mark.parametrize("prior", [SCALAR, VECTOR])
@pytest.mark.parametrize(
    "values",
    [
        head((1, 40, 33)),
        head((3, 5, 7)),
        (head() > 300).astype("u1"),
        head().astype("<f4") * 40 - 20000,
        np.where(head() > 500, np.nan, head()).astype("<f4"),
        head().astype("<i4") * 100000,
    ],
    ids=["one slice", "smaller than a tile", "labels", "outside", "nan", "far outside"],
)
def test_odd_volumes_are_coded_or_restored_exactly_by_the_layer(
    values: np.ndarray, prior: str
) -> None:
    brick = code(values, prior, guarantee=Guarantee("lossless", coders=("zstd",)))
    assert restored(brick).tobytes() == values.tobytes()
    assert np.array_equal(np.isnan(restored(brick, 0)), np.isnan(values))


def test_a_constant_brick_is_a_constant() -> None:
    assert code(np.full((4, 20, 20), 7, "<u2")).method == "constant"


@pytest.mark.parametrize("dtype", ["?", "<u8"])
def test_dtypes_it_does_not_code_have_no_base(dtype: str) -> None:
    values = (head() > 300).astype(dtype)
    header = BrickHeader("none", values.dtype, (0, 0, 0), values.shape, values.shape)
    job = EncodeJob(
        values, header, None, None, RANGE, CodecParameters(), load_prior(SCALAR), values.shape
    )
    assert METHOD.source(job, Resources()) is None


def test_auto_never_takes_it() -> None:
    assert not REGISTRY.entries["two-stage"].in_auto
    assert code(head((2, 16, 16)), base="auto").method != "two-stage"


def _archive(tmp_path: Path) -> Path:
    """An archive, made by the command."""
    source, target = tmp_path / "head.nii", tmp_path / "head.psc.zarr"
    nibabel.save(nibabel.Nifti1Image(head().T, np.diag([1, 1, 3, 1])), source)
    words = ["archive", str(source), str(target), "--mode", "lossy", "--base", "two-stage"]
    done = CliRunner().invoke(app, [*words, "--prior", SCALAR, "--step", "2", "--quiet"])
    assert done.exit_code == 0, done.output
    return target


def test_a_fresh_process_reads_an_archive_from_its_bytes_alone(tmp_path: Path) -> None:
    """The archive is moved away, and the shipped networks are hidden from the reader."""
    target = _archive(tmp_path)
    names = {path.name for path in target.rglob("*") if path.is_file()}
    assert "integer.safetensors" in names and "analysis.safetensors" not in names
    away = tmp_path / "elsewhere.psc.zarr"
    target.rename(away)
    program = (
        "import sys, hashlib, numpy as np\n"
        "from psc_volumetric.prior import finding\n"
        "finding.SHIPPED_AUTOENCODERS = finding.SHIPPED_AUTOENCODERS / 'none'\n"
        "import xarray\n"
        "values = xarray.open_dataset(sys.argv[1], engine='psc')['image'].values\n"
        "print(hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest())\n"
    )
    command = [sys.executable, "-c", program, str(away)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert found.returncode == 0, found.stderr
    values = xarray.open_dataset(away, engine="psc")["image"].values
    digest = hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
    assert found.stdout.split()[-1] == digest


def test_a_bundle_of_an_archive_decodes_but_does_not_code() -> None:
    prior = load_prior(SCALAR)
    bare = prior_from_files(prior.files())
    assert bare.digest == prior.digest and bare.analysis is None
    with pytest.raises(PriorMismatchError) as caught:
        Autoencoder(bare, "cpu").encode(np.zeros((1, *bare.tile_shape), np.int64))
    assert caught.value.kind == "prior-incomplete"


def test_priors_of_other_kinds_are_refused_by_name() -> None:
    for name in ("test-tiny", "test-tiny-posterior"):
        with pytest.raises(PriorMismatchError, match="test-tiny") as caught:
            code(head(), name)
        assert caught.value.kind == "prior-mismatch"


def _changed(prior: Prior, changes: dict[str, np.ndarray], **identity: object) -> dict[str, bytes]:
    """Files of a bundle with other tables and the digest that belongs to them."""
    files = prior.files()
    document = json.loads(files[METADATA])
    tensors = {**load(files[WEIGHTS]), **changes}
    described = document["psc_prior"]
    described["identity"] |= identity
    described["digest"] = canonical_digest(described["identity"], tensors)
    return {METADATA: json.dumps(document).encode(), WEIGHTS: save(tensors)}


def _tables(name: str) -> dict[str, np.ndarray]:
    tensors = load(load_prior(name).files()[WEIGHTS])
    return {k: v for k, v in tensors.items() if k.startswith("latents.")}


WRONG = {
    "another shape of latents": (SCALAR, {"latents.unit": np.ones(3, np.int32)}, {}),
    "a step of 0": (SCALAR, {"latents.unit": np.zeros(4, np.int32)}, {}),
    "floats": (SCALAR, {"latents.unit": np.ones(4, np.float32)}, {}),
    "a falling distribution": (
        SCALAR, {"latents.cumulative": _tables(SCALAR)["latents.cumulative"][..., ::-1].copy()}, {},
    ),
    "weights of later channels": (SCALAR, {"latents.weights": np.ones((4, 20), np.int32)}, {}),
    "vectors of other channels": (VECTOR, {"latents.codebook": np.ones((16, 5), np.int16)}, {}),
    "vectors never used": (VECTOR, {"latents.base": np.zeros(16, np.int32)}, {}),
    "one vector": (VECTOR, {"latents.codebook": np.ones((1, 4), np.int16)}, {}),
    "another quantiser": (VECTOR, {}, {"quantiser": "scalar"}),
    "no quantiser": (VECTOR, {}, {"quantiser": 3}),
    "a denoiser's kind": (VECTOR, {}, {"kind": "denoiser"}),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_bundles_that_do_not_fit_are_refused(what: str) -> None:
    name, tables, identity = WRONG[what]
    with pytest.raises(FormatError) as caught:
        prior_from_files(_changed(load_prior(name), tables, **identity))
    assert caught.value.kind == "bad-prior"


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    """As the integers, or as the network from pixels to latents: nothing is unpickled."""
    prior = load_prior(SCALAR)
    torch.save({"weight": torch.ones(2)}, tmp_path / "weights.pt")
    for data in ((tmp_path / "weights.pt").read_bytes(), pickle.dumps({"weight": 1})):
        for name in (WEIGHTS, "models/analysis.safetensors"):
            files = {**prior.files(), **prior.analysis_files(), name: data}
            with pytest.raises(FormatError) as caught:
                prior_from_files(files)
            assert caught.value.kind == "bad-prior"


def test_networks_of_another_shape_do_not_make_a_bundle() -> None:
    vae, vq = load_prior(SCALAR), load_prior(VECTOR)
    assert vae.analysis is not None
    tables = {k.removeprefix("latents."): v for k, v in _tables(VECTOR).items()}
    with pytest.raises(FormatError):
        build_autoencoder(
            vq.program, vae.program, tables, name="wrong", quantiser="vector", metadata={}
        )


def test_damaged_words_are_refused_or_decode_to_other_values() -> None:
    brick = code(head((4, 32, 40)))
    start = brick.index.section("base").offset
    for at in range(start, brick.index.nbytes, 7):
        damaged = bytearray(brick.data)
        damaged[at] ^= 0x40
        with pytest.raises(FormatError):
            restored(replace(brick, data=bytes(damaged)))


def test_a_carrier_that_is_off_by_one_is_refused() -> None:
    prior = load_prior(VECTOR)
    honest = TorchRuntime(prior.program, "cpu")
    check_autoencoder(Autoencoder(prior, "cpu", honest))
    with pytest.raises(NumericalError) as caught:
        check_autoencoder(Autoencoder(prior, "cpu", lambda x, level: honest(x, level) + 1))
    assert caught.value.kind == "self-test"


def test_a_decoder_of_an_archive_does_not_stand_in_for_the_whole_autoencoder() -> None:
    """Both have one digest, and a process may meet either first."""
    whole = load_prior("test-tiny-vae")
    alone = prior_from_files(whole.files())
    assert alone.digest == whole.digest and alone.analysis is None
    assert whole.analysis is not None
    shape = whole.analysis
    tiles = np.zeros((1, shape.slices, shape.tile, shape.tile), np.int64)
    with pytest.raises(PriorMismatchError):
        autoencoder_for(alone, "cpu").encode(tiles)
    assert autoencoder_for(whole, "cpu").encode(tiles).shape[0] == 1


def test_a_few_words_do_not_buy_millions_of_latents() -> None:
    """SPEC 10.4: decided by the header, before a latent is decoded."""
    brick = code(head())
    parts = split(brick.data)
    assert restored(brick).shape == head().shape
    large = (512, 256, 512)
    hostile = replace(parts, header=replace(parts.header, shape=large, valid=large)).join()
    start = time.process_time()
    with pytest.raises(LimitExceededError) as caught:
        restored(replace(brick, data=hostile))
    assert caught.value.kind == "limit" and "latents" in str(caught.value)
    assert time.process_time() - start < 5


@pytest.mark.parametrize("name", ["mr-head-vae", "mr-head-vq"])
def test_autoencoders_that_ship_never_reach_the_limit(name: str) -> None:
    """Of the largest brick there may be, in as few bytes as a stream has."""
    prior = load_prior(name)
    z, y, x = prior.tile_shape
    valid = (z, 4096, c.MAX_BRICK_VOXELS // (z * 4096))
    assert valid[1] % y == valid[2] % x == 0
    LatentGrid(Autoencoder(prior, "cpu"), valid).check_work(4)
