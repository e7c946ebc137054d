"""The method ``latent``: bricks of its own kind, what a prompt does, what is refused."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from typer.testing import CliRunner

from adapters.dicom.words import words_of
from pipelines.archiving.options import ArchiveOptions
from pipelines.cli import app
from pipelines.training.latent import pictures
from psc_volumetric.archive.reader import ArchiveReader
from psc_volumetric.codec import BrickOptions, decode_brick, encode_brick
from psc_volumetric.errors import FormatError, ParameterError, PriorMismatchError
from psc_volumetric.methods.latent.fields import LatentFields
from psc_volumetric.methods.latent.parameters import latent_parameters
from psc_volumetric.methods.latent.prompt import pack_prompt, unpack_prompt
from psc_volumetric.methods.parameters import CodecParameters
from psc_volumetric.methods.protocol import Resources
from psc_volumetric.methods.psc.denoiser import Denoiser
from psc_volumetric.prior import Prior, load_prior, resolve_prior
from psc_volumetric.prior.smooth_text import SmoothReader
from psc_volumetric.prior.text_runtime import TextRuntime
from psc_volumetric.values.mapping import IntensityMapping
from psc_volumetric.views import ViewRequest
from psc_volumetric.views.brick import BrickViews

QUICK = CodecParameters(effort=1, step=1)
WHOLE = (slice(None),) * 3


def coded(values: np.ndarray, prior: Prior, parameters: CodecParameters = QUICK):
    z, y, x = values.shape
    return encode_brick(
        values, position=(0, 0, 0), shape=(z, -(-y // 64) * 64, -(-x // 64) * 64),
        mapping=IntensityMapping(-1000, 1000), parameters=parameters, prior=prior,
        options=BrickOptions(base="latent"),
    )  # fmt: skip


def decoded(data: bytes, level: int | None = None) -> np.ndarray:
    read = lambda start, length: data[start : start + length]  # noqa: E731
    return decode_brick(read, selection=WHOLE, level=level, prior=resolve_prior).values


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return (1000 * pictures(1, 99, 64)[:, 0]).astype("<i2")


@pytest.fixture(scope="module")
def told() -> Prior:
    return load_prior("test-tiny-latent").told("CT of the chest")


def test_rows_bring_the_picture_nearer(picture: np.ndarray, told: Prior) -> None:
    brick = coded(picture, told, CodecParameters(effort=3, step=0.25))
    error = [np.mean((decoded(brick.data, k).astype(float) - picture) ** 2) for k in (0, 1)]
    assert error[1] < 0.6 * error[0]
    assert np.array_equal(decoded(brick.data), brick.last)


def test_a_prompt_is_in_the_stream_and_is_heard(picture: np.ndarray, told: Prior) -> None:
    brick, silent = coded(picture, told), coded(picture, replace(told, prompt=()))
    sizes = [b.index.section("base").nbytes for b in (brick, silent)]
    assert sizes == [1 + math.ceil(len(told.prompt) * math.log2(542) / 8), 0]
    first = [decoded(b.data, 0) for b in (brick, silent)]
    assert not np.array_equal(*first)


def test_an_image_smaller_than_a_tile(told: Prior) -> None:
    values = np.arange(35, dtype="<u2").reshape(1, 5, 7) * 20
    brick = coded(values, told)
    assert decoded(brick.data).shape == (1, 5, 7)
    assert np.array_equal(decoded(brick.data), brick.last)


def test_the_papers_setting() -> None:
    found = latent_parameters(CodecParameters(setting="paper", rounds=4), 1000, 16384, 7)
    assert (found.particles, found.rows_per_round, len(found.noise_levels)) == (64, 48, 25)
    assert found.level_ends == (4,) and found.restorations == 1
    few = latent_parameters(CodecParameters(effort=1, step=1e-3), 20, 256, 7)
    assert few.level_ends[-1] * few.rows_per_round <= 256


@pytest.mark.parametrize("tokens", [(), (0,), (541,), (0, 0, 541), (541,) * 254])
def test_prompts_are_coded_in_as_many_bytes_as_they_need(tokens: tuple[int, ...]) -> None:
    data = pack_prompt(tokens, 542)
    assert unpack_prompt(data, 542, "x") == tokens
    for wrong in (data + b"\0", data[:-1] or b"\1", b"\0" + data[1:], b"\xff" * (len(data) or 2)):
        with pytest.raises(FormatError) as caught:
            unpack_prompt(wrong, 542, "x")
        assert caught.value.kind == "bad-prompt"
    if tokens:
        with pytest.raises(FormatError):
            unpack_prompt(data, 0, "x")


def test_priors_of_other_kinds_are_refused(picture: np.ndarray, told: Prior) -> None:
    with pytest.raises(PriorMismatchError) as caught:
        coded(picture, load_prior("test-tiny"))
    assert caught.value.kind == "prior-mismatch"
    for base in ("psc", "posterior"):
        with pytest.raises(PriorMismatchError) as caught:
            encode_brick(
                picture, position=(0, 0, 0), shape=(1, 64, 64), prior=told, parameters=QUICK,
                mapping=IntensityMapping(-1000, 1000), options=BrickOptions(base=base),
            )  # fmt: skip
        assert caught.value.kind == "prior-mismatch"
    data = coded(picture, told).data
    read = lambda start, length: data[start : start + length]  # noqa: E731
    with pytest.raises(PriorMismatchError):
        decode_brick(read, selection=WHOLE, prior=lambda digest: load_prior("test-tiny"))
    embedded = replace(told, analysis=None)
    with pytest.raises(ParameterError, match="from pixels to latents"):
        coded(picture, embedded)


def test_work_that_nobody_paid_for_is_refused(picture: np.ndarray, told: Prior) -> None:
    fields = coded(picture, told).index.fields
    assert isinstance(fields, LatentFields)
    fields.check_work()
    many = replace(fields.parameters, particles=64, noise_levels=tuple(range(19, -1, -1)),
                   level_ends=(64,))  # fmt: skip
    with pytest.raises(FormatError) as caught:
        replace(fields, parameters=many).check_work()
    assert caught.value.kind == "limit"
    with pytest.raises(FormatError) as caught:
        replace(fields, words=((0,),)).check_work()
    assert caught.value.kind == "bad-parameter"


def test_what_dicom_says_is_in_words_of_a_list() -> None:
    ds = Dataset()
    ds.Modality, ds.BodyPartExamined = "MR", "HEAD"
    ds.ProtocolName, ds.SeriesDescription = "DOE^JANE t1_mprage", "Dr. Smith 1965 SAG"
    assert words_of(ds) == "mri scan of the head, t1 weighted, sagittal"
    ds.Modality, ds.BodyPartExamined = "DOE", "JANE DOE"
    assert words_of(ds) == "scan, t1 weighted, sagittal"
    assert words_of(Dataset()) == "scan"


def test_a_prompt_is_for_the_base_latent() -> None:
    with pytest.raises(ParameterError) as caught:
        ArchiveOptions(mode="lossy", base="wavelet", prompt="head")
    assert caught.value.kind == "bad-prompt"
    assert ArchiveOptions(mode="lossy", base="latent", prompt="head").prompt == "head"


def dicom_file(folder: Path, rows: int = 20, columns: int = 30) -> Path:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.Modality = "1.2.840.10008.5.1.4.1.1.2", "CT"
    ds.SOPInstanceUID, ds.SeriesInstanceUID, ds.StudyInstanceUID = "1.2.3", "1.2.4", "1.2.5"
    ds.BodyPartExamined, ds.SeriesDescription = "CHEST", "Lung of Jane Doe"
    ds.PatientName, ds.InstanceNumber = "Doe^Jane", 1
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.SliceThickness = [1, 1], 1
    ds.Rows, ds.Columns, ds.SamplesPerPixel = rows, columns, 1
    ds.PhotometricInterpretation, ds.PixelRepresentation = "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
    ds.PixelData = (np.arange(rows * columns) % 97 * 20).astype("<u2").tobytes()
    ds["PixelData"].VR = "OW"
    folder.mkdir()
    ds.save_as(folder / "a.dcm", enforce_file_format=True)
    return folder


LATENT = ("--mode", "lossy", "--base", "latent", "--prior", "test-tiny-latent", "--effort", "1")


def test_a_prompt_that_nothing_is_coded_by_is_held_to_its_rules_and_not_kept(
    tmp_path: Path,
) -> None:
    """Planes smaller than lossy methods take are kept exactly; what was typed stays out."""
    small, target = tmp_path / "small.nii", tmp_path / "a.psc.zarr"
    values = np.arange(90, dtype=np.int16).reshape(6, 5, 3) * 7
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), small)
    series = dicom_file(tmp_path / "series", 5, 6)
    for source, prompt in ((small, "head " * 2000), (series, "Jane Doe")):
        told = CliRunner().invoke(
            app, ["archive", str(source), str(target), *LATENT, "--prompt", prompt]
        )
        assert told.exit_code and "bad-prompt" in told.stderr and not target.exists()
    words = ["archive", str(small), str(target), *LATENT, "--prompt", "unsaid words"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.stderr
    held = [path.read_bytes() for path in target.rglob("*") if path.is_file()]
    assert held and not any(b"unsaid" in content for content in held)


def test_a_typed_prompt_is_in_no_log_and_no_text_of_a_stripped_copy(tmp_path: Path) -> None:
    """The log says that there was one, and `status` still finds the source archived."""
    scans, target = tmp_path / "scans", tmp_path / "archives"
    scans.mkdir()
    values = (np.arange(20 * 30 * 2, dtype=np.int16) % 97 * 20).reshape(30, 20, 2)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), scans / "a.nii")
    words = ["archive", str(scans), str(target), *LATENT, "--prompt", "head of zacharias"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.stderr
    log = (tmp_path / "archives.events.jsonl").read_text()
    (event,) = map(json.loads, log.splitlines())
    assert "zacharias" not in log and event["prompted"] and event["options"]["base"] == "latent"
    told = CliRunner().invoke(app, ["status", str(target), "--json"])
    assert told.exit_code == 0 and json.loads(told.stdout)["missing"] == [], told.output
    copy = tmp_path / "share.psc.zarr"
    done = CliRunner().invoke(app, ["strip", str(target / "a.psc.zarr"), str(copy), "--json"])
    assert done.exit_code == 0 and "image:prompt" in json.loads(done.stdout)["left_out"]
    texts = [path.read_bytes() for path in copy.rglob("*.json")]
    assert texts and not any(b"zacharias" in text for text in texts)


def test_dicom_says_its_own_prompt_and_takes_no_other(tmp_path: Path) -> None:
    source, target = dicom_file(tmp_path / "series"), tmp_path / "a.psc.zarr"
    told = CliRunner().invoke(
        app, ["archive", str(source), str(target), *LATENT, "--prompt", "Jane Doe"]
    )
    assert told.exit_code and "bad-prompt" in told.stderr and not target.exists()
    done = CliRunner().invoke(app, ["archive", str(source), str(target), *LATENT])
    assert done.exit_code == 0, done.stderr
    with ArchiveReader.open(target) as reader:
        (about,) = reader.info()["variables"].values()
    assert about["parameters"]["prompt"] == "ct scan of the chest, lung"
    shown = [
        path.read_bytes()
        for path in target.rglob("*")
        if path.is_file() and "source" not in path.parts
    ]
    assert not any(b"Jane" in data or b"Doe" in data for data in shown)


@pytest.mark.slow
def test_an_archive_decodes_alike_in_a_process_that_has_its_bytes_alone(tmp_path: Path) -> None:
    source, target = dicom_file(tmp_path / "series"), tmp_path / "a.psc.zarr"
    done = CliRunner().invoke(app, ["archive", str(source), str(target), *LATENT])
    assert done.exit_code == 0, done.stderr
    program = (
        "import sys, hashlib; from pathlib import Path; import psc_volumetric.prior.bundle as b;"
        "b.SHIPPED_LATENTS = Path('nowhere');"  # the prior comes from the archive
        "from psc_volumetric.archive.reader import ArchiveReader as R;"
        "r = R.open(sys.argv[1]); (n,) = r.info()['variables'];"
        "print(hashlib.sha256(r.read_region(n).values.tobytes()).hexdigest())"
    )
    fresh = subprocess.run(
        [sys.executable, "-c", program, str(target)], cwd=tmp_path, capture_output=True, text=True,
        timeout=120, check=True,
    )  # fmt: skip
    with ArchiveReader.open(target) as reader:
        (name,) = reader.info()["variables"]
        here = hashlib.sha256(reader.read_region(name).values.tobytes()).hexdigest()
    assert fresh.stdout.strip() == here


def test_smooth_network_is_near_the_integers(told: Prior) -> None:
    assert told.space is not None
    register = told.space.register(told.prompt)
    smooth = SmoothReader(told, register)
    whole = Denoiser(told, "cpu", TextRuntime(told.program, register))
    drawn = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(1))
    x = torch.round(drawn * 2048)
    for level in (0, 7, 19):
        exact = whole.denoise(x.int(), level).float()
        found = smooth(x, float(level))
        assert 0 < float(((found - exact) ** 2).mean() / (exact**2).mean()) < 1e-3


@pytest.mark.slow
def test_views_are_drawn_in_the_latent_space(picture: np.ndarray, told: Prior) -> None:
    brick = coded(picture, told, CodecParameters(effort=3, step=1))
    read = lambda start, length: brick.data[start : start + length]  # noqa: E731
    views = BrickViews(read, brick.index, Resources(lambda digest: told))
    found = {name: views.view(ViewRequest(name, 3)) for name in ("mean", "sample", "pigdm")}
    assert found["mean"].contradictions == found["sample"].contradictions == 0
    assert np.array_equal(found["mean"].values, brick.last)
    errors = {n: np.mean((f.values.astype(float) - picture) ** 2) for n, f in found.items()}
    assert len(set(errors.values())) == 3 and max(errors.values()) < 3 * errors["mean"]
    again = views.view(ViewRequest("sample", 3)).values
    assert np.array_equal(again, found["sample"].values)
    assert not np.array_equal(again, views.view(ViewRequest("sample", 4)).values)
