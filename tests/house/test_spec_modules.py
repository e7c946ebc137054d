"""Sections of SPEC-v1.md name the modules that implement them, and those name their sections."""

from __future__ import annotations

import ast
import re
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "psc_volumetric"
SPEC = (PACKAGE / "bitstream" / "SPEC-v1.md").read_text(encoding="utf-8")
ABOUT_NO_BYTES = {"1", "12", "13", "14"}  # goals, examples, privacy, changes
NUMBER = r"\d+(?:\.\d+)?"
SAID = re.compile(rf"SPEC (?:sections? )?({NUMBER}(?:(?:, | and ){NUMBER})*)")


def sections() -> dict[str, set[str]]:
    """Number of each section -> modules that it names."""
    found: dict[str, set[str]] = {}
    for part in re.split(r"^##+ ", SPEC, flags=re.M)[1:]:
        number = re.match(NUMBER, part)
        assert number, part[:40]
        named = re.search(r"^\*In the package:\* (.+)\.$", part, re.M)
        found[number.group()] = set(re.findall(r"`([\w.]+)`", named.group(1))) if named else set()
    return found


def docstrings() -> dict[str, set[str]]:
    """Module -> sections that its docstring names."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        said = SAID.findall(" ".join(text.split()))
        numbers = {number for group in said for number in re.findall(NUMBER, group)}
        found[".".join(path.relative_to(PACKAGE).with_suffix("").parts)] = numbers
    return found


def test_sections_and_modules_name_each_other() -> None:
    by_section = {(number, name) for number, names in sections().items() for name in names}
    by_module = {(number, name) for name, numbers in docstrings().items() for number in numbers}
    assert not by_section - by_module, "modules that do not name the section that names them"
    assert not by_module - by_section, "sections that do not name the module that names them"


def test_every_section_about_bytes_names_a_module() -> None:
    chapters = {number for number, names in sections().items() if names}
    chapters = {number.split(".")[0] for number in chapters}
    numbers = {number.split(".")[0] for number in sections()}
    assert numbers - chapters == ABOUT_NO_BYTES


def test_modules_that_are_part_of_the_format_name_a_section() -> None:
    silent = []
    for path in PACKAGE.rglob("*.py"):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        if "Part of the format" in text and not SAID.search(" ".join(text.split())):
            silent.append(path.relative_to(PACKAGE).as_posix())
    assert not silent
