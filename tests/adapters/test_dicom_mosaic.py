"""Siemens mosaics, real ones from nibabel's tests and made ones, against nibabel's own reading."""

import gzip
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

import adapters
from adapters import RestoredVolume, RestoreInfo

DATA = Path(nibabel.__file__).parent / "nicom" / "tests" / "data"
EXACT = RestoreInfo(lossless=True, ratio=None, method="psc", level=None)
LOSSY = RestoreInfo(lossless=False, ratio=9.0, method="psc", level=1)
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

warnings.filterwarnings("ignore", message="The DICOM readers are highly experimental")


def open_only(path):
    (candidate,) = adapters.discover(path).candidates
    return adapters.open_source(candidate)


def whole(volume):
    return volume.array[tuple(slice(0, n) for n in volume.array.shape)]


def restored(item, target, info=EXACT, key=None):
    (volume,) = item.volumes
    box = key or tuple(slice(0, n) for n in volume.array.shape)
    start = tuple(part.start for part in box)
    part = RestoredVolume(volume.name, volume.array[box], start, volume.array.shape)
    made = adapters.restore_source("dicom", item.document, item.blobs, [part], target, info)
    return [file.path for file in made]


def nibabel_reading(path):
    """Values (z, y, x) and the LPS affine for them, as nibabel has them."""
    from nibabel.nicom import dicomwrappers

    wrapper = dicomwrappers.MosaicWrapper(pydicom.dcmread(path))
    affine = np.asarray(wrapper.affine)[:, [2, 0, 1, 3]]  # nibabel's index: row, column, slice
    return np.moveaxis(wrapper.get_unscaled_data(), -1, 0), LPS_TO_RAS @ affine


def unpacked(names, folder):
    folder.mkdir()
    for name in names:
        data = (DATA / name).read_bytes()
        data = gzip.decompress(data) if name.endswith(".gz") else data
        (folder / name.removesuffix(".gz")).write_bytes(data)
    return folder


def assert_same_places(volume, values, affine, time=None):
    """Every slice of one reading is in the other, at the same place."""
    ours = whole(volume) if time is None else whole(volume)[time]
    order = list(range(len(values)))
    if not np.array_equal(ours[0], values[0]):
        order.reverse()  # sorted along the normal, whatever direction the tiles run
    np.testing.assert_array_equal(ours, values[order])
    for k, other in enumerate(order):
        for y, x in ((0, 0), (ours.shape[1] - 1, 0), (0, ours.shape[2] - 1)):
            np.testing.assert_allclose(
                volume.affine @ [k, y, x, 1], affine @ [other, y, x, 1], atol=1e-3
            )


@pytest.mark.parametrize("name", ["siemens_dwi_0.dcm.gz", "siemens_dwi_1000.dcm.gz"])
def test_real_mosaics_are_volumes_with_nibabels_affine(tmp_path, name):
    folder = unpacked([name], tmp_path / "in")
    (path,) = folder.iterdir()
    item = open_only(folder)
    (volume,) = item.volumes
    assert_same_places(volume, *nibabel_reading(path))
    (made,) = restored(item, tmp_path / "out")
    assert made.read_bytes() == path.read_bytes()


def test_mosaics_of_two_b_values_are_one_series(tmp_path):
    folder = unpacked(["siemens_dwi_0.dcm.gz", "siemens_dwi_1000.dcm.gz"], tmp_path / "in")
    item = open_only(folder)
    (volume,) = item.volumes
    assert volume.dims[1:] == ("z", "y", "x") and volume.array.shape[:2] == (2, 48)
    for time, name in enumerate(("siemens_dwi_0.dcm", "siemens_dwi_1000.dcm")):
        assert_same_places(volume, *nibabel_reading(folder / name), time)
    for path in restored(item, tmp_path / "out"):
        assert path.read_bytes() == (folder / path.name).read_bytes()


def test_a_lossy_mosaic_stays_one_and_a_cut_gives_slices(tmp_path):
    folder = unpacked(["siemens_dwi_1000.dcm.gz"], tmp_path / "in")
    item = open_only(folder)
    (volume,) = item.volumes
    (path,) = restored(item, tmp_path / "lossy", LOSSY)
    again = open_only(tmp_path / "lossy").volumes[0]
    np.testing.assert_array_equal(whole(again), whole(volume))
    np.testing.assert_allclose(again.affine, volume.affine)
    assert pydicom.dcmread(path).LossyImageCompression == "01"
    depth, height, width = volume.array.shape
    key = (slice(1, depth - 1), slice(2, height - 3), slice(5, width - 1))
    paths = restored(item, tmp_path / "cut", key=key)
    assert len(paths) == depth - 2
    part = open_only(tmp_path / "cut").volumes[0]
    np.testing.assert_array_equal(whole(part), volume.array[key])
    np.testing.assert_allclose(part.affine @ [0, 0, 0, 1], volume.affine @ [1, 2, 5, 1], atol=1e-3)
    np.testing.assert_allclose(part.affine[:3, :3], volume.affine[:3, :3], atol=1e-3)
    assert "MOSAIC" not in pydicom.dcmread(paths[0]).ImageType


