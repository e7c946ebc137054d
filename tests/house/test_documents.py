"""Decision records, changelog and tree keep the habits that CONTRIBUTING.md promises."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RECORDS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
RECORD_HEADINGS = (
    "## Problem",
    "## Options",
    "## Decision",
    "## Cost",
    "## What must stay true if this is reversed",
)
STATUS = re.compile(r"^- Status: (proposed|accepted|rejected \(.+\)|superseded by \d{4})$", re.M)


def test_decision_numbers_are_unique_and_without_gaps() -> None:
    numbers = [int(path.name[:4]) for path in RECORDS]
    assert numbers == list(range(len(numbers))), [path.name for path in RECORDS]


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.name)
def test_decision_record_is_complete(path: Path) -> None:
    assert re.fullmatch(r"\d{4}-[a-z0-9]+(-[a-z0-9]+)*\.md", path.name)
    text = path.read_text(encoding="utf-8")
    positions = [text.find(f"\n{heading}\n") for heading in RECORD_HEADINGS]
    assert -1 not in positions, "missing heading"
    assert positions == sorted(positions), "headings out of order"
    if path.name != "0000-template.md":
        assert text.startswith(f"# {path.name[:4]}: ")
        assert STATUS.search(text), "no valid status line"
        assert re.search(r"^- Date: \d{4}-\d{2}-\d{2}$", text, re.M), "no date"


def test_links_between_documents_lead_somewhere() -> None:
    documents = [*ROOT.glob("*.md"), *RECORDS, *(ROOT / "deploy").glob("*.md")]
    broken = []
    for document in documents:
        for target in re.findall(
            r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8")
        ):
            if "://" not in target and not (document.parent / target).exists():
                broken.append(f"{document.name} -> {target}")
    assert not broken


def test_every_changelog_section_says_which_formats_it_writes_and_reads() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.split(r"^## ", text, flags=re.M)[1:]
    assert sections[0].startswith("Unreleased\n")
    for section in sections:
        headings = re.findall(r"^### (.+)$", section, re.M)
        allowed = ["Format", "Added", "Changed", "Fixed", "Removed"]
        assert headings[0] == "Format", section.splitlines()[0]
        assert headings == [name for name in allowed if name in headings], headings


def test_every_dependency_has_a_tested_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!]+", pin) for pin in pins)

    def normalise(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    pinned = {normalise(pin.split("==")[0]) for pin in pins}
    missing = {normalise(re.split(r"[\[<>=!~ ]", item)[0]) for item in wanted} - pinned
    assert not missing


def test_every_command_that_is_written_down_runs_something() -> None:
    """``python -m NAME`` in the Makefile and the documents: a module that does more than load."""
    places = [ROOT / "Makefile", *ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    places += [*RECORDS, *(ROOT / "deploy").rglob("*"), ROOT / ".ci" / "run"]
    text = "\n".join(path.read_text("utf-8") for path in places if path.is_file())
    named = set(re.findall(r"-m ((?:pipelines|psc_volumetric|flows|tests|adapters)[\w.]*\w)", text))
    assert "pipelines.demo" in named
    idle = []
    for name in sorted(named):
        place = ROOT.joinpath(*name.split("."))
        file = place / "__main__.py" if place.is_dir() else place.with_suffix(".py")
        if not file.is_file() or '__name__ == "__main__"' not in file.read_text("utf-8"):
            idle.append(name)
    assert not idle
