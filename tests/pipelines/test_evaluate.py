"""The evaluation counts every byte of ours, and shows all codecs in every mode."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import nibabel
import numpy as np
import pytest

from pipelines.evaluation.compare import BEST, averages, compare, curve_of
from pipelines.evaluation.markdown import markdown
from pipelines.evaluation.point import RatePoint
from pipelines.evaluation.results import Comparison
from pipelines.evaluation.sets import SET_NAMES, load_sets
from pipelines.training.recipe import RECIPES
from psc_volumetric.archive import ArchiveReader
from psc_volumetric.errors import ParameterError

Run = Callable[..., Any]

TINY = ("--prior", "test-tiny", "--effort", "1")
POINT_KEYS = set(RatePoint.__dataclass_fields__)


def test_lossy_counts_what_the_archive_stores(archives, sources, tmp_path, run):
    words = [*TINY, "--step", "0.3,0.8", "--bpv", "0.5,1", "--peers", "jpeg2000,sperr,sz3"]
    picture, tables = tmp_path / "curves.png", tmp_path / "tables.md"
    words += ["--plot", picture, "--markdown", tables, "--decode", "--ours", "psc", "--json"]
    outcome = run("evaluate", sources["nifti"], *words)
    assert outcome.code == 0, outcome.err
    document = outcome.document
    assert set(document) == {"mode", "settings", "versions", "volumes", "averages"}
    assert document["settings"]["steps"] == [0.3, 0.8]
    assert "imagecodecs" in document["versions"]
    (result,) = document["volumes"]
    codecs = {point["codec"] for point in result["points"]}
    assert codecs == {"ours-psc", "jpeg2000", "sperr", "sz3"}
    assert all(set(point) == POINT_KEYS for point in result["points"])
    ours = [p for p in result["points"] if p["parameter"].startswith("step 0.3,")]
    with ArchiveReader.open(archives["nifti"]) as reader:
        levels = reader.info()["variables"]["image"]["levels"]
        stored = reader.read("image").astype(float)
    assert [p["nbytes"] for p in ours] == [row["bytes"] for row in levels]
    source = np.asanyarray(nibabel.load(sources["nifti"]).dataobj.get_unscaled()).T
    error = np.sqrt(np.mean((stored - source) ** 2))
    expected = 20 * np.log10(result["peak"] / error)
    assert ours[-1]["psnr_db"] == pytest.approx(expected, abs=1e-6)
    assert ours[-1]["max_error"] == np.abs(stored - source).max()
    assert 0 < ours[-1]["quality"]["ssim"] < 1
    assert ours[-1]["decode_s"] > 0
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert {row["peer"] for row in result["comparisons"]} == codecs - {"ours-psc"}
    text = tables.read_text("utf-8")
    assert "| SPERR-3D |" in text
    assert "HaarPSI" in text


def test_perception_is_measured_shown_and_drawn(sources, tmp_path, run):
    picture, tables = tmp_path / "curves.png", tmp_path / "tables.md"
    words = [*TINY, "--ours", "wavelet", "--step", "0.3,0.8", "--bpv", "0.5,1"]
    words += ["--peers", "sperr", "--psnr-only", "--perception"]
    outcome = run("evaluate", sources["nifti"], *words, "--plot", picture, "--markdown", tables)
    assert outcome.code == 0, outcome.err
    _, head, *rows = outcome.out.splitlines()[:6]
    assert head.split()[-10:-5] == ["bord", "SWD", "KD", "noise", "grad"]  # then bytes and seconds
    distances = [[float(cell) for cell in row.split()[-7:-3]] for row in rows]
    assert all(min(row) > 0 for row in distances)
    assert distances[0][0] < distances[1][0]  # the finer step of ours looks more like the source
    assert picture.stat().st_size > 1000
    text = tables.read_text("utf-8")
    assert "| kernel distance |" in text
    assert "Distance from how the source looks" in text


@pytest.mark.slow
def test_a_posterior_network_is_measured_beside_the_wavelet(sources, tmp_path, run):
    tables = tmp_path / "tables.md"
    words = ["--prior", "test-tiny-posterior", "--step", "0.4,0.8", "--ours", "wavelet,posterior"]
    words += ["--peers", "jpeg2000", "--bpv", "0.5,1", "--decode", "--markdown", tables, "--json"]
    outcome = run("evaluate", sources["nifti"], *words)
    assert outcome.code == 0, outcome.err
    (result,) = outcome.document["volumes"]
    assert result["prior"] == "test-tiny-posterior"
    found = {(p["codec"], p["parameter"]): p for p in result["points"]}
    for step in ("0.4", "0.8"):
        plain, restored = (
            found[f"ours-{name}", f"step {step}, level 0 of 0"] for name in ("wavelet", "posterior")
        )
        assert restored["psnr_db"] >= plain["psnr_db"]
        assert restored["nbytes"] <= 1.1 * plain["nbytes"] + 64  # decision 0045 spends some
        assert restored["quality"]["borders"]["blocks"] > 0
    shown = tables.read_text("utf-8")
    assert "| borders |" in shown and "| ours, base wavelet over ours, base posterior |" in shown
    text = run("evaluate", sources["nifti"], *words[:-1], "--ours", "auto").out
    assert "bord" in text and "ours-auto" in text


@pytest.mark.parametrize(("kind", "mode"), [("nifti", "lossless"), ("netcdf", "bounded")])
def test_whole_archives_count_every_byte(kind, mode, sources, tmp_path, run):
    """What an archive of the same file takes, over its volumes in all."""
    words = ["--mode", mode, *(("--max-error", "2") if mode == "bounded" else ())]
    measured = ["--ours", "none:zstd,archive/none:zstd", "--peers", "zfp"]
    outcome = run("evaluate", sources[kind], *words, *measured, "--json")
    assert outcome.code == 0, outcome.err
    volumes = outcome.document["volumes"]
    found = [[p for p in v["points"] if p["codec"] == "ours-archive/none:zstd"] for v in volumes]
    assert all(len(points) == 1 and points[0]["holds"] for points in found)
    bricks = [p["nbytes"] for v in volumes for p in v["points"] if p["codec"] == "ours-none:zstd"]
    target = tmp_path / "whole.psc.zarr"
    assert run("archive", sources[kind], target, *words, "--coders", "zstd").code == 0
    stored = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    assert abs(sum(points[0]["nbytes"] for points in found) - stored) <= len(found)
    assert stored > sum(bricks)


def test_lossless_sizes_are_checked_and_drawn(sources, tmp_path, run):
    picture, tables = tmp_path / "sizes.svg", tmp_path / "sizes.md"
    words = ["--mode", "lossless", *TINY, "--plot", picture, "--markdown", tables, "--json"]
    outcome = run("evaluate", sources["nifti"], *words)
    assert outcome.code == 0, outcome.err
    (result,) = outcome.document["volumes"]
    points = {point["codec"]: point for point in result["points"]}
    assert {"ours-none", "ours-none:fast", "jpegxl", "jpegls", "htj2k", "jpeg2000"} <= set(points)
    assert {"zstd", "pcodec", "zfp"} <= set(points)
    assert all(p["holds"] and p["max_error"] == 0 for p in points.values())
    assert points["ours-none"]["nbytes"] <= points["ours-none:fast"]["nbytes"]
    assert (
        sum(n for _, n in result["methods"]["ours-none"].values())
        == (points["ours-none"]["nbytes"])
    )
    peers = min(p["nbytes"] for name, p in points.items() if not name.startswith("ours"))
    (best,) = [
        row["bytes_percent"]
        for row in result["comparisons"]
        if (row["ours"], row["peer"]) == ("ours-none", BEST)
    ]
    assert best == pytest.approx(100 * (points["ours-none"]["nbytes"] / peers - 1))
    assert b"<svg" in picture.read_bytes()
    assert "Methods that our encoder chose" in tables.read_text("utf-8")


def test_only_the_middle_is_measured(sources, run):
    words = ["--mode", "lossless", "--ours", "none", "--peers", "zstd", "--json"]
    outcome = run("evaluate", sources["nifti"], *TINY, *words, "--middle", "4,20,1000")
    assert outcome.code == 0, outcome.err
    (result,) = outcome.document["volumes"]
    values = np.asanyarray(nibabel.load(sources["nifti"]).dataobj.get_unscaled()).T
    z, y = (values.shape[0] - 4) // 2, (values.shape[1] - 20) // 2
    middle = values[z : z + 4, y : y + 20]
    assert result["shape"] == [*middle.shape]
    assert result["peak"] == np.ptp(middle)
    assert all(point["holds"] for point in result["points"])


def test_bounded_integers_keep_the_bound(sources, tmp_path, run):
    words = ["--mode", "bounded", *TINY, "--max-error", "1,5", "--ours", "none,psc"]
    words += ["--plot", tmp_path / "b.png", "--markdown", tmp_path / "b.md", "--json"]
    outcome = run("evaluate", sources["nifti"], *words)
    assert outcome.code == 0, outcome.err
    (result,) = outcome.document["volumes"]
    ours = [p for p in result["points"] if p["codec"].startswith("ours")]
    assert [(p["codec"], p["target"]) for p in ours] == [
        ("ours-none", 1), ("ours-none", 5), ("ours-psc", 1), ("ours-psc", 5),
    ]  # fmt: skip
    assert all(p["holds"] and p["max_error"] <= p["target"] for p in ours)
    jpegls = [p for p in result["points"] if p["codec"] == "jpegls"]
    assert [p["max_error"] for p in jpegls] == [1, 5]
    assert (tmp_path / "b.png").stat().st_size > 1000
    text = (tmp_path / "b.md").read_text("utf-8")
    assert "| max error 5 | JPEG-LS, slices |" in text
    assert "| ours over best peer, max error 1 |" in text
    assert "| ours | none+bounded:" in text


def test_bounded_floats_take_shares_of_the_range_and_leave_fill_values_out(tmp_path, run):
    import netCDF4

    path = tmp_path / "field.nc"
    y, x = np.mgrid[:24, :36]
    field = (20 * np.sin(y / 5) * np.cos(x / 7)).astype(np.float32) + np.zeros((4, 1, 1), "f4")
    field[:, :3] = np.float32(1e30)
    with netCDF4.Dataset(path, "w") as nc:
        for name, size in zip(("t", "y", "x"), field.shape, strict=True):
            nc.createDimension(name, size)
        nc.createVariable("heat", "f4", ("t", "y", "x"), fill_value=1e30)[:] = field
    words = ["--mode", "bounded", *TINY, "--max-error", "0.01", "--ours", "none", "--json"]
    outcome = run("evaluate", path, *words)
    assert outcome.code == 0, outcome.err
    (result,) = outcome.document["volumes"]
    assert result["peak"] < 41
    assert {p["codec"] for p in result["points"]} == {"ours-none", "sperr", "sz3", "zfp"}
    bound = 0.01 * result["peak"]
    assert all(p["max_error"] <= 1.001 * bound for p in result["points"])
    assert any("jpegls codes integers only" in note for note in result["notes"])


def test_text_for_people_keeps_its_columns_apart(sources, run):
    words = ["--mode", "lossless", "--peers", "jpegls,zstd", "--ours", "none:context", *TINY]
    outcome = run("evaluate", sources["nifti"], *words)
    assert outcome.code == 0, outcome.err
    _, head, *rows = outcome.out.splitlines()[:5]
    assert head.split()[:3] == ["codec", "promise", "bpv"]
    assert [row.split()[:2] for row in rows] == [
        ["ours-none:context", "lossless"],
        ["jpegls", "lossless"],
        ["zstd", "lossless"],
    ]
    assert len({row.index("lossless") for row in rows} | {head.index("promise")}) == 1
    assert len({len(line) for line in (head, *rows)}) == 1
    assert "against best peer" in outcome.out


@pytest.mark.parametrize(
    "words",
    [
        ("--bpv", "0"),
        ("--bpv", "a"),
        ("--bpv", ""),
        ("--peers", "zip"),
        ("--mode", "lossless", "--peers", "av1"),
        ("--mode", "loud"),
        ("--ours", "jpeg"),
        ("--ours", "none:zip"),
        ("--jobs", "0"),
        ("--mode", "bounded", "--max-error", "0"),
        ("--plot", "curves.pdf"),
        ("--middle", "4,20"),
        ("--middle", "4,0,20"),
        ("--middle", "4,20,20", "--mode", "lossless", "--ours", "archive/none"),
        ("--set", "mr"),
        ("--set", "nobody", "--data", "."),
    ],
)
def test_wrong_words_are_refused(words, sources, run):
    assert run("evaluate", sources["nifti"], *TINY, *words).code == 2


def test_nothing_to_evaluate_is_refused(run):
    assert run("evaluate").code == 2


def test_sets_are_paths_below_the_data_folder(tmp_path):
    (tmp_path / "set.json").write_text(
        json.dumps(
            {"name": "mine", "volumes": [{"path": "a.nc", "title": "A", "variables": ["t"]}]}
        )
    )
    (tmp_path / "a.nc").touch()
    (source,) = load_sets([str(tmp_path / "set.json")], tmp_path)
    assert (source.path, source.group, source.title) == (tmp_path / "a.nc", "mine", "A")
    assert source.variables == ("t",)
    assert {"mr", "ct", "climate"} <= set(SET_NAMES)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('{"name": "mine", "volumes": [{"path": "a.nc", "title": "A"}]}', "missing-data"),
        ('{"name": "mine"}', "bad-set"),
        ("[1]", "bad-set"),
        ("{", "bad-set"),
    ],
)
def test_bad_sets_are_refused(text, kind, tmp_path):
    path = tmp_path / "set.json"
    path.write_text(text)
    with pytest.raises(ParameterError) as caught:
        load_sets([str(path)], tmp_path)
    assert caught.value.kind == kind


def test_held_out_volumes_are_in_the_data_folder_and_out_of_training(data_folder):
    trained = {"mr": "mr-head", "ct": "ct-body", "climate": "climate-grid"}
    for source in load_sets(list(trained), data_folder):
        recipe = json.loads((RECIPES / f"{trained[source.group]}.json").read_text())
        assert any(pattern in str(source.path) for pattern in recipe["held_out"]), source.title


def _point(codec: str, rate: float, psnr: float, parameter: str = "q", **other: Any) -> RatePoint:
    fields = {"nbytes": round(rate * 1000), "rate_bpv": rate, "max_error": 1.0, **other}
    return RatePoint(codec=codec, parameter=parameter, psnr_db=psnr, **fields)


def test_curve_of_ours_takes_the_last_level_of_each_step():
    points = [
        _point("ours-psc", 0.1, 30, "step 0.5, level 0 of 1"),
        _point("ours-psc", 0.2, 35, "step 0.5, level 1 of 1"),
        _point("ours-psc", 0.5, 40, "step 0.2, level 1 of 1"),
        _point("sperr", 0.2, 31),
        _point("sperr", 0.3, 30),  # costs more and is worse
        _point("sperr", 0.5, 38),
    ]
    assert [p.psnr_db for p in curve_of(points, "ours-psc")] == [35, 40]
    assert [p.psnr_db for p in curve_of(points, "sperr")] == [31, 38]
    (entry,) = compare(points, "lossy")
    assert entry.psnr_db > 1
    assert entry.bytes_percent < 0


def test_the_first_of_ours_is_compared_with_the_others_of_ours():
    points = [
        *(_point("ours-foresight", rate, psnr) for rate, psnr in ((0.1, 31), (0.3, 36))),
        *(_point("ours-av1", rate, psnr) for rate, psnr in ((0.1, 30), (0.3, 35))),
        *(_point("sperr", rate, psnr) for rate, psnr in ((0.1, 29), (0.3, 34))),
    ]
    points = [replace(p, parameter=f"step {number}") for number, p in enumerate(points)]
    gains = {(e.ours, e.peer): e.psnr_db for e in compare(points, "lossy")}
    assert gains == {
        ("ours-foresight", "ours-av1"): pytest.approx(1),
        ("ours-foresight", "sperr"): pytest.approx(2),
        ("ours-av1", "sperr"): pytest.approx(1),
    }


def test_peers_that_break_a_bound_by_more_than_rounding_are_no_rivals():
    def at(codec: str, nbytes: int, error: float) -> RatePoint:
        return _point(
            codec, nbytes / 1000, 50, "b", max_error=error, target=2.0, holds=error <= 2.0
        )

    points = [at("ours-none", 80, 2.0), at("sz3", 100, 2.0), at("sperr", 90, 2.001)]
    points.append(at("zfp", 40, 2.5))
    changes = {e.peer: e.bytes_percent for e in compare(points, "bounded")}
    assert changes == {
        "sz3": pytest.approx(-20.0),
        "sperr": pytest.approx(-100 / 9),
        BEST: pytest.approx(-100 / 9),
    }


def test_averages_are_geometric_and_say_how_many_volumes_they_stand_on(sources, run):
    class Fake:
        def __init__(self, percent: float | None) -> None:
            self.group = "mr"
            self.comparisons = (Comparison("ours-auto", "sperr", "", percent, 1.0),)

    (row,) = averages([Fake(-50.0), Fake(100.0), Fake(None)])  # type: ignore[list-item]
    assert row["bytes_percent"] == pytest.approx(0.0)
    assert row["volumes"] == [2, 3, 3]


def test_markdown_without_results_is_empty():
    from pipelines.evaluation.options import EvaluateOptions

    assert markdown([], EvaluateOptions()).strip() == ""
