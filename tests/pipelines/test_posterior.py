"""Posterior networks: they are trained on what readers decode, and no run loses its work."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from pipelines.training.posterior import __main__ as command
from pipelines.training.posterior.bricks import BrickPool, Changes, PoolSize
from pipelines.training.posterior.domains import DOMAINS
from pipelines.training.posterior.held_out import measure
from pipelines.training.posterior.make_pack import make_pack
from pipelines.training.posterior.packs import (
    Packed,
    held_out_file,
    read_pack,
    training_file,
    write_pack,
)
from pipelines.training.posterior.runs import Run, checkpoint_file, run
from pipelines.training.posterior.train import Checkpoint, Pace, losses, train
from pipelines.training.posterior.wavelet import code, dequantise, synthesise
from psc_volumetric.errors import FormatError
from psc_volumetric.methods.wavelet.coder import decode_steps
from psc_volumetric.methods.wavelet.method import WaveletSource
from psc_volumetric.prior.making.posterior_net import DEPTHS, PosteriorNet, PosteriorShape
from psc_volumetric.prior.making.residual_steps import from_posterior

SMALL = PosteriorShape(slices=3, channels=(4, 6), blocks=(1, 1))
DOMAIN = replace(DOMAINS["mr-head"], shape=SMALL, patch=16, held_out_steps=(0.1, 0.3))
CPU = torch.device("cpu")
MOST_BYTES, MOST_FILES = 16 << 20, 8


def anatomy(shape: tuple[int, int, int], seed: int = 0, noise: float = 0.02) -> np.ndarray:
    """Ellipsoids with edges, texture and noise, 0 to about 1."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    values = np.full(shape, 1e-3)
    for _ in range(8):
        centre, radius = rng.uniform(-0.5, 0.5, 3), rng.uniform(0.2, 0.6)
        inside = (z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 < radius**2
        values += inside * rng.uniform(0.1, 0.4) * (1 + 0.2 * np.sin(17 * x + 11 * y))
    return np.clip(values / values.max() + rng.normal(0, noise, shape), 0, 1.1).astype(np.float32)


def write_volumes(data: Path) -> Path:
    """Three small NIfTI volumes in a folder, one of them of a held-out patient."""
    for seed, name in enumerate(("patient01_T1W", "patient04_FLAIR", "patient12_T1W")):
        stored = np.rint(anatomy((40, 36, 12), seed) * 900).astype(np.int16)
        image = nibabel.Nifti1Image(stored, np.diag([1.0, 1.0, 3.0, 1.0]))
        nibabel.save(image, data / f"{name}.nii.gz")
    return data


@pytest.fixture(scope="module")
def pack(tmp_path_factory) -> Path:
    """A pack of those volumes."""
    folder = tmp_path_factory.mktemp("pack")
    make_pack([write_volumes(tmp_path_factory.mktemp("data"))], DOMAIN, folder)
    return folder


def small_run(pack: Path, out: Path, steps: int, **changes) -> Run:
    return Run(
        pack, out, minutes=10, domains=[DOMAIN], device="cpu", held_out_slices=2, steps=steps,
        **changes,
    )  # fmt: skip


@pytest.mark.parametrize("depth", [0, 2])
@pytest.mark.parametrize("step", [0.02, 0.1, 0.4])
def test_coding_in_torch_is_close_to_what_readers_decode(depth, step):
    values = anatomy((14, 75, 90))
    trial = WaveletSource(values, None, depth=depth).code(step)
    decoded = trial.samples * trial.fields.step + trial.fields.low
    made = code(torch.from_numpy(values), step, depth).numpy()
    error, real = (np.mean((v - values) ** 2) for v in (made, decoded))
    assert abs(10 * np.log10(error / real)) < 0.1
    assert np.mean(np.abs(made - decoded) > step / 10) < 0.01


def test_synthesis_in_torch_equals_the_integers_but_for_rounding():
    values = anatomy((9, 50, 64))
    trial = WaveletSource(values, None, depth=1).code(0.1)
    numbers, depth = decode_steps(trial.data, values.shape, what="test")
    made = synthesise(dequantise(torch.from_numpy(numbers), 0.1, depth), depth).numpy()
    decoded = trial.samples * trial.fields.step
    assert np.abs(made - decoded).max() < 0.1 * 0.06


@pytest.mark.parametrize("kind", ["few whole values", "many values", "one value"])
def test_packs_give_back_their_samples(tmp_path, kind):
    values = anatomy((5, 20, 31))
    if kind == "few whole values":
        values = np.rint(values * 90).astype(np.float32) / np.float32(90)
    if kind == "one value":
        values[:] = 0.25
    volume = Packed.of("v", values, 512, isotropic=True)
    path = tmp_path / "one.safetensors"
    assert write_pack(path, [volume]) == path.stat().st_size
    (read,) = read_pack(path)
    assert (read.samples == volume.samples).all() and read.isotropic and read.name == "v"
    largest = 1e-6 if kind == "few whole values" else 0.5 / 512 + 1e-6
    assert np.abs(read.values() - values).max() < largest


def test_held_out_patients_are_packed_apart_as_readers_decode_them(pack):
    training = read_pack(training_file(pack, DOMAIN.name))
    held_out = read_pack(held_out_file(pack, DOMAIN.name))
    assert [v.name for v in training] == ["patient01_T1W", "patient04_FLAIR"]
    assert [v.name for v in held_out] == ["patient12_T1W"]
    assert not any(v.coded for v in training)
    (volume,) = held_out
    assert [round(c.step, 6) for c in volume.coded] == [0.1, 0.3]
    for coded in volume.coded:
        trial = WaveletSource(volume.values(), None, depth=coded.depth).code(coded.step)
        decoded = trial.fields.to_stored(trial.samples, np.dtype(np.float32))
        assert np.array_equal(coded.decode(), decoded) and coded.nbytes == len(trial.data)


def test_patches_are_of_the_training_side_and_what_was_extended_does_not_count(pack):
    wide = replace(DOMAIN, patch=64)
    volumes = read_pack(training_file(pack, DOMAIN.name))
    pool = BrickPool(volumes, wide, Changes(), PoolSize(2, (8, 40, 40), 8), CPU, seed=0)
    pool.batch(1)
    batch = pool.batch(6)
    assert batch.decoded.shape == (6, 3, 64, 64) and batch.original.shape == (6, 1, 64, 64)
    counted = batch.inside.sum((1, 2, 3))
    assert ((counted > 0) & (counted <= 40 * 36)).all()
    first = [id(brick) for brick in pool.bricks]
    pool.batch(8)
    assert id(pool.bricks[0]) == first[1]


def test_the_variance_gives_the_mean_no_gradient(pack):
    volumes = read_pack(training_file(pack, DOMAIN.name))
    pool = BrickPool(volumes, DOMAIN, Changes(), PoolSize(2, (8, 40, 40), 8), CPU, seed=0)
    net = Checkpoint.new(SMALL, 0).net
    found = losses(net, pool.batch(4))
    assert torch.allclose(found.mean, found.wavelet)  # first weights correct nothing
    found.variance.backward()
    gradient = net.conv_out.weight.grad
    assert gradient[0].abs().max() == 0 and gradient[1].abs().max() > 0


@pytest.mark.slow
def test_training_helps_on_what_it_sees():
    clean = [np.rint(anatomy((12, 48, 48), seed, noise=0) * 300) / 300 for seed in range(3)]
    volumes = [Packed.of("v", v.astype(np.float32), 512, isotropic=False) for v in clean]
    coarse = replace(DOMAIN, steps=(0.2, 0.3))
    pool = BrickPool(volumes, coarse, Changes(), PoolSize(6, (12, 48, 48), 1000), CPU, seed=0)
    state = Checkpoint.new(SMALL, 0)
    pace = replace(Pace.on(CPU), learning_rate=1e-2, warmup=5, ema_decay=0.9)
    train(state, pool, pace, 600, steps=80, save=lambda _: None, report=lambda _: None)
    batch = pool.batch(32)
    found, first = losses(state.mean, batch), losses(Checkpoint.new(SMALL, 0).net, batch)
    assert found.mean < 0.9995 * found.wavelet
    assert found.variance < first.variance


def test_a_run_goes_on_from_its_checkpoint_and_leaves_few_small_files(pack, tmp_path):
    out = tmp_path / "out"
    run(small_run(pack, out, 6))
    first = Checkpoint.load(checkpoint_file(out, DOMAIN.name))
    scores = run(small_run(pack, out, 6))[DOMAIN.name]
    second = Checkpoint.load(checkpoint_file(out, DOMAIN.name))
    assert (first.steps, second.steps) == (6, 12) and second.seconds > first.seconds
    elsewhere = tmp_path / "elsewhere"
    run(small_run(pack, elsewhere, 3, resume=out))
    assert Checkpoint.load(checkpoint_file(elsewhere, DOMAIN.name)).steps == 15
    files = [path for path in out.iterdir() if path.is_file()]
    assert len(files) == len(list(out.rglob("*"))) <= MOST_FILES - 4  # two domains, two checks more
    assert all(path.stat().st_size < MOST_BYTES for path in files)
    document = json.loads((out / "results.json").read_text())["scores"][DOMAIN.name]
    assert [s["volume"] for s in document] == ["patient12_T1W"] * 2 == [s.volume for s in scores]
    assert "no CUDA device" in (out / "log.txt").read_text()
    assert "| mr-head | patient12_T1W | 0.100 |" in (out / "results.md").read_text()


def test_first_weights_score_as_the_wavelet_does(pack):
    volumes = read_pack(held_out_file(pack, DOMAIN.name))
    net = Checkpoint.new(SMALL, 0).net
    for score in measure(net, volumes, slices=0, seconds=60):
        assert score.gain_db == pytest.approx(0, abs=1e-3) and score.slices == 12
        assert score.nats >= score.nats_flat - 1e-3 and 0 < score.within_1 <= score.within_2 <= 1


@pytest.mark.slow
def test_a_killed_run_loses_nothing_but_the_last_moments(pack, tmp_path):
    out, words = tmp_path / "out", [sys.executable, "-c", KILLED, str(pack), str(tmp_path / "out")]
    path = checkpoint_file(out, DOMAIN.name)
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as process:
        waited = time.monotonic() + 120
        while not path.is_file() and time.monotonic() < waited and process.poll() is None:
            time.sleep(0.05)
        time.sleep(0.3)  # anywhere, perhaps while writing the next one
        process.kill()
    saved = Checkpoint.load(path)
    assert saved.steps > 0
    run(small_run(pack, out, 4))
    assert Checkpoint.load(path).steps == saved.steps + 4
    assert not list(out.glob("*.part"))


def on_a_training_machine(*words: object) -> str:
    """What the program says where torch, numpy and safetensors are all there is."""
    done = subprocess.run(
        [sys.executable, "-c", BARE, *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_torch_numpy_and_safetensors_are_enough_to_start():
    assert "--checkpoint-seconds" in on_a_training_machine("train", "--help")


@pytest.mark.slow
def test_torch_numpy_and_safetensors_are_enough_to_train(pack, tmp_path):
    on_a_training_machine(
        "train", "--pack", pack, "--out", tmp_path, "--minutes", 0.05, "--threads", 1,
        "--device", "cpu", "--no-checks", "--held-out-slices", 1, "--domains", "mr-head",
    )  # fmt: skip
    assert checkpoint_file(tmp_path, "mr-head").is_file()


BARE = """
import sys
for name in (
    "constriction", "dask", "diffusers", "einops", "fsspec", "imagecodecs", "monai", "msgspec",
    "nibabel", "numba", "numcodecs", "pandas", "prefect", "pydicom", "rich", "typer", "xarray",
    "zarr",
):
    sys.modules[name] = None
from pipelines.training.posterior.__main__ import main
import pipelines.development.benchmark
sys.exit(main(sys.argv[1:]))
"""

KILLED = """
import sys
from pathlib import Path
from tests.pipelines.test_posterior import small_run
from pipelines.training.posterior.runs import run
run(small_run(Path(sys.argv[1]), Path(sys.argv[2]), 100_000, checkpoint_seconds=0.2))
"""


def test_checkpoints_of_the_real_networks_are_small(tmp_path):
    for domain in DOMAINS.values():
        path = tmp_path / "one.safetensors"
        Checkpoint.new(domain.shape, 0).save(path)
        assert path.stat().st_size < MOST_BYTES
        assert sum(p.numel() for p in PosteriorNet(domain.shape).parameters()) < 900_000


def test_networks_become_programs_that_the_converter_knows():
    net = Checkpoint.new(SMALL, 3).net
    torch.nn.init.normal_(net.conv_out.weight)
    torch.nn.init.normal_(net.depth.weight)
    steps = (0.03, 0.2)
    program = from_posterior(net, steps, tile=16)
    assert {step.op for step in program.steps} <= {"conv", "fold", "unfold"}
    decoded = torch.rand(2, 3, 16, 16)
    for level in range(len(steps) * DEPTHS):
        step, depth = torch.full((2,), steps[level // DEPTHS]), torch.full((2,), level % DEPTHS)
        x = net.features(decoded, step)
        with torch.no_grad():
            expected = net(x, step, depth)
        found = program.run(x.double(), level).float()
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_what_is_no_pack_and_no_checkpoint_is_refused(tmp_path, capsys):
    missing = tmp_path / "none"
    assert command.main(["train", "--pack", str(missing), "--out", str(tmp_path / "out")]) == 1
    assert "make train-pack" in capsys.readouterr().err
    other = tmp_path / "other.safetensors"
    write_pack(other, [Packed.of("v", anatomy((2, 16, 16)), 64, isotropic=False)])
    with pytest.raises(FormatError) as caught:
        Checkpoint.load(other)
    assert caught.value.kind == "bad-checkpoint"