def csa(tiles, normal):
    """A CSA2 header that says how many tiles there are and where the slices go."""

    def tag(name, kind, values):
        items = b""
        for value in values:
            text = value.encode() + b"\0"
            items += np.array([len(text)] * 4, "<i4").tobytes() + text + b"\0" * (-len(text) % 4)
        head = name.encode().ljust(64, b"\0") + np.array([len(values)], "<i4").tobytes() + kind
        return head + np.array([5, len(values), 77], "<i4").tobytes() + items

    tags = [
        tag("NumberOfImagesInMosaic", b"US\0\0", [str(tiles)]),
        tag("SliceNormalVector", b"FD\0\0", [f"{v:.8f}" for v in normal]),
    ]
    return b"SV10\4\3\2\1" + np.array([len(tags), 77], "<i4").tobytes() + b"".join(tags)


def write_mosaic(folder, write_series, sheet, tiles, normal, **elements):
    write_series(
        folder,
        values=sheet[None],
        ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"],
        SpacingBetweenSlices=3.0,
        **elements,
    )
    (path,) = folder.iterdir()
    dataset = pydicom.dcmread(path)
    block = dataset.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    block.add_new(0x10, "OB", csa(tiles, normal))
    dataset.save_as(path)
    return path


OBLIQUE = (0.96, 0.28, 0.0, -0.224, 0.768, -0.6)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("tiles", "grid"), [(7, 3), (9, 3), (1, 1), (2, 2)])
def test_made_mosaics_run_along_their_normal(tmp_path, write_series, sign, tiles, grid):
    sheet = np.random.default_rng(1).integers(0, 999, (grid * 12, grid * 15)).astype(np.uint16)
    normal = sign * np.cross(OBLIQUE[:3], OBLIQUE[3:])
    folder = tmp_path / "in"
    path = write_mosaic(folder, write_series, sheet, tiles, normal, orientation=OBLIQUE)
    item = open_only(folder)
    (volume,) = item.volumes
    assert volume.array.shape == (tiles, 12, 15)
    values, affine = nibabel_reading(path)
    if tiles > 1:
        assert_same_places(volume, values, affine)
    (made,) = restored(item, tmp_path / "out")  # the tiles that are no slices hold something too
    assert made.read_bytes() == path.read_bytes()


def test_bits_beside_the_values_of_a_mosaic_come_back(tmp_path, write_series):
    random = np.random.default_rng(2)
    sheet = random.integers(0, 1 << 16, (36, 45)).astype(np.uint16)
    path = write_mosaic(
        tmp_path / "in", write_series, sheet, 8, (0, 0, 1), BitsStored=12, HighBit=11
    )
    item = open_only(tmp_path / "in")
    np.testing.assert_array_equal(whole(item.volumes[0])[0], sheet[:12, :15] & 0xFFF)
    (made,) = restored(item, tmp_path / "out")
    assert made.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("damage", ["none", "cut", "tiles"])
def test_sheets_that_cannot_be_cut_up_stay_sheets_without_affine(tmp_path, write_series, damage):
    sheet = np.random.default_rng(1).integers(0, 999, (36, 45)).astype(np.uint16)
    path = write_mosaic(tmp_path / "in", write_series, sheet, 7, (0, 0, 1))
    dataset = pydicom.dcmread(path)
    block = dataset.private_block(0x0029, "SIEMENS CSA HEADER")
    if damage == "none":
        del dataset[0x0029, 0x1010]
    else:
        block[0x10].value = csa(7, (0, 0, 1))[:100] if damage == "cut" else csa(120, (0, 0, 1))
    dataset.save_as(path)
    item = open_only(tmp_path / "in")
    (volume,) = item.volumes
    assert volume.affine is None and volume.array.shape == (1, 36, 45)
    assert any("without a readable CSA header" in note for note in item.notes)
    (made,) = restored(item, tmp_path / "out")
    assert made.read_bytes() == path.read_bytes()
