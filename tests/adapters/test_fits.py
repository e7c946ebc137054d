"""FITS beyond the shared suite: places in the sky, odd layouts, damage, and what is refused."""

import gzip
import socket
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from opened_items import coordinates, open_only, restored, whole

import adapters
from adapters import RestoredVolume, RestoreInfo, SourceError
from tests.adapters import fits_files

LOSSY = RestoreInfo(lossless=False, ratio=9, method="wavelet", level=0, max_error=0.5)


def written(folder: Path, *units: object, name: str = "a.fits") -> Path:
    path = folder / name
    fits.HDUList(list(units)).writeto(path)
    return path


def refusal(path: Path) -> SourceError:
    with pytest.raises(SourceError) as caught:
        adapters.discover(path)
    return caught.value


def all_of(item):
    """Every volume and array, whole."""
    return [
        RestoredVolume(v.name, whole(v), (0,) * len(v.dims), tuple(v.array.shape))
        for v in (*item.volumes, *item.arrays)
    ]


def again(item, target: Path) -> bytes:
    """Bytes of the file that all values of an item make."""
    info = RestoreInfo(lossless=True, ratio=None, method="", level=None)
    (made,) = adapters.restore_source("fits", item.document, item.blobs, all_of(item), target, info)
    assert made.outcome == "identical"
    return made.path.read_bytes()


def test_units_are_called_as_astropy_calls_them(write_fits, tmp_path):
    item = open_only(write_fits(tmp_path / "a.fits", "exposure"))
    assert [v.name for v in item.volumes] == ["SCI", "ERR", "DQ", "SCI_2"]
    assert [v.dims for v in item.volumes] == [("y", "x")] * 3 + [("y_SCI_2", "x")]
    assert [v.exact_only is None for v in item.volumes] == [True, True, False, True]
    assert item.groups[""]["EXPTIME"] == 30.5 and item.groups[""]["HISTORY"] == "made for a test"
    assert [a.name for a in item.arrays] == ["EVENTS", "EVENTS_heap"]
    events = item.arrays[0]
    with fits.open(tmp_path / "a.fits") as units:
        assert (
            whole(events)[:, :8].tobytes() == units["EVENTS"].data["TIME"].astype(">f8").tobytes()
        )
    assert events.attrs["TTYPE2"] == "HITS"


def test_spectral_axes_have_their_places(write_fits, tmp_path):
    (volume,) = open_only(write_fits(tmp_path / "a.fits", "cube")).volumes
    assert volume.dims == ("stokes", "frequency", "y", "x")
    found = coordinates(volume)
    np.testing.assert_allclose(found["frequency"].values, 1.42e9 + 2.5e5 * np.arange(-1, 2))
    assert found["frequency"].attrs["units"] == "Hz" and found["stokes"].values.tolist() == [1, 2]
    assert volume.special_values == (-32768,)


def test_a_part_stays_where_it_is_in_the_sky(write_fits, tmp_path):
    source = write_fits(tmp_path / "a.fits", "cube")
    key = (slice(1, 2), slice(1, 3), slice(4, 15), slice(6, 20))
    (path,) = restored(open_only(source), tmp_path / "part.fits", key)
    assert fits.getheader(path)["BLANK"] == -32768
    with fits.open(path) as part, fits.open(source) as full:
        np.testing.assert_array_equal(part[0].data, full[0].data[key])
        ours = WCS(part[0].header).wcs_pix2world([[3, 2, 1, 0]], 0)
        np.testing.assert_allclose(ours, WCS(full[0].header).wcs_pix2world([[9, 6, 2, 1]], 0))
        assert part[0].header["BUNIT"] == "Jy/beam"


def test_units_that_are_not_asked_for_are_left_out(write_fits, tmp_path):
    item = open_only(write_fits(tmp_path / "a.fits", "unsigned"))
    wide = item.volumes[1]
    key = (slice(2, 5), slice(0, 24))
    given = [RestoredVolume("WIDE", wide.array[key], (2, 0), wide.array.shape)]
    adapters.restore_source("fits", item.document, item.blobs, given, tmp_path / "b.fits", LOSSY)
    with fits.open(tmp_path / "b.fits") as found:
        found.verify("exception")
        assert [unit.name for unit in found] == ["PRIMARY", "WIDE"]
        assert found[0].data is None and found[0].header["BUNIT"] == "adu"
        np.testing.assert_array_equal(found[1].data, whole(wide)[2:5])
        assert "largest error 0.5" in str(found[1].header["HISTORY"])


