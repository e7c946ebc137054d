"""SPEC-v1.md, constants.py and the shipped tables say the same, and the examples decode."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
from reference_decoder import context_network, decode
from reference_decoder.exact import noise
from reference_decoder.fields import crc32c
from reference_decoder.tables import read_safetensors

from psc_volumetric.bitstream import constants
from psc_volumetric.bitstream import wire as package_wire
from psc_volumetric.methods.psc.transform import basis
from psc_volumetric.methods.registry import CODES
from psc_volumetric.prior import load_prior

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "psc_volumetric" / "bitstream" / "SPEC-v1.md").read_text(encoding="utf-8")


def section(number: str) -> str:
    """Text of one section, without its subsections."""
    found = re.search(rf"^##+ {re.escape(number)}\.? .*?(?=^##)", TEXT + "\n##", re.M | re.S)
    assert found, f"section {number} is missing"
    return found.group()


def rows(number: str) -> list[list[str]]:
    """Cells of the tables in a section, heads and rules left out."""
    lines = [line for line in section(number).splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rules = [i for i, row in enumerate(cells) if set(row[0]) <= {"-"}]
    heads = {i - 1 for i in rules}
    return [row for i, row in enumerate(cells) if i not in heads and i not in rules]


def test_prologue_matches() -> None:
    table = {row[3]: row[4] for row in rows("3") if len(row) == 6}
    assert bytes.fromhex(table["magic"].split(" (")[0]) == constants.MAGIC
    assert int(table["format number"]) == constants.FORMAT_VERSION


def test_codes_match() -> None:
    methods = {int(row[0]): row[1] for row in rows("3.1") if row[0].isdigit()}
    assert methods == CODES
    coders = [row for row in rows("8.1") if not row[1].startswith("reserved")]
    assert {int(row[0]): row[1] for row in coders} == constants.CODERS
    dtypes = {
        int(row[0]): np.dtype(row[1] if row[1] == "bool" else "<" + row[1]) for row in rows("3.2")
    }
    assert dtypes == constants.DTYPES


def test_limits_match() -> None:
    written = [row[:2] for number in ("10", "10.1", "10.2", "10.3", "10.4") for row in rows(number)]
    limits = {name: 2.0**-1000 if n == "2^-1000" else int(n) for name, n in written}
    named = {n for n in constants.__all__ if n.startswith(("MAX_", "MIN_"))}
    assert set(limits) == named | {"SAMPLE_FRACTION_BITS"}
    assert {name: getattr(constants, name) for name in limits} == limits


def test_tables_file_is_the_one_in_the_text() -> None:
    data = (ROOT / "psc_volumetric" / "entropy" / "tables.safetensors").read_bytes()
    assert hashlib.sha256(data).hexdigest() in section("7.2")


def test_networks_file_is_the_one_in_the_text() -> None:
    data = (ROOT / "psc_volumetric/coders/context/networks.safetensors").read_bytes()
    text = section("15.11")
    assert hashlib.sha256(data).hexdigest() == context_network.SHA256
    assert context_network.SHA256 in text
    assert f"{len(data)} bytes" in text
    tensors = read_safetensors(data)
    assert set(tensors) == {f"0.{name}" for name in ("first", "second", "last", "biases")}
    assert all(str(tensors[f"0.{n}"].shape) in text for n in ("first", "second", "last"))


def test_bases_match() -> None:
    printed = re.findall(r"-?\d{4,5}", section("5.3").split("B(1) =")[1].split("The **")[0])
    ours = np.concatenate([basis(size).reshape(-1) for size in (1, 2, 4, 8)])
    assert [int(number) for number in printed] == ours.tolist()


def test_known_answers() -> None:
    assert crc32c(b"123456789") == package_wire.crc32c(b"123456789") == 0xE3069283
    starts = noise(seed=1, tile=2, pass_number=3, particles=1, elements=8)[0]
    assert ", ".join(map(str, starts)) in " ".join(section("5.2").split())


def examples() -> dict[str, tuple[bytes, list[tuple[str, str]]]]:
    found = {}
    for piece in section("12.1").split("**Example `")[1:]:
        name = piece.split("`")[0]
        data = bytes.fromhex("".join(re.findall(r"^    ([0-9a-f ]+)$", piece, re.M)))
        digests = re.findall(r"^\| \d \| ([0-9a-f]{64}) \| ([0-9a-f]{64}) \|$", piece, re.M)
        found[name] = data, digests
    return found


@pytest.mark.parametrize(
    "name",
    [
        *("constant", "lossless", "bounded", "fast", "context", "edges", "interpolation"),
        *("wavelet", "box"),
        pytest.param("paper", marks=pytest.mark.slow),
    ],
)
def test_worked_examples_decode(name: str) -> None:
    data, digests = examples()[name]
    prior = load_prior("test-tiny")
    assert prior.digest in section("12.1")
    assert digests
    for level, (values, sigma) in enumerate(digests):
        decoded = decode(data, prior.files(), level)
        assert hashlib.sha256(decoded.values.tobytes()).hexdigest() == values
        assert hashlib.sha256(decoded.spread.tobytes()).hexdigest() == sigma


def test_the_walk_through_is_the_constant_example() -> None:
    fields = [row[0].strip("`") for row in rows("12.1") if row[0].startswith("`")]
    assert bytes.fromhex("".join(fields)) == examples()["constant"][0]


def test_sections_cited_in_the_code_exist() -> None:
    cited = set()
    for path in (ROOT / "psc_volumetric").rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        cited |= set(re.findall(r"SPEC(?:-v1\.md)?`*,? (?:sections? )?(\d+(?:\.\d+)?)\b", source))
        cited |= set(re.findall(r"Part of the format \((\d+\.\d+)\)", source))
    assert {"5.1", "5.2", "5.7", "6.3", "6.5", "7.4"} <= cited
    for number in sorted(cited):
        section(number)
