import gzip

import nibabel
import numpy as np
import pytest

import adapters
from adapters import RestoredVolume, RestoreInfo, SourceError

LOSSLESS = RestoreInfo(lossless=True, ratio=None, method="psc", level=None)
LOSSY = RestoreInfo(lossless=False, ratio=20.0, method="psc", level=1)


def open_only(path):
    (candidate,) = adapters.discover(path).candidates
    return adapters.open_source(candidate)


def restore(item, target, *, key=None, info=LOSSLESS):
    (volume,) = item.volumes
    parts = key or tuple(slice(0, n) for n in volume.array.shape)
    part = RestoredVolume(
        "image", volume.array[parts], tuple(p.start for p in parts), volume.array.shape
    )
    made = adapters.restore_source("nifti", item.document, item.blobs, [part], target, info)
    return [file.path for file in made]


def kind_of(path):
    with pytest.raises(SourceError) as caught:
        adapters.discover(path)
    return caught.value.kind


def test_a_text_file_is_not_an_image_whatever_its_name(tmp_path):
    path = tmp_path / "scan.nii"
    path.write_text("hello, this is not an image at all")
    with pytest.raises(SourceError) as caught:
        adapters.discover(path)
    assert caught.value.kind == "not-nifti" and "b'hell'" in str(caught.value)
    packed = tmp_path / "scan.nii.gz"
    packed.write_text("hello")
    assert kind_of(packed) == "damaged"


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_cut_off_files_are_refused(tmp_path, write_nifti, name):
    path = tmp_path / name
    write_nifti(path)
    whole = path.read_bytes()
    for keep, kinds in ((len(whole) - 10, {"truncated"}), (300, {"truncated", "damaged"})):
        path.write_bytes(whole[:keep])
        with pytest.raises(SourceError) as caught:
            open_only(path)
        assert caught.value.kind in kinds


@pytest.mark.parametrize("suffixes", [(".HDR", ".IMG"), (".HDR.GZ", ".IMG.GZ"), (".hdr", ".IMG")])
def test_pairs_may_be_named_in_capitals(tmp_path, write_nifti, suffixes):
    packed = suffixes[0].lower()[4:]
    write_nifti(tmp_path / f"a.img{packed}", kind=nibabel.Nifti1Pair)
    for suffix in suffixes:
        (tmp_path / f"a{suffix.lower()}").rename(tmp_path / f"a{suffix}")
    names = [f"a{suffix}" for suffix in suffixes]
    for asked in (tmp_path, *(tmp_path / name for name in names)):
        (candidate,) = adapters.discover(asked).candidates
        assert [path.name for path in candidate.paths] == names
    item = adapters.open_source(candidate)
    (tmp_path / "out").mkdir()
    written = restore(item, tmp_path / "out")
    assert [path.name for path in written] == names
    for path in written:
        before, after = (file.read_bytes() for file in (tmp_path / path.name, path))
        assert before == after or gzip.decompress(before) == gzip.decompress(after)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_intercept_that_is_no_number_is_not_guessed(tmp_path, write_nifti, value):
    write_nifti(tmp_path / "a.nii")
    data = bytearray((tmp_path / "a.nii").read_bytes())
    data[112:120] = np.array([2, value], "<f4").tobytes()
    (tmp_path / "a.nii").write_bytes(data)
    item = open_only(tmp_path / "a.nii")
    assert item.volumes[0].slope is None and item.volumes[0].intercept is None
    assert any("stored values are shown" in note for note in item.notes)


def test_half_a_pair_is_refused_and_either_half_names_the_whole(tmp_path, write_nifti):
    write_nifti(tmp_path / "a.img", kind=nibabel.Nifti1Pair)
    for name in ("a.img", "a.hdr"):
        (candidate,) = adapters.discover(tmp_path / name).candidates
        assert [path.name for path in candidate.paths] == ["a.hdr", "a.img"]
    (tmp_path / "a.img").unlink()
    assert kind_of(tmp_path / "a.hdr") == "missing-pair"


def test_time_axis_has_its_values(tmp_path, write_nifti):
    write_nifti(tmp_path / "a.nii", shape=(20, 18, 7, 3))
    (volume,) = open_only(tmp_path / "a.nii").volumes
    assert volume.dims == ("t", "z", "y", "x")
    np.testing.assert_allclose(volume.coordinates[0].values, [10, 12.5, 15])
    assert volume.coordinates[0].attrs == {"units": "sec"}


