"""Names that callers outside this repository import; they move only with a decision."""

from __future__ import annotations

import importlib

import pytest

NAMES = {
    "psc_volumetric.archive": (
        "ArchiveReader", "ArchiveWriter", "VariableSpec", "verify_archive", "target_state",
    ),
    "psc_volumetric.archive.manifest": ("Entry", "Manifest", "sha256_hex"),
    "psc_volumetric.codec": ("CodecParameters", "decode_brick", "encode_brick"),
    "psc_volumetric.errors": ("PscError", "FormatError", "StorageError", "ParameterError"),
    "psc_volumetric.guarantee": ("Guarantee",),
    "pipelines.archive": ("ArchiveOptions", "archive", "plan"),
    "pipelines.options": ("ArchiveOptions",),
    "pipelines.restore": ("RestoreOptions", "restore"),
    "pipelines.archive_report": ("plan_lines", "report_lines"),
}  # fmt: skip


@pytest.mark.parametrize("module", NAMES)
def test_a_public_name_is_where_callers_look(module: str) -> None:
    found = importlib.import_module(module)
    assert set(NAMES[module]) <= set(found.__all__)
