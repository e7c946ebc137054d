"""``--speed``: faster archives are larger, promise the same, and other options win over it."""

from __future__ import annotations

import pytest

from pipelines.archiving.options import FAST_CODERS, ArchiveOptions
from pipelines.development.benchmark_speed import measure, peers_of, table
from psc_volumetric.archive import ArchiveReader
from psc_volumetric.errors import ParameterError


def test_quick_archives_hold_every_bit_and_are_known_as_the_same(sources, tmp_path, run):
    targets = [tmp_path / f"{speed}.psc.zarr" for speed in (4, 9)]
    for target, speed in zip(targets, ("4", "9"), strict=True):
        assert run("archive", sources["nifti"], target, "--speed", speed).code == 0
        assert run("verify", target, "--deep").code == 0
    used = []
    for target in targets:
        with ArchiveReader.open(target) as reader:
            (found,) = reader.info()["variables"].values()
            used.append(set(found["brick_methods"]))
    assert used[0] <= {f"none+lossless:{name}" for name in ("jpegxl", "pcodec", "zstd")}
    assert used[1] <= {f"none+lossless:{name}" for name in ("jpegls", "pcodec", "zstd")}
    again = run("archive", sources["nifti"], targets[0], "--speed", "7", "--json")
    assert again.code == 0
    assert again.document["items"][0]["state"] == "same"


def test_faster_tries_less():
    tried = [ArchiveOptions(speed=speed).coder_names for speed in range(1, 10)]
    assert tried[0] is None
    assert [len(names) for names in tried[1:]] == sorted(
        (len(names) for names in tried[1:]), reverse=True
    )
    assert all("zstd" in names for names in tried[1:])  # which takes anything
    lossy = [ArchiveOptions(mode="lossy", speed=speed) for speed in range(1, 10)]
    assert not any(options.tries_prior for options in lossy[1:])
    assert [options.lossy_base for options in lossy] == ["auto"] * 5 + ["wavelet"] * 4
    assert ArchiveOptions(speed=9, preview="psc").lossy_base == "wavelet"
    assert ArchiveOptions(speed=9).lossy_base == "none"


def test_what_is_named_wins():
    assert ArchiveOptions(speed=9, coders="context").coder_names == ("context",)
    assert ArchiveOptions(speed=3, coders="fast").coder_names == FAST_CODERS
    assert ArchiveOptions(mode="lossy", speed=9, base="psc").lossy_base == "psc"
    assert ArchiveOptions(mode="lossy", speed=9, base="psc").tries_prior


@pytest.mark.parametrize("speed", [0, 10, -1])
def test_other_numbers_are_refused(speed, sources, tmp_path, run):
    with pytest.raises(ParameterError) as caught:
        ArchiveOptions(speed=speed)
    assert caught.value.kind == "bad-speed"
    outcome = run("archive", sources["nifti"], tmp_path / "a.psc.zarr", "--speed", str(speed))
    assert outcome.code == 2
    assert "1 (smallest) .. 9 (fastest)" in outcome.err


def test_the_table_of_speeds_has_peers(sources, tmp_path):
    source = sources["nifti"]
    rows = [measure(source, 7, tmp_path), *peers_of(source)]
    lines = table(source, rows)
    assert len(lines) == 2 + len(rows)
    assert lines[2].startswith("| speed 7 |")
    assert any(line.startswith("| JPEG XL e9, slices |") for line in lines)
    assert all(row[1] > 0 for row in rows)
