"""The pictures of the README: they say what the tables say, and what their archives hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from pipelines.archiving.archive import archive, plan
from pipelines.archiving.options import ArchiveOptions
from pipelines.development.bytes_chart import draw_chart, shown_tables, tables_of
from pipelines.development.levels_picture import colours_of_levels, draw_levels, shown_level
from pipelines.development.readme_pictures import NUMBERS, chart_numbers, save_png
from psc_volumetric.errors import ParameterError

DOCS = Path(__file__).resolve().parents[2] / "docs"
EVALUATION = """# Evaluation

## Speeds
| speed | coders |
|---|---|
| 1 | all |

| head.nii.gz, 6.3 MB | bytes | to speed 1 | write, MB/s | read, MB/s |
|---|---|---|---|---|
| speed 1 | 1,000 | +0.0 % | 0.7 | 2.2 |
| speed 5 | 1,500 | +50.0 % | 0.7 | 2.2 |
| JPEG-LS, slices | 1,245,050 | +16.8 % | 79.9 | 76.8 |

| hgt.nc, 0.9 MB | bytes | to speed 1 | write, MB/s | read, MB/s |
|---|---|---|---|---|
| speed 1 | 98 | +0.0 % | 0.7 | 2.2 |

## Results
| other.nc, 0.9 MB | bytes | to speed 1 | write, MB/s |
|---|---|---|---|
| speed 1 | 98 | +0.0 % | 0.7 |
"""


def test_the_tables_of_speeds_are_read_and_no_others() -> None:
    head, field = tables_of(EVALUATION)
    assert (head.name, head.size, field.title) == (
        "head.nii.gz",
        "6.3 MB",
        "geopotential height, 0.9 MB",
    )
    assert head.rows == (("speed 1", 1000), ("speed 5", 1500), ("JPEG-LS, slices", 1245050))
    assert field.bytes_of("JPEG-LS, slices") is None
    assert [codec for codec, _ in shown_tables([head])[0].rows] == ["speed 1", "JPEG-LS, slices"]


@pytest.mark.parametrize("text", ["", EVALUATION.replace("| speed 1 |", "| speed 2 |")])
def test_an_evaluation_without_the_default_is_refused(text: str) -> None:
    with pytest.raises(ParameterError, match="'speed 1' below '## Speeds'") as caught:
        tables_of(text)
    assert caught.value.kind == "no-table"


def test_the_chart_shows_what_the_tables_say_today() -> None:
    """If not: ``python -m pipelines.development.readme_pictures``."""
    with Image.open(DOCS / "bytes.png") as chart:
        assert chart.info[NUMBERS] == chart_numbers((DOCS / "evaluation.md").read_text("utf-8"))


def test_bars_are_as_long_as_bytes_are_many() -> None:
    tables = shown_tables(tables_of(EVALUATION))
    for panel, table in zip(draw_chart(tables).axes, tables, strict=True):
        assert [bar.get_width() for bar in panel.patches] == [n for _, n in table.rows]


def test_pictures_are_small_and_told_to_those_who_do_not_see_them() -> None:
    readme = (DOCS.parent / "README.md").read_text("utf-8")
    files = [DOCS / "levels.png", DOCS / "bytes.png"]
    assert sum(file.stat().st_size for file in files) < 300_000
    for file in files:
        alternative, _, rest = readme.partition(f"](docs/{file.name})")
        assert rest, f"{file.name} is not shown"
        assert len(alternative.rpartition("![")[2]) > 60


def test_a_picture_of_levels_has_their_rates_and_their_errors(sources, tmp_path) -> None:
    source, shown = sources["nifti"], []
    for options in (
        ArchiveOptions("lossy", base="wavelet", step=0.3, no_proof=True),
        ArchiveOptions("bounded", max_error=8, coders="zstd", no_proof=True),
    ):
        target = tmp_path / f"{options.mode}.psc.zarr"
        archive(plan(source, str(target), options))
        shown.append(shown_level(source, target))
    lossy, bounded = shown
    nbytes = sum(file.stat().st_size for file in tmp_path.glob("lossy*/**/*") if file.is_file())
    assert lossy.title.startswith(f"lossy, {nbytes / 1000:.0f} kB\n{lossy.short}, ")
    assert bounded.title.startswith("bounded level, off by at most 4\n")
    assert lossy.error.max() > 0 and lossy.sigma.max() > 0
    assert 0 < bounded.error.max() <= 4  # a stored unit is half a physical one
    figure = draw_levels([lossy, bounded])
    assert [axis.get_title().partition("\n")[0] for axis in figure.axes[:5]] == [
        "source",
        lossy.title.partition("\n")[0],
        bounded.title.partition("\n")[0],
        "error at",
        "sigma at",
    ]
    save_png(figure, tmp_path / "levels.png", json.dumps([lossy.title]), colours_of_levels())
    with Image.open(tmp_path / "levels.png") as drawn:
        assert json.loads(drawn.info[NUMBERS]) == [lossy.title]
        assert drawn.mode == "P" and drawn.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
