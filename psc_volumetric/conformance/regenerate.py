"""Write the golden vectors that are missing: ``python -m psc_volumetric.conformance.regenerate``.

The only writer of ``conformance/vectors``. The vectors of a published format are final: those that
are there stay, and new ones are added. Streams are encoded with the float64 carrier, from values
made of integers alone.
"""

from __future__ import annotations

import functools
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from psc_volumetric.codec import BrickOptions, encode_brick
from psc_volumetric.conformance.bad_cases import bad_streams
from psc_volumetric.conformance.recipes import TINY, Recipe, recipes
from psc_volumetric.conformance.runner import carried_digest, decode_case, make_denoiser
from psc_volumetric.errors import PscError
from psc_volumetric.golden import CASE, INDEX, NETWORKS, STREAM, VECTORS, Case, load_case
from psc_volumetric.methods.psc.trust import offering, primitive_digests
from psc_volumetric.prior import (
    installed_autoencoders,
    installed_latents,
    installed_posteriors,
    installed_priors,
    load_prior,
)
from psc_volumetric.prior.runtime import one_thread
from psc_volumetric.values.mapping import IntensityMapping

if TYPE_CHECKING:
    from psc_volumetric.conformance.runner import Carried

__all__ = ["encode_recipe", "main", "write"]


def _document(recipe: Recipe, digest: str | None) -> dict[str, Any]:
    return {
        "covers": recipe.covers,
        "needs_prior": digest is not None,
        "prior": digest,
        "dtype": recipe.values.dtype.str,
        "position": list(recipe.position),
        "shape": list(recipe.shape),
        "valid": list(recipe.values.shape),
        "mapping": [recipe.low, recipe.high],
        "parameters": recipe.parameters.to_dict(),
        "special_values": list(recipe.special),
        "seed": 0,
        "guarantee": asdict(recipe.guarantee),
        "limits": None if recipe.limits is None else list(recipe.limits),
    }


def encode_recipe(recipe: Recipe) -> Case:
    """Encode one recipe with the float64 carrier and decode it again at every level."""
    prior = load_prior(recipe.prior) if recipe.network else None
    if prior is not None and recipe.prompt is not None:
        prior = prior.told(recipe.prompt)
    denoiser = _carrier(recipe.prior) if recipe.network else None
    mask = None
    if recipe.exact is not None:
        mask = np.zeros(recipe.values.shape, bool)
        mask[recipe.exact] = True
    encoded = encode_brick(
        recipe.values,
        position=recipe.position,
        shape=recipe.shape,
        mapping=IntensityMapping(recipe.low, recipe.high) if recipe.network else None,
        parameters=recipe.parameters,
        prior=prior,
        guarantee=recipe.guarantee,
        options=BrickOptions(
            special_values=recipe.special,
            base=recipe.base,
            exact_mask=mask,
            limits=recipe.limits,
            denoisers=None if denoiser is None else offering(denoiser),
        ),
    )
    used = prior.digest if prior is not None and encoded.index.prior_digest else None
    document = _document(recipe, used)
    document["method"] = encoded.method
    case = Case(recipe.name, encoded.data, document)
    levels = len(encoded.records[0].mse)
    document["levels"] = [decode_case(case, level, denoiser) for level in range(levels)]
    return case


@functools.cache
def _carrier(prior: str) -> Carried:
    """A shipped prior with the slow and obvious arithmetic."""
    return make_denoiser(load_prior(prior).digest, "cpu", "float64")


def bad_case(name: str, covers: str, stream: bytes, kind: str, prior: str) -> Case:
    """Check that a bad stream is refused as promised, and describe it."""
    document: dict[str, Any] = {
        "covers": covers,
        "needs_prior": False,
        "prior": prior,
        "kind": kind,
    }
    case = Case(name, stream, document)
    try:
        decode_case(case, denoiser=_carrier(TINY))
    except PscError as error:
        if error.kind == kind:
            return case
        raise SystemExit(f"{name}: expected kind {kind}, found {error.kind}: {error}") from error
    raise SystemExit(f"{name}: expected kind {kind}, decoded without an error")


def networks() -> dict[str, Any]:
    """Digests of primitives and of every shipped prior's network, from the float64 carrier."""
    kinds = {
        "priors": installed_priors(),
        "posteriors": installed_posteriors(),
        "latents": installed_latents(),
        "autoencoders": installed_autoencoders(),
    }
    found = {
        kind: {
            info.digest: {"name": name, "digest": carried_digest(_carrier(name))}
            for name, info in sorted(installed.items())
        }
        for kind, installed in kinds.items()
    }
    return {"primitives": primitive_digests("cpu"), **found}


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def write(folder: Path) -> int:
    """Make the vectors that the folder lacks; returns the size of all in bytes."""
    tiny = load_prior(TINY)

    def kept(name: str) -> Case | None:
        return load_case(name, folder) if (folder / name).is_dir() else None

    with one_thread():
        good = [kept(recipe.name) or encode_recipe(recipe) for recipe in recipes()]
        streams = {case.name: case.stream for case in good}
        bad = [
            kept(item[0]) or bad_case(*item, tiny.digest)
            for item in bad_streams(streams, tiny.levels)
        ]
    cases = [*good, *bad]
    for case in cases:
        (folder / case.name).mkdir(parents=True, exist_ok=True)
        (folder / case.name / STREAM).write_bytes(case.stream)
        _write_json(folder / case.name / CASE, case.document)
    _write_json(folder / NETWORKS, networks())
    _write_json(folder / INDEX, {"cases": [case.name for case in cases]})
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main(
    target: Annotated[Path, typer.Option(help="Folder to add to.")] = VECTORS,
) -> None:
    """Write the golden vectors that are missing."""
    nbytes = write(target)
    typer.echo(f"{nbytes} bytes of golden vectors in {target}")


if __name__ == "__main__":
    typer.run(main)