def test_region_moves_sform_qform_and_time(tmp_path, write_nifti):
    write_nifti(tmp_path / "a.nii", shape=(20, 18, 7, 3))
    item = open_only(tmp_path / "a.nii")
    key = (slice(1, 3), slice(2, 6), slice(3, 15), slice(4, 14))
    (path,) = restore(item, tmp_path / "part.nii", key=key)
    before, after = nibabel.load(tmp_path / "a.nii"), nibabel.load(path)
    expected = before.affine @ [4, 3, 2, 1]
    np.testing.assert_allclose(after.get_sform()[:, 3], expected, atol=1e-4)
    np.testing.assert_allclose(after.get_qform()[:, 3], expected, atol=1e-4)
    assert after.header["toffset"] == 12.5
    assert after.shape == (10, 12, 4, 2)
    assert after.header.extensions[0].get_content() == b"kept as it is"
    assert (after.dataobj.slope, after.dataobj.inter) == (0.25, -100.0)
    np.testing.assert_array_equal(
        after.dataobj.get_unscaled(), before.dataobj.get_unscaled()[4:14, 3:15, 2:6, 1:3]
    )


def test_region_without_codes_gets_its_place_in_writing(tmp_path, write_nifti):
    path = tmp_path / "a.nii"
    write_nifti(path)
    data = bytearray(path.read_bytes())
    data[252:256] = bytes(4)
    path.write_bytes(bytes(data))
    item = open_only(path)
    assert "no orientation is coded" in item.notes[0]
    key = (slice(2, 5), slice(1, 4), slice(3, 9))
    (part,) = restore(item, tmp_path / "part.nii", key=key)
    expected = nibabel.load(path).affine @ [3, 1, 2, 1]
    np.testing.assert_allclose(nibabel.load(part).affine[:, 3], expected)


def test_loss_is_written_into_an_extension(tmp_path, write_nifti):
    for name in ("a.nii", "b.img"):
        kind = nibabel.Nifti1Pair if name == "b.img" else nibabel.Nifti1Image
        write_nifti(tmp_path / name, kind=kind)
        item = open_only(tmp_path / name)
        paths = restore(item, tmp_path / "out" / name, info=LOSSY)
        image = nibabel.load(paths[-1])
        texts = [extension.get_content() for extension in image.header.extensions]
        assert b"kept as it is" in texts[0] and b"restored with loss" in texts[1]
        before = nibabel.load(tmp_path / name)
        np.testing.assert_array_equal(image.dataobj, before.dataobj)


def test_target_name_decides_about_compression_but_not_about_pairs(tmp_path, write_nifti):
    write_nifti(tmp_path / "a.nii")
    item = open_only(tmp_path / "a.nii")
    (path,) = restore(item, tmp_path / "b.nii.gz")
    assert gzip.decompress(path.read_bytes()) == (tmp_path / "a.nii").read_bytes()
    with pytest.raises(SourceError) as caught:
        restore(item, tmp_path / "b.img")
    assert caught.value.kind == "bad-target"


def test_trailing_bytes_survive(tmp_path, write_nifti):
    write_nifti(tmp_path / "a.nii")
    with (tmp_path / "a.nii").open("ab") as stream:
        stream.write(b"and then some")
    (path,) = restore(open_only(tmp_path / "a.nii"), tmp_path / "out")
    assert path.read_bytes() == (tmp_path / "a.nii").read_bytes()


def test_name_comes_from_the_file(tmp_path, write_nifti):
    write_nifti(tmp_path / "a b(1).nii.gz")
    assert open_only(tmp_path).name == "a_b_1"


def test_real_oblique_volume(data_folder, tmp_path):
    source = data_folder / "mr" / "misc-nifti" / "torchio_t2.nii.gz"
    item = open_only(source)
    (volume,) = item.volumes
    key = (slice(3, 9), slice(100, 200), slice(60, 250))
    (path,) = restore(item, tmp_path / "part.nii.gz", key=key)
    image = nibabel.load(path)
    np.testing.assert_array_equal(np.asarray(image.dataobj.get_unscaled()).T, volume.array[key])
    expected = nibabel.load(source).affine @ [60, 100, 3, 1]
    np.testing.assert_allclose(image.affine[:, 3], expected, atol=1e-3)
