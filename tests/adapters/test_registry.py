import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import adapters
from adapters import RestoredVolume, SourceError
from adapters.base import Candidate
from adapters.source_files import file_records, safe_name, safe_target


def test_import_loads_no_format_library():
    code = (
        "import sys, adapters; "
        "print([m for m in ('pydicom', 'nibabel', 'netCDF4', 'h5py', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_empty_folder_has_nothing(tmp_path):
    with pytest.raises(SourceError) as caught:
        adapters.discover(tmp_path)
    assert caught.value.kind == "nothing-found" and "found no files" in str(caught.value)


def test_folder_without_sources_says_what_it_found(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "b.nii").write_text("text")
    with pytest.raises(SourceError) as caught:
        adapters.discover(tmp_path)
    assert caught.value.kind == "nothing-found" and "2 file(s)" in str(caught.value)


def test_folders_that_cannot_be_read_are_named(tmp_path, write_nifti, monkeypatch):
    """What may hold data is never passed over in silence; root reads everything, so it is told."""
    write_nifti(tmp_path / "good.nii")
    for name in ("closed", "listed"):
        (tmp_path / name).mkdir()
        write_nifti(tmp_path / name / "a.nii")
    scandir, stat = os.scandir, Path.stat

    def closed(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    def listed(self, **options):
        if self.parent.name == "listed":
            raise PermissionError(13, "Permission denied", str(self))
        return stat(self, **options)

    monkeypatch.setattr(os, "scandir", closed)
    monkeypatch.setattr(Path, "stat", listed)
    found = adapters.discover(tmp_path)
    assert [candidate.name for candidate in found.candidates] == ["good"]
    assert {(entry.path.name, entry.kind) for entry in found.skipped} == {
        ("closed", "unreadable"),
        ("a.nii", "unreadable"),
    }


def test_missing_path_and_unknown_format(tmp_path):
    with pytest.raises(SourceError) as caught:
        adapters.discover(tmp_path / "nowhere")
    assert caught.value.kind == "not-found"
    with pytest.raises(SourceError) as caught:
        adapters.open_source(Candidate("tiff", "x", (), "x"))
    assert caught.value.kind == "unknown-format"


def test_all_formats_in_one_folder(tmp_path, write_series, write_nifti, write_netcdf):
    write_series(tmp_path / "deep" / "series")
    write_nifti(tmp_path / "same.nii.gz")
    write_nifti(tmp_path / "other" / "same.nii")
    write_netcdf(tmp_path / "grid.nc")
    (tmp_path / "README").write_text("not a source")
    found = adapters.discover(tmp_path)
    kinds = sorted(candidate.kind for candidate in found.candidates)
    assert kinds == ["dicom", "netcdf", "nifti", "nifti"]
    places = {str(candidate.place) for candidate in found.candidates}
    assert places == {"None", "grid.nc", "other/same.nii", "same.nii.gz"}
    assert [entry.path.name for entry in found.skipped] == ["README"]
    for candidate in found.candidates:
        assert adapters.open_source(candidate).name == candidate.name


def test_error_survives_a_worker_border():
    error = SourceError("broken", kind="damaged", path=Path("a/b"), hint="mend it")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.kind, copy.path, copy.hint) == (
        "'a/b': broken; mend it",
        "damaged",
        Path("a/b"),
        "mend it",
    )


def test_restored_region_must_lie_inside():
    with pytest.raises(SourceError) as caught:
        RestoredVolume("image", np.zeros((2, 3)), (4, 0), (5, 3))
    assert caught.value.kind == "bad-region"


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "", "a\\..\\x"])
def test_stored_names_cannot_leave_the_target(tmp_path, name):
    with pytest.raises(SourceError) as caught:
        safe_target(tmp_path, name)
    assert caught.value.kind == "unsafe-name"


def test_names_are_reduced_to_safe_letters():
    assert safe_name("../a b/ü.nii", "x") == "a_b_.nii"
    assert safe_name("...", "x") == "x"


def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "scan.nii"
    os.mkfifo(pipe)
    with pytest.raises(SourceError, match="pipe") as caught:
        file_records([pipe])
    assert caught.value.kind == "unreadable"
