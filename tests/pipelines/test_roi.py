"""Regions from text to index boxes, and the range named when they miss the volume."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.restoring.roi import (
    box_text,
    own_axes,
    parse_ranges,
    roi_from_indices,
    roi_from_mm,
)
from pipelines.restoring.roi_coordinates import roi_from_coordinates
from psc_volumetric.errors import ParameterError

DIMS = ("z", "y", "x")
SHAPE = (40, 64, 96)


def oblique_affine() -> np.ndarray:
    """Index (z, y, x) to world mm, turned by 20 degrees about z and flipped along y."""
    turn = np.deg2rad(20.0)
    c, s = np.cos(turn), np.sin(turn)
    affine = np.eye(4)
    affine[:3, 0] = (0.0, 0.0, 3.0)
    affine[:3, 1] = (0.8 * s, -0.8 * c, 0.0)
    affine[:3, 2] = (0.8 * c, 0.8 * s, 0.0)
    affine[:3, 3] = (-30.0, 25.0, -60.0)
    return affine


def test_index_box_reads_open_ends_and_single_indices():
    roi = roi_from_indices("z=10:42,x=:96,y=5", dims=DIMS, shape=(64, 64, 128))
    assert roi == (slice(10, 42), slice(5, 6), slice(0, 96))
    assert box_text(roi, DIMS) == "z=10:42,y=5:6,x=0:96"


def test_spatial_names_stand_for_the_last_three_axes():
    roi = roi_from_indices("z=1:3,x=2", dims=("time", "level", "lat", "lon"), shape=(4, 5, 6, 7))
    assert roi == (slice(0, 4), slice(1, 3), slice(0, 6), slice(2, 3))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("z=10", None),
        ("z=0:41", "roi-outside"),
        ("z=-1:4", "roi-outside"),
        ("y=64", "roi-outside"),
        ("x=5:5", "roi-outside"),
        ("x=9:3", "roi-outside"),
        ("q=0:3", "unknown-axis"),
        ("z=1:2,z=3:4", "bad-roi"),
        ("z=1.5:2", "bad-roi"),
        ("z=a:2", "bad-roi"),
        ("z=inf:2", "bad-roi"),
        ("z", "bad-roi"),
        ("", "bad-roi"),
        ("z=", "bad-roi"),
    ],
)
def test_index_box_is_refused_by_kind(text, kind):
    if kind is None:
        assert roi_from_indices(text, dims=DIMS, shape=SHAPE)[0] == slice(10, 11)
        return
    with pytest.raises(ParameterError) as caught:
        roi_from_indices(text, dims=DIMS, shape=SHAPE)
    assert caught.value.kind == kind
    if kind == "roi-outside":
        assert "valid are" in str(caught.value)


@given(st.data())
def test_mm_box_around_one_voxel_holds_that_voxel(data):
    affine = oblique_affine()
    index = [data.draw(st.integers(0, n - 1)) for n in SHAPE]
    x, y, z = affine[:3, :3] @ index + affine[:3, 3]
    text = f"x={x - 0.1}:{x + 0.1},y={y - 0.1}:{y + 0.1},z={z - 0.1}:{z + 0.1}"
    roi = roi_from_mm(text, affine=affine, shape=SHAPE)
    assert all(
        part.start <= i < part.stop <= n for part, i, n in zip(roi, index, SHAPE, strict=True)
    )
    assert all(part.stop - part.start <= 2 for part in roi)


def test_mm_box_on_an_axis_aligned_grid_is_exact():
    affine = np.diag([1.0, 1.0, 1.0, 1.0])[[2, 1, 0, 3]] * np.array([3.0, 2.0, 1.0, 1.0])
    roi = roi_from_mm("x=10:19,y=20:38,z=30:57", affine=affine, shape=(2, *SHAPE))
    assert roi == (slice(0, 2), slice(10, 20), slice(10, 20), slice(10, 20))
    assert roi_from_mm("z=0", affine=affine, shape=SHAPE)[0] == slice(0, 1)


@pytest.mark.parametrize("text", ["x=500:600", "x=-600:-500", "z=-1000:-900"])
def test_mm_box_beside_the_volume_names_its_extent(text):
    with pytest.raises(ParameterError, match="which spans x=") as caught:
        roi_from_mm(text, affine=oblique_affine(), shape=SHAPE)
    assert caught.value.kind == "roi-outside"


def test_mm_box_needs_an_affine():
    with pytest.raises(ParameterError) as caught:
        roi_from_mm("x=0:1", affine=None, shape=SHAPE)
    assert caught.value.kind == "no-affine"


def test_coordinates_rising_and_falling():
    values = {"lat": np.linspace(90, -90, 73), "lon": np.arange(0, 360, 2.5)}
    roi = roi_from_coordinates(
        "lat=40:60,lon=0:30", dims=("time", "lat", "lon"), shape=(4, 73, 144), coordinates=values
    )
    assert roi == (slice(0, 4), slice(12, 21), slice(0, 13))
    assert np.all((values["lat"][roi[1]] >= 40) & (values["lat"][roi[1]] <= 60))


@pytest.mark.parametrize("text", ["lon=-10:30", "lat=95:99", "lat=41:42"])
def test_coordinates_beyond_the_grid_are_refused(text):
    values = {"lat": np.linspace(90, -90, 73), "lon": np.arange(0, 360, 2.5)}
    with pytest.raises(ParameterError, match="runs from") as caught:
        roi_from_coordinates(text, dims=("lat", "lon"), shape=(73, 144), coordinates=values)
    assert caught.value.kind == "roi-outside"


def test_coordinates_must_be_one_dimensional_and_monotone():
    with pytest.raises(ParameterError) as caught:
        roi_from_coordinates(
            "lat=1:2", dims=("lat",), shape=(3,), coordinates={"lat": np.array([0.0, 2.0, 1.0])}
        )
    assert caught.value.kind == "no-coordinate"


def test_ranges_keep_their_order_and_open_sides():
    assert parse_ranges("b=:3, a=1.5:") == {"b": (None, 3.0), "a": (1.5, None)}


@pytest.mark.parametrize("text", ["z=1_0:20", "z=٣:5", "z=0x1:5", "z=1:2:3", "z=1e999:2"])
def test_only_plain_numbers_are_numbers(text):
    with pytest.raises(ParameterError) as caught:
        roi_from_indices(text, dims=DIMS, shape=SHAPE)
    assert caught.value.kind == "bad-roi"


def test_a_variable_is_cut_along_its_own_axes():
    axes = frozenset({"time", "lat", "lon"})
    assert own_axes("time=0:2,lat=4:9", dims=("lat", "lon"), others=axes) == "lat=4:9"
    assert own_axes("time=0:2", dims=("lat", "lon"), others=axes) is None
    assert own_axes(" depth =0:2", dims=("lat", "lon"), others=axes) == " depth =0:2"
    assert own_axes("rubbish,lat=1", dims=("lat",), others=axes) == "rubbish,lat=1"


def days(text, values=None, **attrs):
    values = np.arange(59, 159) if values is None else values
    named = {"units": "days since 2000-11-17", "calendar": "standard", **attrs}
    return roi_from_coordinates(
        text,
        dims=("time", "x"),
        shape=(len(values), 3),
        coordinates={"time": values},
        attrs={"time": named},
    )[0]


@pytest.mark.parametrize("calendar", ["standard", "noleap", "360_day", "julian"])
@pytest.mark.parametrize("falls", [False, True])
@pytest.mark.parametrize(
    "text",
    ["2001-02-01:2001-03-01", "2001-02:", ":2001-02-03", "2001-02", "2001-02-03T12:2001-02-09"],
)
def test_dates_select_what_xarray_selects(text, falls, calendar):
    import xarray as xr

    values = np.arange(59, 159, dtype=np.int32)
    coordinate = ("time", values, {"units": "days since 2000-11-17", "calendar": calendar})
    decoded = xr.decode_cf(xr.Dataset({"v": ("time", values)}, coords={"time": coordinate}))
    first, colon, last = text.partition(":")
    expected = decoded.sel(time=slice(first or None, (last if colon else first) or None)).v.values
    given_values = values[::-1] if falls else values
    found = given_values[days(f"time={text}", given_values, calendar=calendar)]
    np.testing.assert_array_equal(np.sort(found), expected)
    assert 0 < len(found) < 100


def test_times_of_day_have_colons_of_their_own():
    hours = np.arange(0, 480) / 24.0
    units = "days since 2001-01-01"
    assert days("time=2001-01-02T06:00:2001-01-02T18:30", hours, units=units) == slice(30, 43)
    assert days("time=2001-01-02T06:00", hours, units=units) == slice(30, 31)
    assert days("time=2001-01-02T23:", hours, units=units) == slice(47, 480)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("time=2001-13-01:2001-14-01", "bad-roi"),
        ("time=2001-02-30", "bad-roi"),
        ("time=1999-01-01:1999-02-01", "roi-outside"),
        ("time=2001-03-01:2001-02-01", "roi-outside"),
        ("time=yesterday:today", "bad-roi"),
        ("time=2001-02:2001-03,time=2001-02", "bad-roi"),
        ("x=2001-02:2001-03", "no-coordinate"),
        ("time=9999-01-01:", "bad-roi"),
        ("time=0000-01-01:0000-02-01", None),
    ],
)
def test_dates_that_cannot_be_selected_say_so(text, kind):
    with pytest.raises(ParameterError) as caught:
        days(text)
    assert kind is None or caught.value.kind == kind


def test_coordinates_without_dates_take_none():
    with pytest.raises(ParameterError, match="stored values") as caught:
        days("time=2001-02-01:", units="m")
    assert caught.value.kind == "no-coordinate"
    with pytest.raises(ParameterError):
        days("time=2001-02-01:", units="days since the flood")


PIECES = st.sampled_from(
    ["z", "time", "=", ":", ",", "-", "1", "2001-02-03", "T06:00", " ", "e9", "nan", ".", "\n", "é"]
)


@given(st.lists(PIECES, max_size=12).map("".join))
def test_any_text_is_a_region_or_refused_as_one(text):
    for read in (
        lambda: roi_from_indices(text, dims=DIMS, shape=SHAPE),
        lambda: roi_from_mm(text, affine=oblique_affine(), shape=SHAPE),
        lambda: days(text),
    ):
        try:
            read()
        except ParameterError as error:
            assert error.kind in (
                "bad-roi", "roi-outside", "unknown-axis", "no-coordinate"
            )  # fmt: skip
