"""Labels are recognised whatever their type and number; ordinary images are not labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from adapters.base import Volume
from pipelines.archiving.modes import decide
from pipelines.archiving.options import ArchiveOptions
from pipelines.archiving.survey import Survey, label_reason, slabs, survey
from pipelines.archiving.value_range import judge
from psc_volumetric.errors import ParameterError

RNG = np.random.default_rng(3)


class Stored:
    """Stored values that are read box by box, and how much of them at once."""

    def __init__(self, values: NDArray) -> None:
        self.values, self.shape, self.dtype = values, values.shape, values.dtype

    def __getitem__(self, key: tuple[slice, ...]) -> NDArray:
        return self.values[key].copy()


def volume(values: NDArray, **changes) -> Volume:
    dims = ("t", "z", "y", "x")[-values.ndim :]
    plain = Volume(
        name="image", array=Stored(values), dims=dims, affine=None, spacing_mm=None, unit=None,
        slope=None, intercept=None, special_values=(), coordinates=(), attrs={},
    )  # fmt: skip
    return replace(plain, **changes)


def regions(count: int, size: int = 40) -> NDArray[np.int64]:
    """Voronoi cells of ``count`` points, as a parcellation has them."""
    places = RNG.random((count, 3)) * size
    grid = np.stack(np.indices((size,) * 3), -1).astype("f4")
    nearest = np.empty((size,) * 3, np.int64)
    for z in range(size):
        nearest[z] = ((grid[z, :, :, None] - places.astype("f4")) ** 2).sum(-1).argmin(-1)
    return nearest


def smooth(shape: tuple[int, ...], width: int) -> NDArray[np.float64]:
    kernel = np.exp(-0.5 * (np.arange(-3 * width, 3 * width + 1) / width) ** 2)
    field = RNG.normal(size=shape)
    for axis in (-2, -1):
        padded = np.pad(field, [(0, 0)] * (field.ndim + axis) + [(3 * width,) * 2]
                        + [(0, 0)] * (-1 - axis), mode="wrap")  # fmt: skip
        field = np.apply_along_axis(np.convolve, axis, padded, kernel, "valid")
    return field / field.std()


def why(values: NDArray, special: tuple = ()) -> str | None:
    found = survey(Stored(values), special)
    return None if found is None else label_reason(Stored(values), found, special)


@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "f4", "f8"])
@pytest.mark.parametrize("count", [3, 12, 45, 200])
def test_labels_of_any_type_and_number(dtype: str, count: int) -> None:
    labels = (regions(count) * (1 if dtype == "u1" else 5) + 2).astype(dtype)
    assert "labels" in (why(labels) or "")


def test_masks_and_masks_with_missing_values() -> None:
    mask = (smooth((4, 40, 40), 2) > 2.5).astype("f4")
    assert "mask" in (why(mask) or "")
    mask[:, :5] = np.nan
    assert "mask" in (why(mask) or "")


def test_labels_in_a_sea_of_fill_values() -> None:
    labels = (regions(45) * 7).astype("i4")
    labels[:20] = -9999
    assert "labels" in (why(labels, (-9999,)) or "")


@pytest.mark.parametrize("scale", [5, 20, 100, 30000])
def test_smooth_fields_of_few_steps_are_no_labels(scale: int) -> None:
    assert why(np.round(smooth((4, 120, 120), 8) * scale).astype("i2")) is None


def test_noise_of_few_grey_levels_is_no_label_map() -> None:
    assert why(RNG.poisson(2, (10, 60, 60)).astype("u2")) is None
    assert why(RNG.integers(0, 12, (10, 60, 60)).astype("u1")) is None


def test_saturated_fields_are_no_labels() -> None:
    """Sea ice in per cent: mostly 0 and 100, and a narrow edge between."""
    ice = np.clip(np.round(smooth((4, 120, 120), 8) * 60 + 50), 0, 100).astype("i1")
    assert why(ice) is None


def test_images_of_scanners_are_no_labels(real_volumes: list[NDArray]) -> None:
    for values in real_volumes:
        assert why(values) is None


@pytest.fixture(scope="module")
def real_volumes() -> list[NDArray]:
    from pathlib import Path

    import nibabel
    import pydicom.data

    folder = Path(nibabel.__file__).parent / "tests" / "data"
    names = ("anatomical.nii", "functional.nii", "example4d.nii.gz")
    volumes = [np.asarray(nibabel.load(folder / n).dataobj.get_unscaled()).T for n in names]
    for name in ("CT_small.dcm", "MR_small.dcm"):
        volumes.append(pydicom.dcmread(pydicom.data.get_testdata_file(name)).pixel_array)
    return volumes


def test_range_is_that_of_every_value() -> None:
    values = np.zeros((300, 33, 31), "i2")
    values += RNG.integers(0, 99, values.shape, dtype="i2")
    values[217, 5, 6], values[150, 32, 30] = -500, 3000
    sampled, reason = judge(volume(values))
    assert reason is None and sampled is not None
    assert (sampled.least, sampled.largest, sampled.span) == (-500, 3000, 3500)
    assert sampled.low <= -500


def test_range_leaves_out_what_is_no_measurement() -> None:
    values = smooth((3, 40, 40), 3).astype("f4")
    values[0, 0, :4] = np.nan, np.inf, -np.inf, 1e30
    found = survey(Stored(values), (1e30,))
    inside = values[np.isfinite(values) & (values < 1e29)]
    assert found == Survey(inside.min().item(), inside.max().item(), inside.size, None)


@pytest.mark.parametrize("shape", [(5, 4), (7, 30, 20), (3, 5, 11, 30, 20), (2, 1, 9, 700, 900)])
def test_slabs_tile_the_array(shape: tuple[int, ...]) -> None:
    seen = np.zeros(shape, np.uint8)
    for box in slabs(shape, 8):
        assert seen[box].nbytes * 8 <= 64 << 20
        seen[box] += 1
    assert (seen == 1).all()


def test_flags_are_exact_whatever_they_look_like() -> None:
    noise = RNG.integers(0, 200, (4, 40, 40)).astype("u1")
    for name in ("flag_values", "flag_meanings", "flag_masks"):
        kept = decide(volume(noise, attrs={name: "a b"}), ArchiveOptions(mode="lossy"))
        assert (kept.mode, kept.reason) == ("lossless", "the values are flags, not measurements")


def test_relative_bound_and_peak_are_of_the_values_not_of_hounsfield_units() -> None:
    hu = np.clip(smooth((20, 60, 60), 3) * 200, -150, 2190).astype("i2") + np.int16(1000)
    scan = volume(hu, unit="HU", slope=1.0, intercept=-1000.0)
    options = ArchiveOptions(mode="bounded", max_error=0.02, max_error_unit="relative")
    kept = decide(scan, options)
    assert kept.range is not None and kept.range.hounsfield
    assert kept.peak == float(hu.max()) - float(hu.min())
    assert kept.max_error == int(0.02 * kept.peak)


@pytest.mark.parametrize(
    ("changes", "bound"),
    [
        ({"slope": 0.5}, 8),
        ({"slope": -0.25, "unit": "K"}, 16),
        ({"unit": "HU"}, 4),
        ({"unit": "Bq/ml", "attrs": {"slice_slope": [0.5, 2.0, 1.0]}}, 2),
    ],
)
def test_physical_bounds_hold_in_every_slice(changes: dict, bound: int) -> None:
    values = RNG.integers(0, 3000, (3, 40, 40)).astype("i2")
    options = ArchiveOptions(mode="bounded", max_error=4.0, max_error_unit="physical")
    assert decide(volume(values, **changes), options).max_error == bound


def test_physical_bound_without_a_scale_is_refused() -> None:
    values = RNG.integers(0, 3000, (3, 40, 40)).astype("i2")
    options = ArchiveOptions(mode="bounded", max_error=4.0, max_error_unit="physical")
    with pytest.raises(ParameterError) as caught:
        decide(volume(values), options)
    assert caught.value.kind == "no-physical-unit"
    assert "--max-error-unit relative" in str(caught.value)
