"""Promises in a source document are looked at before they are believed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from adapters.base import IDENTICAL, Promise, WrittenFile
from pipelines.restoring.proof import prove
from psc_volumetric.archive import SourceFile
from psc_volumetric.errors import FormatError

GOOD = Promise(IDENTICAL).to_dict()


@pytest.mark.parametrize(
    "promises",
    [3, "identical", {}, [3], [{"kind": 1}], [{}], [GOOD, GOOD], [{**GOOD, "sha256": ["a"]}]],
)
def test_what_is_no_promise_is_refused(tmp_path: Path, promises: Any) -> None:
    path = tmp_path / "a.nii"
    path.write_bytes(b"abc")
    with pytest.raises(FormatError) as caught:
        prove("nifti", [WrittenFile(path, 0, IDENTICAL)], [SourceFile("a", 3, "0" * 64)], promises)
    assert caught.value.kind == "bad-metadata"
    assert not path.exists()


def test_a_file_of_no_source_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    path.write_bytes(b"abc")
    with pytest.raises(FormatError):
        prove("nifti", [WrittenFile(path, 1, IDENTICAL)], [SourceFile("a", 3, "0" * 64)], [GOOD])
