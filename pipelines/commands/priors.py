"""Priors as the command line shows them: which are installed, and what one of them is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from psc_volumetric.extras import require
from psc_volumetric.prior import installed, load_prior

__all__ = ["inspect_lines", "inspect_prior", "list_priors", "prior_lines", "train_prior"]


def list_priors() -> list[dict[str, Any]]:
    """Installed priors of all kinds, by name; reads metadata only."""
    return [
        {
            "name": info.name,
            "digest": info.digest,
            "modality": info.modality,
            "description": info.description,
            "bytes": sum(p.stat().st_size for p in info.folder.rglob("*") if p.is_file()),
        }
        for _, info in sorted(installed().items())
    ]


def prior_lines(rows: list[dict[str, Any]]) -> list[str]:
    """The list for people."""
    if not rows:
        return ["no priors are installed"]
    return [
        f"{row['name']:<22} {row['digest'][:16]}  {row['modality']:<10} "
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
    known = ("name", "digest", "identity")
    return {
        "name": prior.name,
        "digest": prior.digest,
        "kind": prior.kind,
        "tile_shape": list(prior.tile_shape),
        "noise_levels": prior.levels,
        "files": {path: len(data) for path, data in sorted(prior.files().items())},
        "network_steps": len(prior.program.steps),
        **{key: value for key, value in described.items() if key not in known},
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


def train_prior(
    recipe: str,
    data: Sequence[Path],
    out: Path,
    weights: Path | None,
    minutes: float | None,
    device: str | None,
    report: Callable[[str], None],
) -> None:
    """Train a prior as a recipe says, with the two settings a machine decides changed.

    Parameters
    ----------
    recipe : str
        Name of a shipped recipe, or a JSON file.
    data : sequence of Path
        Files and folders with volumes.
    out : Path
        New folder.
    weights : Path or None
        Float weights of an earlier run of this recipe, or a local diffusers ``UNet2DModel`` folder.
    minutes, device
        Replace what the recipe says when not None.
    report : callable
        Takes one line of progress.

    Raises
    ------
    ParameterError : unknown recipe.
    StorageError : the folder exists.
    SourceError : no volumes there.
    ExtraMissingError : torch, or what the network of the recipe is built with, is missing.
    """
    require("prior", "training a prior")
    from pipelines.training.make_prior import import_diffusers, make_prior
    from pipelines.training.recipe import Recipe

    chosen = Recipe.load(recipe)
    settings = chosen.settings
    if minutes is not None:
        settings = replace(settings, minutes=minutes)
    if device is not None:
        settings = replace(settings, device=device)
    chosen = replace(chosen, settings=settings)
    if weights is not None and weights.is_dir():
        import_diffusers(chosen, weights, data, out, report=report)
    else:
        make_prior(chosen, data, out, weights=weights, report=report)