def test_tiles_come_back_as_plain_images_where_values_changed(write_fits, tmp_path):
    source = write_fits(tmp_path / "a.fits.fz", "tiles")
    (path,) = restored(open_only(source), tmp_path / "b.fits", info=LOSSY)
    with fits.open(path, disable_image_compression=True) as found, fits.open(source) as full:
        found.verify("exception")
        for unit, before in zip(found[1:], full[1:], strict=True):
            assert isinstance(unit, fits.ImageHDU)
            np.testing.assert_array_equal(unit.data, before.data)
            assert unit.header["EXTNAME"] == before.name


def test_a_spectrum_is_an_array_with_its_scale(tmp_path):
    unit = fits.PrimaryHDU(np.arange(50.0), fits_files.header(BUNIT="Jy"))
    unit.scale("int16", bscale=0.5, bzero=7)
    item = open_only(written(tmp_path, unit))
    (array,) = item.arrays
    assert (array.attrs["scale_factor"], array.attrs["add_offset"]) == (0.5, 7)
    assert array.dims == ("PRIMARY_x",) and array.attrs["units"] == "Jy" and not item.volumes
    assert again(item, tmp_path / "b.fits") == (tmp_path / "a.fits").read_bytes()


def groups() -> fits.GroupsHDU:
    data = np.random.default_rng(1).normal(size=(5, 1, 3, 4)).astype("f4")
    return fits.GroupsHDU(fits.GroupData(data, parnames=["U", "V"], pardata=[np.arange(5)] * 2))


def odd(folder: Path, way: str) -> Path:
    """A file that readers forgive."""
    path = fits_files.write(folder / "a.fits", "exposure")
    raw = path.read_bytes()
    if way == "last block cut":
        path.write_bytes(raw[:-2000])
    elif way == "bytes behind":
        path.write_bytes(raw + b"behind the last unit" * 7)
    elif way == "padding of ones":
        path.write_bytes(raw[:-8] + b"\1" * 8)
    elif way == "a card that cannot be read":
        path.write_bytes(raw.replace(b"BUNIT   = 'electron/s'", b"BUNIT   = 'electron\xb5/'", 1))
    elif way == "small letters":
        path.write_bytes(raw.replace(b"EXPTIME =", b"exptime =", 1))
    elif way == "random groups":
        path.unlink()
        written(folder, groups())
    elif way == "names of axes":
        path.unlink()
        written(folder, fits.PrimaryHDU(), *(named("x"), named("x"), named("y/z"), named("x_HDU")))
    return path


def named(name: str) -> fits.ImageHDU:
    return fits.ImageHDU(np.arange(20, dtype="i2").reshape(4, 5), name=name)


@pytest.mark.parametrize(
    "way",
    ["last block cut", "bytes behind", "padding of ones", "a card that cannot be read",
     "small letters", "random groups", "names of axes"],
)  # fmt: skip
def test_odd_files_come_back_byte_for_byte(way, tmp_path):
    path = odd(tmp_path, way)
    item = open_only(path)
    names = [v.name for v in (*item.volumes, *item.arrays)]
    dims = {dim for v in item.volumes for dim in v.dims}
    assert len(set(names)) == len(names) and dims.isdisjoint(names)
    assert again(item, tmp_path / "b.fits") == path.read_bytes()


@pytest.mark.parametrize(
    "cards", [{"BSCALE": "2.5", "BZERO": 1.0}, {"BSCALE": 2.0, "BZERO": "x"}, {"BSCALE": True}]
)
def test_a_scale_that_is_no_number_is_not_guessed(cards, tmp_path):
    header = fits_files.header(BUNIT="K", **cards)
    plane, line = np.arange(20, dtype=">i2").reshape(4, 5), np.arange(7, dtype=">i2")
    units = [fits.ImageHDU(d, header, do_not_scale_image_data=True) for d in (plane, line)]
    for unit in units:
        unit.header.update(header)
    item = open_only(written(tmp_path, fits.PrimaryHDU(), *units))
    (volume,), (array,) = item.volumes, item.arrays
    assert (volume.slope, volume.intercept, volume.unit) == (None, None, None)
    assert not {"scale_factor", "add_offset", "units"} & set(array.attrs)
    assert sum("is no number: stored values are shown" in note for note in item.notes) == 2


