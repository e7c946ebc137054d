from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file

import adapters
from adapters import SourceError


def test_truncated_file_is_refused_and_takes_its_series_along(tmp_path, write_series):
    write_series(tmp_path)
    victim = tmp_path / "IM003.dcm"
    victim.write_bytes(victim.read_bytes()[:-100])
    with pytest.raises(SourceError) as caught:
        adapters.discover(victim)
    assert caught.value.kind == "truncated" and "found 860" in str(caught.value)
    with pytest.raises(SourceError) as caught:
        adapters.discover(tmp_path)
    assert caught.value.kind == "nothing-found" and "truncated" in str(caught.value)
    for size in (140, 300, 600):
        victim.write_bytes(victim.read_bytes()[:size])
        with pytest.raises(SourceError) as caught:
            adapters.discover(victim)
        assert caught.value.kind in ("damaged", "no-pixels", "truncated")


def test_missing_decoder_is_named(tmp_path):
    with pytest.raises(SourceError) as caught:
        source = pydicom.dcmread(get_testdata_file("MR_small_RLE.dcm"))
        source.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"
        source.save_as(tmp_path / "a.dcm")
        adapters.discover(tmp_path / "a.dcm")
    assert caught.value.kind == "no-decoder" and "1.2.840.10008.1.2.4.100" in str(caught.value)


def test_broken_compressed_pixels_are_reported_on_opening():
    with pytest.raises(SourceError) as caught:
        path = Path(get_testdata_file("JPEG2000-embedded-sequence-delimiter.dcm"))
        (candidate,) = adapters.discover(path).candidates
        adapters.open_source(candidate)
    assert caught.value.kind == "undecodable"
