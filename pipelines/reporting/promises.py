"""What an archive guarantees and what it does not, in words."""

from __future__ import annotations

from typing import Any

__all__ = ["promises"]


def promises(info: dict[str, Any]) -> list[tuple[bool, str]]:
    """Sentences, each with whether it is a guarantee (else it is the absence of one)."""
    said: list[tuple[bool, str]] = []
    for name, entry in info["variables"].items():
        said += _of_variable(name, entry["parameters"], entry["levels"])
    if info["provenance"].get("source_kind") == "original":
        said.append((True, "The source is kept as it was; no values can be read out of it."))
    for name in info["kept"]:
        said.append(
            (True, f"{name}: values are those of the source file, which is kept as it was.")
        )
    said.append(
        (
            True,
            "The manifest states size and SHA-256 of every object; a read that meets others fails.",
        )
    )
    if info["provenance"].get("stripped") is not None:
        said.append((False, "The source's headers were left out: its files cannot be made again."))
    return said


def _of_variable(
    name: str, parameters: dict[str, Any], levels: list[dict[str, Any]]
) -> list[tuple[bool, str]]:
    mode, bound = parameters.get("mode"), parameters.get("max_error")
    said = []
    if mode == "lossless":
        said.append((True, f"{name}: the last level is the source, bit for bit."))
    if bound is not None:
        which = "the level “bounded”" if mode == "lossless" else "the last level"
        said.append((True, f"{name}: no stored value of {which} is off by more than {bound:g}."))
    if mode == "lossy":
        said.append(
            (
                False,
                f"{name}: no single value has a bound; the errors below were measured.",
            )
        )
    if parameters.get("exact_roi"):
        said.append((True, f"{name}: exact in {parameters['exact_roi']}."))
    if any(level["coverage"] for level in levels):
        said.append(
            (
                False,
                f"{name}: sigma is an estimate; the table says how often it held.",
            )
        )
    return said
