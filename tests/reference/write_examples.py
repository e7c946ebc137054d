"""Write the examples of SPEC-v1.md section 12 anew: ``python tests/reference/write_examples.py``.

The only writer of that section, and of the format number in the text. An example that is there
keeps its bytes where the encoder does.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from psc_volumetric.bitstream import constants
from psc_volumetric.codec import (
    BrickOptions,
    CodecParameters,
    Guarantee,
    IntensityMapping,
    decode_brick,
    encode_brick,
)
from psc_volumetric.prior import load_prior

SPEC = Path(__file__).resolve().parents[2] / "psc_volumetric" / "bitstream" / "SPEC-v1.md"
BEGIN = "<!-- examples begin: written by tests/reference/write_examples.py -->\n"
END = "<!-- examples end -->\n"


PLAIN = Guarantee(coders=("zstd",))
PSC = BrickOptions(base="psc")


def examples() -> Iterator[tuple[str, str, dict]]:
    z, y, x = np.indices((3, 20, 24))
    ramp = 600 + 20 * x + 5 * y * (z + 1) + 150 * ((x > 9) & (y > 6))
    scan = {"shape": (8, 64, 64), "position": (0, 1, 2), "mapping": IntensityMapping(0, 2000)}
    plain = {"position": (2, 0, 1), "mapping": None}
    yield (
        "constant",
        "every voxel is -7, i2, valid part (3, 5, 7)",
        {**plain, "values": np.full((3, 5, 7), -7, "<i2"), "shape": (8, 64, 64)},
    )
    yield (
        "lossless",
        "the values 0 1 2 / 256 257 65535, u2",
        {
            **plain,
            "values": np.array([[[0, 1, 2], [256, 257, 65535]]], "<u2"),
            "shape": (1, 2, 3),
        },
    )
    yield (
        "bounded",
        "the values 0 / 3 / 1000 / NaN / 2.5 / -7, f4, at most 0.5 away, then the stored bits as "
        "differences",
        {
            **plain,
            "values": np.array([0, 3, 1000, np.nan, 2.5, -7], "<f4").reshape(1, 2, 3),
            "shape": (1, 2, 3),
            "guarantee": Guarantee("lossless", 0.5, "base", ("zstd",)),
        },
    )
    yield (
        "fast",
        "600 + 20x + 5y(z + 1) + 150 where x > 9 and y > 6, u2, valid part (3, 20, 24); 9999 at "
        "(0, 0, 0) is special",
        {
            **scan,
            "values": np.where((z + y + x) == 0, 9999, ramp).astype("<u2"),
            "parameters": CodecParameters(effort=1, step=1.0),
            "options": replace(PSC, special_values=(9999,)),
            "prior": load_prior("test-tiny"),
        },
    )
    yield (
        "paper",
        "the same values without the special one, i2; one round of twelve rows",
        {
            **scan,
            "values": ramp.astype("<i2"),
            "parameters": CodecParameters(setting="paper", rounds=1),
            "prior": load_prior("test-tiny"),
        },
    )


FORMULA = "600 + 20x + 5y(z + 1) + ((40503 x + 7919 y + 977 z) >> 4 & 15)"


def small_examples() -> Iterator[tuple[str, str, dict]]:
    """One each for sections 15, 16 and 17, with sigma, a reference and a box."""
    z, y, x = np.indices((2, 9, 10))
    values = 600 + 20 * x + 5 * y * (z + 1) + ((40503 * x + 7919 * y + 977 * z) >> 4 & 15)
    plain = {"position": (0, 0, 0), "mapping": None, "shape": (2, 9, 10)}
    lossy = {
        **plain,
        "mapping": IntensityMapping(600, 900),
        "options": BrickOptions(base="wavelet"),
    }
    yield (
        "context",
        f"{FORMULA}, u2, valid part (2, 9, 10), by coder 1",
        {
            **plain,
            "values": values.astype("<u2"),
            "guarantee": Guarantee("lossless", coders=("context",)),
        },
    )
    spread = (40503 * x + 7919 * y + 977 * z) * 131 % 5000
    yield (
        "edges",
        "(131 (40503 x + 7919 y + 977 z)) mod 5000, i2, valid part (2, 9, 10), by coder 1: "
        "many edges of 15.9 lie outside",
        {
            **plain,
            "values": spread.astype("<i2"),
            "guarantee": Guarantee("lossless", coders=("context",)),
        },
    )
    yield (
        "interpolation",
        "the same values, i2, at most 3 away, by coder 9",
        {
            **plain,
            "values": values.astype("<i2"),
            "guarantee": Guarantee("bounded", 3.0, coders=("interpolation",)),
        },
    )
    yield (
        "wavelet",
        "the same values, u2; then the stored bits by coder 1, as differences",
        {
            **lossy,
            "values": values.astype("<u2"),
            "guarantee": Guarantee("lossless", None, "base", ("context",)),
        },
    )
    mask = np.zeros(values.shape, bool)
    mask[:, 2:7, 3:8] = True
    yield (
        "box",
        "the same values; the stored bits in the box z 0 .. 1, y 2 .. 6, x 3 .. 7 alone",
        {
            **lossy,
            "values": values.astype("<u2"),
            "options": BrickOptions(base="wavelet", exact_mask=mask),
        },
    )


def block(name: str, words: str, arguments: dict) -> str:
    plain = {"parameters": CodecParameters(), "prior": None, "guarantee": PLAIN, "options": PSC}
    arguments = {**plain, **arguments}
    encoded = encode_brick(**arguments)
    data, prior = encoded.data, arguments["prior"]
    lines = [f"**Example `{name}`**: {words}. {len(data)} bytes.", ""]
    lines += ["    " + data[i : i + 32].hex(" ", -4) for i in range(0, len(data), 32)]
    lines += ["", "| level | SHA-256 of the values | SHA-256 of sigma |", "|---|---|---|"]
    for level in range(len(encoded.records[0].mse)):
        decoded = decode_brick(
            lambda start, length: data[start : start + length],
            selection=(slice(None), slice(None), slice(None)),
            level=level,
            prior=lambda digest: prior,
            spread=True,
        )
        digests = (
            hashlib.sha256(a.tobytes()).hexdigest() for a in (decoded.values, decoded.spread)
        )
        lines.append(f"| {level} | " + " | ".join(digests) + " |")
    return "\n".join(lines) + "\n"


def numbered(text: str) -> str:
    """The text with today's format number, and with that the example field by field."""
    number = constants.FORMAT_VERSION
    first = next(iter(examples()))[2]
    plain = {"parameters": CodecParameters(), "prior": None, "guarantee": PLAIN, "options": PSC}
    data = encode_brick(**{**plain, **first}).data
    title = f"number {number}" + (" (experimental)" if number == 0 else "")
    for pattern, new in (
        (r"(?<=^# PSC brick and archive format, ).*$", title),
        (r"(?<=\| format number \| )\d+(?= \|)", str(number)),
        (r'(?<="format": )\d+', str(number)),
        (
            r"^\| `\w{8}` \| format number \d+ \|$",
            f"| `{data[4:8].hex()}` | format number {number} |",
        ),
        (r"(?<=^\| `)\w{8}(?=` \| CRC-32C of the bytes before \|$)", data[-4:].hex()),
    ):
        text, count = re.subn(pattern, new, text, flags=re.M)
        assert count, pattern
    return text


def main() -> None:
    text = numbered(SPEC.read_text(encoding="utf-8"))
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    prior = load_prior("test-tiny").digest
    blocks = [block(*example) for example in (*examples(), *small_examples())]
    body = f"\nDigest of `test-tiny`: {prior}\n\n" + "\n".join(blocks) + "\n"
    SPEC.write_text(head + BEGIN + body + END + tail, encoding="utf-8")
    found = re.findall(r"\*\*Example `(\w+)`\*\*", body)
    print(f"{len(found)} examples in {SPEC}")


if __name__ == "__main__":
    main()
