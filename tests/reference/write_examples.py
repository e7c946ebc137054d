"""Write the examples of SPEC-v1.md section 12 anew: ``python tests/reference/write_examples.py``.

The only writer of that section. While the format number is 0 it is run when the format or the
tiny prior changes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

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


def block(name: str, words: str, arguments: dict) -> str:
    plain = {"parameters": CodecParameters(), "prior": None, "guarantee": PLAIN, "options": PSC}
    arguments = {**plain, **arguments}
    encoded = encode_brick(**arguments)
    data, prior = encoded.data, arguments["prior"]
    lines = [f"**Example `{name}`**: {words}. {len(data)} bytes.", ""]
    lines += ["    " + data[i : i + 32].hex(" ", -4) for i in range(0, len(data), 32)]
    lines += ["", "| level | SHA-256 of the values |", "|---|---|"]
    for level in range(len(encoded.records[0].mse)):
        decoded = decode_brick(
            lambda start, length: data[start : start + length],
            selection=(slice(None), slice(None), slice(None)),
            level=level,
            prior=lambda digest: prior,
        )
        lines.append(f"| {level} | {hashlib.sha256(decoded.values.tobytes()).hexdigest()} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    text = SPEC.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    prior = load_prior("test-tiny").digest
    blocks = [block(*example) for example in examples()]
    body = f"\nDigest of `test-tiny`: {prior}\n\n" + "\n".join(blocks) + "\n"
    SPEC.write_text(head + BEGIN + body + END + tail, encoding="utf-8")
    found = re.findall(r"\*\*Example `(\w+)`\*\*", body)
    print(f"{len(found)} examples in {SPEC}")


if __name__ == "__main__":
    main()