def test_a_spectrum_may_have_a_scale_of_nothing(tmp_path):
    line = fits.ImageHDU(np.arange(7, dtype=">i2"), do_not_scale_image_data=True)
    line.header.update(BSCALE=0.0, BZERO=3.0)
    (array,) = open_only(written(tmp_path, fits.PrimaryHDU(), line)).arrays
    assert (array.attrs["scale_factor"], array.attrs["add_offset"]) == (0, 3)


def test_places_without_sense_are_noted(tmp_path):
    cards = fits_files.header(CTYPE1="RA---TAN", CTYPE2="RA---TAN")
    table = fits_files.header(CTYPE1="WAVE-TAB", PS1_0="NOWHERE")
    data = np.zeros((4, 5), "i2")
    item = open_only(written(tmp_path, fits.PrimaryHDU(data, cards), fits.ImageHDU(data, table)))
    assert [v.coordinates for v in item.volumes] == [(), ()]
    assert "WCS has no sense" in item.notes[0] and "in a table" in item.notes[1]


def test_headers_alone_are_kept_as_they_are(tmp_path):
    path = written(tmp_path, fits.PrimaryHDU(header=fits_files.header(OBJECT="none")))
    item = open_only(path)
    assert not item.volumes and not item.arrays


def image_bytes() -> bytes:
    unit = fits.PrimaryHDU(np.zeros((20, 24), "i2"))
    return unit.header.tostring().encode() + unit.data.tobytes()


def changed(*pairs: tuple[bytes, bytes], cut: int | None = None) -> bytes:
    data = image_bytes()
    for old, new in pairs:
        assert old in data and len(old) == len(new)
        data = data.replace(old, new)
    return data[:cut]


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("not-fits", b"not a FITS file" * 300),
        ("not-fits", b""),
        ("truncated", changed(cut=3000)),
        ("truncated", changed(cut=1000)),
        ("truncated", changed((b"  24", b"9999"))),
        ("damaged", changed((b" 16 ", b" 12 "))),
        ("damaged", changed((b"  20", b" -20"))),
        ("damaged", changed((b"  20", b"20.5"))),
        (
            "too-large",
            b"SIMPLE  =                    T".ljust(80) + b"COMMENT ".ljust(80) * 120_000,
        ),
    ],
)
def test_damage_is_named(kind, data, tmp_path):
    (tmp_path / "a.fits").write_bytes(data)
    assert refusal(tmp_path / "a.fits").kind == kind


def test_tiles_that_cannot_hold_their_image_are_refused(write_fits, tmp_path):
    path = write_fits(tmp_path / "a.fits", "tiles")
    raw = path.read_bytes()
    card = b"ZNAXIS1 =                   24"
    assert card in raw
    path.write_bytes(raw.replace(card, b"ZNAXIS1 =          99999999999", 1))
    assert refusal(path).kind == "too-large"


def test_gzip_is_told_by_name_and_cut_streams_are_refused(write_fits, tmp_path):
    path = write_fits(tmp_path / "a.fits.gz", "unsigned")
    path.write_bytes(path.read_bytes()[:-2000])
    assert refusal(path).kind == "truncated"
    path.write_bytes(b"SIMPLE")
    assert refusal(path).kind == "damaged"


def test_without_astropy_the_extra_is_named(write_fits, tmp_path, monkeypatch):
    path = write_fits(tmp_path / "a.fits", "tiny")
    monkeypatch.setattr("adapters.fits.adapter.find_spec", lambda name: None)
    error = refusal(path)
    assert error.kind == "extra-missing" and "psc-archive[fits]" in str(error)


def test_nothing_is_asked_of_the_network(write_fits, tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError("a connection")

    path = write_fits(tmp_path / "a.fits", "cube")
    date = {"DATE-OBS": "2099-01-01T00:00:00", "TIMESYS": "UTC", "MJDREF": 51544.5}
    with fits.open(path, "update", do_not_scale_image_data=True) as units:
        units[0].header.update(date)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert coordinates(open_only(path).volumes[0])


def test_any_name_will_do_where_the_first_card_is_right(write_fits, tmp_path):
    write_fits(tmp_path / "a.fits", "tiny").rename(tmp_path / "exposure.dat")
    (found,) = adapters.discover(tmp_path).candidates
    assert (found.kind, found.name) == ("fits", "exposure")


def test_packing_is_that_of_the_name_asked_for(write_fits, tmp_path):
    path = write_fits(tmp_path / "a.fits.gz", "cube")
    (plain,) = restored(open_only(path), tmp_path / "plain.fits")
    assert plain.read_bytes() == gzip.decompress(path.read_bytes())
