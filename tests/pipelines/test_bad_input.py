"""Bad input: a clear error, the right exit code, and nothing that is left half-written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import pydicom
import pytest

from adapters.isolation import process

PYDICOM_FILES = Path(pydicom.__file__).parent / "data" / "test_files"
NIBABEL_FILES = Path(nibabel.__file__).parent / "tests" / "data"

Run = Callable[..., Any]


def truncated_dicom(folder: Path) -> Path:
    path = folder / "cut.dcm"
    path.write_bytes((PYDICOM_FILES / "CT_small.dcm").read_bytes()[:20_000])
    return path


def text_as_nifti(folder: Path) -> Path:
    path = folder / "notes.nii"
    path.write_text("this is not an image\n" * 40)
    return path


def truncated_nifti(folder: Path) -> Path:
    path = folder / "cut.nii"
    path.write_bytes((NIBABEL_FILES / "anatomical.nii").read_bytes()[:30_000])
    return path


def empty_folder(folder: Path) -> Path:
    path = folder / "nothing"
    path.mkdir()
    return path


def missing_file(folder: Path) -> Path:
    return folder / "absent.nii"


@pytest.mark.parametrize(
    "make",
    [
        truncated_dicom,
        text_as_nifti,
        truncated_nifti,
        empty_folder,
        missing_file,
    ],
)
def test_bad_source_is_refused_and_leaves_nothing(make, tmp_path, run, coded):
    source = make(tmp_path)
    target = tmp_path / "out" / "x.psc.zarr"
    outcome = run("archive", source, target, *coded, "--json")
    assert outcome.code == 3, outcome.err
    lines = outcome.err.splitlines()
    assert lines[0].startswith("error[")
    assert len(lines) <= 2
    assert "Traceback" not in outcome.err
    assert outcome.document["error"]["exit_code"] == 3
    assert not target.exists()
    assert not target.parent.exists()


def test_one_bad_file_does_not_stop_the_others(label_map: Path, tmp_path: Path, run: Run):
    folder = tmp_path / "mixed"
    folder.mkdir()
    truncated_dicom(folder)
    text_as_nifti(folder)
    (folder / "labels.nii").write_bytes(label_map.read_bytes())
    (folder / "README").write_text("what these files are")
    outcome = run("archive", folder, tmp_path / "out", "--mode", "lossy", "--json")
    assert outcome.code == 8, outcome.err
    skipped = {Path(e["path"]).name: e["holds_data"] for e in outcome.document["skipped"]}
    assert skipped == {"cut.dcm": True, "notes.nii": True, "README": False}
    errors = [line for line in outcome.err.splitlines() if line.startswith("error[")]
    assert ["cut.dcm" in errors[0], "notes.nii" in errors[1], len(errors)] == [True, True, 2]
    assert "README" not in outcome.err
    assert (tmp_path / "out" / "labels.psc.zarr" / "manifest.json").exists()


def test_unknown_prior_is_refused_before_anything_is_written(
    sources: dict[str, Path], tmp_path: Path, run: Run
):
    target = tmp_path / "x.psc.zarr"
    outcome = run(
        "archive", sources["nifti"], target, "--mode", "lossy", "--prior", "no-such-prior"
    )
    assert outcome.code == 5
    assert "error[unknown-prior]" in outcome.err
    assert "hint: " in outcome.err
    assert not target.exists()


def test_existing_target_is_never_replaced(label_map: Path, label_archive: Path, run: Run):
    before = {p: p.read_bytes() for p in label_archive.rglob("*") if p.is_file()}
    outcome = run("archive", label_map, label_archive, "--mode", "lossy")
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("already ")
    other = run("archive", label_map, label_archive, "--mode", "lossless")
    assert other.code == 6
    assert "error[target-exists]" in other.err and "other settings" in other.err
    another = run("archive", NIBABEL_FILES / "anatomical.nii", label_archive, "--mode", "lossy")
    assert another.code == 6
    assert "error[target-exists]" in another.err
    assert {p: p.read_bytes() for p in label_archive.rglob("*") if p.is_file()} == before


def test_target_that_is_something_else_is_left_alone(label_map: Path, tmp_path: Path, run: Run):
    folder = tmp_path / "mine.psc.zarr"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    outcome = run("archive", label_map, folder, "--mode", "lossy")
    assert outcome.code == 6
    assert [p.name for p in folder.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (("--mode", "exact"), "bad-mode"),
        (("--mode", "bounded"), "bound-missing"),
        (("--mode", "bounded", "--max-error", "0"), "bad-bound"),
        (("--mode", "bounded", "--max-error", "-2"), "bad-bound"),
        (("--mode", "bounded", "--max-error", "nan"), "bad-bound"),
        (("--mode", "bounded", "--max-error", "inf"), "bad-bound"),
        (("--mode", "bounded", "--max-error", "2", "--max-error-unit", "hu"), "bad-bound"),
        (("--max-error", "1", "--max-error-unit", "relative"), "bad-bound"),
        (("--mode", "lossy", "--max-error", "2"), "bound-without-guarantee"),
        (("--mode", "lossy", "--bpv", "0"), "bad-bpv"),
        (("--mode", "lossy", "--bpv", "nan"), "bad-bpv"),
        (("--mode", "lossy", "--bpv", "65"), "bad-bpv"),
        (("--mode", "lossy", "--psnr", "-3"), "bad-psnr"),
        (("--mode", "lossy", "--psnr", "1000"), "bad-psnr"),
        (("--mode", "lossy", "--psnr", "40", "--bpv", "1"), "several-targets"),
        (("--bpv", "0.5"), "target-without-loss"),
        (("--step", "0.5"), "target-without-loss"),
        (("--mode", "lossy", "--preview", "psc"), "bad-preview"),
        (("--preview", "jpeg"), "bad-preview"),
        (("--mode", "lossy", "--base", "dct"), "bad-base"),
        (("--coders", "gzip"), "bad-coder"),
        (("--roi-lossless", "z=0:2"), "needless-roi"),
        (("--mode", "lossy", "--effort", "10"), "bad-effort"),
        (("--mode", "lossy", "--step", "0"), "bad-step"),
        (("--mode", "lossy", "--setting", "slow"), "bad-setting"),
        (("--mode", "lossy", "--device", "tpu"), "bad-device"),
        (
            (
                "--mode",
                "lossy",
                "--no-such-option",
            ),
            "usage",
        ),
    ],
)
def test_wrong_parameters_are_usage_errors(words, kind, label_map, tmp_path, capsys):
    from pipelines.cli import main

    with pytest.raises(SystemExit) as stop:
        main(["archive", str(label_map), str(tmp_path / "x.psc.zarr"), *words])
    assert stop.value.code == 2
    assert f"error[{kind}]" in capsys.readouterr().err
    assert not (tmp_path / "x.psc.zarr").exists()


def test_several_items_need_a_folder(label_map: Path, tmp_path: Path, run: Run):
    folder = tmp_path / "two"
    folder.mkdir()
    for name in ("a.nii", "b.nii"):
        (folder / name).write_bytes(label_map.read_bytes())
    outcome = run("archive", folder, tmp_path / "x.psc.zarr", "--mode", "lossy")
    assert outcome.code == 2
    assert "error[several-items]" in outcome.err


def restored_nothing(run: Run, archive: Path, *words: str) -> tuple[int, str]:
    target = archive.parent / "back.nii"
    outcome = run("restore", archive, target, *words)
    assert not target.exists()
    assert "Traceback" not in outcome.err
    return outcome.code, outcome.err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--roi", "z=0:26"), "0:25"),
        (("--roi", "z=25"), "0:25"),
        (("--roi", "q=0:2"), "'z', 'y', 'x'"),
        (("--roi-mm", "x=9000:9001"), "which spans"),
        (("--roi-coords", "z=9000:9001"), "from"),
        (("--roi", "z=0:2", "--roi-mm", "x=0:1"), "one region"),
        (("--variable", "nope"), "image"),
        (("--level", "-1"), "level"),
    ],
)
def test_wrong_region_is_refused_with_the_valid_range(words, text, label_archive, run):
    code, err = restored_nothing(run, label_archive, *words)
    assert code == 2
    assert text in err


def test_restore_never_replaces_a_file(label_archive: Path, run: Run):
    target = label_archive.parent / "back.nii"
    target.write_text("mine")
    outcome = run("restore", label_archive, target)
    assert outcome.code == 6
    assert target.read_text() == "mine"


def first_brick(archive: Path) -> Path:
    return next(p for p in sorted((archive / "image" / "c").rglob("*")) if p.is_file())


def test_flipped_byte_is_found_and_never_restored(label_archive: Path, run: Run):
    path = first_brick(label_archive)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(bytes(data))
    code, err = restored_nothing(run, label_archive)
    assert code == 4
    assert "image/c/0/0/0" in err
    checked = run("verify", label_archive, "--deep", "--json")
    assert checked.code == 7
    assert not checked.document["ok"]
    assert {finding["key"] for finding in checked.document["findings"]} == {"image/c/0/0/0"}
    assert any(finding["roi"] for finding in checked.document["findings"])


def test_missing_brick_is_an_error_and_never_fill_value(label_archive: Path, run: Run):
    first_brick(label_archive).unlink()
    code, err = restored_nothing(run, label_archive)
    assert code == 4
    assert "error[missing-key]" in err
    assert run("verify", label_archive).code == 7


def test_archive_without_its_seal_is_refused(label_archive: Path, run: Run):
    (label_archive / "manifest.json").unlink()
    code, err = restored_nothing(run, label_archive)
    assert code == 4
    assert "error[not-sealed]" in err
    assert run("info", label_archive).code == 4
    assert run("verify", label_archive).code == 4


def test_archive_cut_in_the_middle_is_refused(label_map: Path, tmp_path: Path, run: Run):
    whole = tmp_path / "labels.psc.zarr.zip"
    assert run("archive", label_map, whole, "--mode", "lossy").code == 0
    cut = tmp_path / "cut.psc.zarr.zip"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    code, err = restored_nothing(run, cut)
    assert code == 4
    assert "error[not-an-archive]" in err


def test_brick_cut_in_the_middle_is_refused(label_archive: Path, run: Run):
    path = first_brick(label_archive)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    code, err = restored_nothing(run, label_archive)
    assert code == 4
    assert "error[wrong-size]" in err


def test_nothing_at_the_path(tmp_path: Path, run: Run):
    assert run("info", tmp_path / "absent.psc.zarr").code == 6
    assert run("restore", tmp_path / "absent.psc.zarr", tmp_path / "back").code == 6
    assert run("prior", "inspect", "no-such-prior").code == 5


def test_nothing_is_written_into_an_archive(
    label_map: Path, label_archive: Path, tmp_path: Path, run: Run
):
    """A restore into one made it fail its own verification."""
    before = sorted(label_archive.rglob("*"))
    link = tmp_path / "link"
    link.symlink_to(label_archive)
    for words in (
        ("restore", label_archive, label_archive / "out.nii"),
        ("restore", label_archive, label_archive),
        ("restore", label_archive, link / "deep" / "out.nii"),
        ("archive", label_map, label_archive / "other.psc.zarr", "--coders", "zstd"),
        ("archive", label_map, link / "other.psc.zarr.zip", "--coders", "zstd"),
        ("sigma", label_archive, label_archive / "sigma.npy"),
        ("strip", label_archive, label_archive / "stripped.psc.zarr"),
    ):
        outcome = run(*words)
        assert outcome.code == 6, (words, outcome.err)
        assert "error[within-archive]" in outcome.err
    assert sorted(label_archive.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [
        ("SOURCE_DATE_EPOCH", "yesterday", 2),
        ("SOURCE_DATE_EPOCH", "9" * 30, 2),
        ("PSC_ARCHIVE_READER_SECONDS", "9" * 400, 3),
        ("PSC_ARCHIVE_READER_MEMORY_MB", "0", 3),
    ],
)
def test_bad_settings_of_the_environment_are_named(
    name: str,
    text: str,
    code: int,
    label_map: Path,
    tmp_path: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv(name, text)
    monkeypatch.setattr(process, "_processes", {})
    outcome = run("archive", label_map, tmp_path / "x.psc.zarr", "--coders", "zstd")
    assert outcome.code == code, outcome.err
    assert name in outcome.err and "error[internal]" not in outcome.err
    assert not (tmp_path / "x.psc.zarr").exists()


@pytest.mark.parametrize("words", [("verify",), ("ls",), ("restore", "out.nii")])
def test_names_do_not_steer_a_terminal(words, tmp_path, run):
    name = tmp_path / "a\x1b]0;title\x07\x9b2J.psc.zarr"
    outcome = run(words[0], name, *words[1:])
    assert outcome.code == 6 and r"\x1b]0;title\x07\x9b2J" in outcome.err
    assert not {"\x1b", "\x07", "\x9b"} & set(outcome.err + outcome.out)
