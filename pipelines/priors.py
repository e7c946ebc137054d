"""Priors as the command line shows them: which are installed, and what one of them is."""

from __future__ import annotations

from typing import Any

from psc_volumetric.prior import installed_priors, load_prior

__all__ = ["inspect_lines", "inspect_prior", "list_priors", "prior_lines"]


def list_priors() -> list[dict[str, Any]]:
    """Installed priors, by name; reads metadata only."""
    return [
        {
            "name": info.name,
            "digest": info.digest,
            "modality": info.modality,
            "description": info.description,
            "bytes": sum(p.stat().st_size for p in info.folder.rglob("*") if p.is_file()),
        }
        for _, info in sorted(installed_priors().items())
    ]


def prior_lines(rows: list[dict[str, Any]]) -> list[str]:
    """The list for people."""
    if not rows:
        return ["no priors are installed"]
    return [
        f"{row['name']:<16} {row['digest'][:16]}  {row['modality']:<10} "
        f"{row['bytes'] / 1e6:>7.2f} MB  {row['description']}"
        for row in rows
    ]


def inspect_prior(name: str) -> dict[str, Any]:
    """One prior, loaded and checked.

    Parameters
    ----------
    name : str
        Name of an installed prior, or a prior folder.

    Raises
    ------
    PriorMismatchError : no such prior.
    FormatError : the folder is damaged or breaks a limit.
    """
    prior = load_prior(name)
    described = prior.metadata.get("psc_prior", {})
    return {
        "name": prior.name,
        "digest": prior.digest,
        "tile_shape": list(prior.tile_shape),
        "noise_levels": prior.levels,
        "files": {path: len(data) for path, data in sorted(prior.files().items())},
        **{key: value for key, value in described.items() if key not in ("name", "digest")},
    }


def inspect_lines(found: dict[str, Any]) -> list[str]:
    """The description for people; nested values as indented lines."""
    return _lines(found, "")


def _lines(values: dict[str, Any], indent: str) -> list[str]:
    lines = []
    for key, value in values.items():
        if isinstance(value, dict) and value:
            lines += [f"{indent}{key}:", *_lines(value, indent + "  ")]
        else:
            text = str(value)
            lines.append(f"{indent}{key:<16} {text if len(text) <= 160 else text[:157] + '...'}")
    return lines
