"""FITS files with the layouts that telescopes and their software leave, written by astropy."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
from astropy.io import fits

SHAPE = (20, 24)
SKY = {
    **{"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.1, "CRVAL2": 2.2},
    **{"CRPIX1": 12.5, "CRPIX2": 10.0, "CUNIT1": "deg", "CUNIT2": "deg"},
    **{"CDELT1": -1e-4, "CDELT2": 1e-4, "PC1_1": 0.8, "PC1_2": -0.6, "PC2_1": 0.6, "PC2_2": 0.8},
}
SPECTRUM = {
    **{"CTYPE3": "FREQ", "CRVAL3": 1.42e9, "CRPIX3": 2.0, "CDELT3": 2.5e5, "CUNIT3": "Hz"},
    **{"CTYPE4": "STOKES", "CRVAL4": 1.0, "CRPIX4": 1.0, "CDELT4": 1.0},
}


def sky(*lead: int) -> np.ndarray:
    """Float32: a source, a slope and noise."""
    y, x = np.indices(SHAPE)
    noise = np.random.default_rng(3).normal(0, 2, (*lead, *SHAPE))
    star = 900 * np.exp(-((y - 8.0) ** 2 + (x - 13.0) ** 2) / 18)
    return (200 + 0.5 * x + star + noise).astype(np.float32)


def header(**cards: object) -> fits.Header:
    """Cards in the order given."""
    return fits.Header(list(cards.items()))


def events() -> fits.BinTableHDU:
    """A table with a column of lists, which lie in its heap."""
    lists = np.array([np.arange(n % 4) for n in range(30)], object)
    columns = [
        fits.Column("TIME", "D", array=np.arange(30) / 8),
        fits.Column("HITS", "PJ()", array=lists),
    ]
    return fits.BinTableHDU.from_columns(columns, name="EVENTS")


def exposure() -> fits.HDUList:
    """Science, error and quality, with a table and checksums, as space telescopes send them."""
    values = sky()
    values[2, 3], values[4, 5] = np.nan, -0.0
    marks = (np.random.default_rng(5).integers(0, 30, SHAPE) == 0).astype("i2") << 12
    first = fits.PrimaryHDU(header=header(TELESCOP="test", EXPTIME=30.5))
    first.header["HISTORY"] = "made for a test"
    units = [
        fits.ImageHDU(values, header(**SKY, BUNIT="electron/s"), name="SCI"),
        fits.ImageHDU(np.sqrt(np.abs(values)), header(**SKY, BUNIT="electron/s"), name="ERR"),
        fits.ImageHDU(marks, header(**SKY), name="DQ"),
        fits.ImageHDU(values[:10], name="SCI", ver=2),
        events(),
    ]
    made = fits.HDUList([first, *units])
    for unit in made:
        unit.add_checksum()
    return made


def unsigned() -> fits.HDUList:
    """Counts of a camera, unsigned by BZERO, in 16, 32, 64 and (signed) 8 bits."""
    counts = sky().astype("u2")
    rest = [
        fits.ImageHDU(counts.astype("u4") * 65537, name="WIDE"),
        fits.ImageHDU(counts.astype("u8") << np.uint64(47), name="WIDER"),
        fits.ImageHDU((counts // 8 - 100).astype("i1"), name="BYTES"),
    ]
    return fits.HDUList([fits.PrimaryHDU(counts, header(BUNIT="adu")), *rest])


def cube() -> fits.HDUList:
    """Four axes, packed into 16 bits, with blank values."""
    first = fits.PrimaryHDU(sky(2, 3), header(**SKY, **SPECTRUM, BUNIT="Jy/beam"))
    first.scale("int16", bscale=0.0625, bzero=1024.0)
    first.data[0, 1, 2:5, 3] = -32768
    first.header["BLANK"] = -32768
    return fits.HDUList([first])


def tiles() -> fits.HDUList:
    """Compressed tiles of integers, of unsigned ones and of floats with loss, one without loss."""
    counts, values = sky().astype("i4"), sky()
    values[5, 6] = np.nan
    return fits.HDUList(
        [
            fits.PrimaryHDU(header=header(OBSERVER="test")),
            fits.CompImageHDU(counts, header(**SKY, BUNIT="adu"), "RICE", "RICE_1", (6, 24)),
            fits.CompImageHDU(counts.astype("u2"), None, "GZIP", "GZIP_1"),
            fits.CompImageHDU(values, None, "LOSSY", quantize_level=8, quantize_method=1),
            fits.CompImageHDU(values, None, "EXACT", "GZIP_2", quantize_level=0),
            fits.CompImageHDU(counts, None, "WAVES", "HCOMPRESS_1"),
        ]
    )


LAYOUTS: dict[str, Callable[[], fits.HDUList]] = {
    "exposure": exposure,
    "unsigned": unsigned,
    "cube": cube,
    "tiles": tiles,
    "double": lambda: fits.HDUList([fits.PrimaryHDU(sky(4).astype("f8") / 3)]),
    "tiny": lambda: fits.HDUList([fits.PrimaryHDU(np.arange(6, dtype="u1").reshape(2, 3))]),
}


def write(path: Path, layout: str) -> Path:
    """Write one of `LAYOUTS`, under gzip where the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = path.with_name(path.name.removesuffix(".gz"))
    LAYOUTS[layout]().writeto(plain)
    if plain != path:
        path.write_bytes(gzip.compress(plain.read_bytes(), 9, mtime=1))
        plain.unlink()
    return path
