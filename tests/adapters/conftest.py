"""Source files made for the tests: small, real in structure, random in content."""

import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from tests.adapters import fits_files, trajectory_files

sys.path.insert(0, str(Path(__file__).parent))  # makes ``contract_cases`` importable

SERIES_UID = "1.2.826.0.1.3680043.8.498.77"
MR_CLASS = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_CLASS = "1.2.840.10008.5.1.4.1.1.4.1"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
OBLIQUE = (0.96, 0.28, 0.0, -0.28 * 0.8, 0.96 * 0.8, -0.6)


def normal_of(orientation: tuple[float, ...]) -> np.ndarray:
    return np.cross(orientation[:3], orientation[3:])


def base_dataset(pixels: np.ndarray, **elements: Any) -> Dataset:
    """One MR image with a patient in it, to see that the patient stays out of names and notes."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = MR_CLASS
    dataset.SOPInstanceUID = f"{SERIES_UID}.{zlib.crc32(pixels.tobytes())}"
    dataset.PatientName, dataset.PatientID = "Doe^Secret", "SECRET-4711"
    dataset.Modality, dataset.SeriesInstanceUID = "MR", SERIES_UID
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape[-2:]
    dataset.BitsAllocated = 8 * pixels.dtype.itemsize
    dataset.BitsStored = dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelSpacing = [0.8, 0.7]
    dataset.SliceThickness = 2.5
    for name, value in elements.items():
        setattr(dataset, name, value)
    data = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    return dataset


def save(dataset: Dataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture(scope="session")
def write_series() -> Callable[..., np.ndarray]:
    """Write single-frame files, named against their order; gives the stored values (z, y, x)."""

    def write(
        folder: Path,
        *,
        values: np.ndarray | None = None,
        orientation: tuple[float, ...] = AXIAL,
        positions: Any = None,
        per_slice: Callable[[int], dict[str, Any]] = lambda k: {},
        prefix: str = "IM",
        **elements: Any,
    ) -> np.ndarray:
        if values is None:
            values = np.random.default_rng(0).integers(-900, 3000, (6, 20, 24)).astype(np.int16)
        if positions is None:
            origin, step = np.array([-90.5, 12.25, -310.0]), 2.5 * normal_of(orientation)
            positions = [origin + k * step for k in range(len(values))]
        for k, (plane, position) in enumerate(zip(values, positions, strict=True)):
            dataset = base_dataset(plane, **elements)
            dataset.SOPInstanceUID = f"{SERIES_UID}.{zlib.crc32(prefix.encode())}.{k + 1}"
            dataset.InstanceNumber = (7 * k) % len(values) + 1
            dataset.ImageOrientationPatient = list(orientation)
            dataset.ImagePositionPatient = [f"{v:.6f}" for v in position]
            for name, value in per_slice(k).items():
                setattr(dataset, name, value)
            save(dataset, folder / f"{prefix}{(5 * k + 3) % len(values):03d}.dcm")
        return values

    return write


@pytest.fixture(scope="session")
def write_float() -> Callable[..., np.ndarray]:
    """Write one file with floating-point pixels, of single or double precision."""

    def write(folder: Path, kind: type[np.floating]) -> np.ndarray:
        values = np.random.default_rng(4).normal(size=(20, 24)).astype(kind)
        values[0, :4] = [np.nan, np.inf, -0.0, 5e-324]
        dataset = base_dataset(values.view(f"u{values.itemsize}"))
        del dataset.PixelData, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation
        double = values.itemsize == 8
        setattr(dataset, "DoubleFloatPixelData" if double else "FloatPixelData", values.tobytes())
        dataset.ImageOrientationPatient = list(AXIAL)
        dataset.ImagePositionPatient = [-90.5, 12.25, -310]
        save(dataset, folder / "float.dcm")
        return values

    return write


@pytest.fixture(scope="session")
def write_enhanced() -> Callable[..., np.ndarray]:
    """Write one enhanced file; ``places`` has (orientation, position, extra traits) per frame."""

    def write(
        path: Path, places: list[tuple[tuple[float, ...], Any, dict[str, Any]]]
    ) -> np.ndarray:
        values = np.random.default_rng(1).integers(0, 4000, (len(places), 18, 20)).astype(np.uint16)
        dataset = base_dataset(values, NumberOfFrames=len(places), SOPClassUID=ENHANCED_CLASS)
        del dataset.PixelSpacing, dataset.SliceThickness
        measures, shared = Dataset(), Dataset()
        measures.PixelSpacing, measures.SliceThickness = [0.8, 0.7], 2.5
        shared.PixelMeasuresSequence = [measures]
        dataset.SharedFunctionalGroupsSequence = [shared]
        groups = []
        for orientation, position, traits in places:
            group, plane, direction, content = Dataset(), Dataset(), Dataset(), Dataset()
            plane.ImagePositionPatient = [f"{v:.6f}" for v in position]
            direction.ImageOrientationPatient = list(orientation)
            for name, value in traits.items():
                setattr(content, name, value)
            group.PlanePositionSequence = [plane]
            group.PlaneOrientationSequence = [direction]
            group.FrameContentSequence = [content]
            groups.append(group)
        dataset.PerFrameFunctionalGroupsSequence = groups
        save(dataset, path)
        return values

    return write


@pytest.fixture(scope="session")
def write_nifti() -> Callable[..., np.ndarray]:
    """Write an oblique NIfTI with slope, units and an extension; gives stored (x, y, z, ...)."""

    def write(
        path: Path,
        *,
        shape: tuple[int, ...] = (20, 18, 7),
        dtype: str = "<i2",
        kind: Any = nibabel.Nifti1Image,
        affine: np.ndarray | None = None,
        slope: float = 0.25,
        intercept: float = -100.0,
        edit: Callable[[Any], None] = lambda header: None,
    ) -> np.ndarray:
        values = np.random.default_rng(2).integers(0, 2000, shape).astype(dtype)
        if affine is None:
            affine = nibabel.affines.from_matvec(
                nibabel.eulerangles.euler2mat(0.1, -0.2, 0.3) @ np.diag([0.8, 0.9, 2.5]),
                [-80, 40.5, -12],
            )
        image = kind(values, affine, dtype=values.dtype)
        header = image.header
        header.set_xyzt_units("mm", "sec")
        header.set_qform(affine, code=1)
        header["descrip"] = b"Doe Secret"
        if len(shape) > 3:
            header["pixdim"][4], header["toffset"] = 2.5, 10.0
        extension = nibabel.nifti1.Nifti1Extension("comment", b"kept as it is")
        header.extensions.append(extension)
        edit(header)
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(image, path)
        _set_scaling(path, slope, intercept)
        return values

    return write


def _set_scaling(path: Path, slope: float, intercept: float) -> None:
    """Write slope and intercept into the header; nibabel always rescales on saving."""
    if path.name.endswith(".gz"):
        return
    header = path.with_suffix(".hdr") if path.suffix == ".img" else path
    data = bytearray(header.read_bytes())
    order = "little" if data[:4] in (b"\x5c\1\0\0", b"\x1c\2\0\0") else "big"
    float_type = np.dtype("<f4" if order == "little" else ">f4")
    if int.from_bytes(data[:4], order) == 348:
        data[112:120] = np.array([slope, intercept], float_type).tobytes()
    else:
        data[176:192] = np.array([slope, intercept], float_type.str[0] + "f8").tobytes()
    header.write_bytes(bytes(data))


@pytest.fixture(scope="session")
def write_netcdf() -> Callable[..., None]:
    """Write a packed grid with time, coordinates and odds and ends; groups where possible."""
    import netCDF4

    def write(path: Path, data_model: str = "NETCDF4", *, fill: int | None = -999) -> None:
        random = np.random.default_rng(3)
        path.parent.mkdir(parents=True, exist_ok=True)
        with netCDF4.Dataset(path, "w", format=data_model) as dataset:
            for name, size in (("time", None), ("lat", 40), ("lon", 48), ("n", 5)):
                dataset.createDimension(name, size)
            dataset.title = "made for a test"
            dataset.createVariable("time", "f8", ("time",))[:] = [0.5, 1.5, 2.5]
            lat = dataset.createVariable("lat", "f4", ("lat",))
            lat[:], lat.units = np.linspace(-90, 90, 40), "degrees_north"
            dataset.createVariable("lon", "f4", ("lon",))[:] = np.arange(48) * 7.5
            hdf = data_model.startswith("NETCDF4")
            options: dict[str, Any] = (
                {"compression": "zlib", "chunksizes": (1, 10, 12), "fletcher32": True}
                if hdf
                else {}
            )
            grid = dataset.createVariable(
                "t2m", "i2", ("time", "lat", "lon"), fill_value=fill, **options
            )
            grid.set_auto_maskandscale(False)
            grid.scale_factor, grid.add_offset, grid.units = np.float32(0.01), 273.15, "K"
            grid.missing_value = np.array([-998, -997], "i2")
            grid.setncattr("latin", b"caf\xe9")
            grid.setncattr("empty", "")
            grid[:] = random.integers(-500, 500, (3, 40, 48))
            grid[0, :2] = -999
            text = dataset.createVariable("letters", "S1", ("n",))
            text[:] = np.array(list("hello"), "S1")
            dataset.createVariable("crs", "i4", ())[...] = 7
            if data_model == "NETCDF4":
                _write_group(dataset, random)

    return write


def _write_group(dataset: Any, random: np.random.Generator) -> None:
    dataset.setncattr_string("producer", "nobody")
    dataset.setncattr("list", ["a", "é"])
    group = dataset.createGroup("model/run1")
    group.createDimension("lat", 36)
    group.createVariable("lat", "f8", ("lat",), fill_value=False)[:] = np.arange(36.0)
    wind = group.createVariable("t2m", ">f4", ("time", "lat", "lon"), endian="big")
    wind[:] = random.normal(size=(3, 36, 48))
    wind[1, 3, 4] = np.nan
    wind.valid_range = np.array([-50, 50], "f4")
    answer = group.createEnumType("u1", "answer", {"no": 0, "yes": 1})
    group.createVariable("flag", answer, ("lat",))[:] = random.integers(0, 2, 36)
    label = group.createVariable("label", str, ("lat",))
    label[:] = np.array([f"é{i}" for i in range(36)], object)


@pytest.fixture(scope="session")
def write_fits() -> Callable[..., Path]:
    """Write one file of the kinds of image, table and tile that telescopes leave."""

    def write(path: Path, layout: str) -> Path:
        return fits_files.write(path, layout)

    return write


@pytest.fixture(scope="session")
def write_trajectory() -> Callable[..., Path]:
    """Write a DCD or XTC file; options as `trajectory_files.write`."""
    return trajectory_files.write
