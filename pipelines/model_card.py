"""The card that goes with a prior: what it was trained on, what conversion cost, its limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipelines.recipe import Recipe
from psc_volumetric.prior import Prior

__all__ = ["model_card"]


def model_card(
    recipe: Recipe,
    prior: Prior,
    losses: Mapping[str, tuple[float, float]],
    training: Sequence[str],
    validation: Sequence[str],
) -> str:
    """Text of ``docs/README.md`` in the prior's folder.

    ``losses`` maps a noise level to its held-out error before and after conversion.
    """
    rows = "\n".join(
        f"| {k} | {before:.6f} | {after:.6f} | {after / before - 1:+.2%} |"
        for k, (before, after) in losses.items()
    )
    a, s = recipe.architecture, recipe.settings
    return f"""# Prior `{recipe.name}`

{recipe.description}

- Digest: `{prior.digest}`
- Tile: {a.slices} x {a.tile} x {a.tile}; MONAI `DiffusionModelUNet`, channels {list(a.channels)},
  {a.fold} x {a.fold} pixels folded into channels, no attention.
- Training: {s.minutes:g} minutes on `{s.device}` with {s.threads} thread(s), batch {s.batch},
  v-prediction, cosine schedule, EMA; recipe in `configs/metadata.json`, rerun with
  `psc-archive prior train {recipe.name} DATA --out NEW_FOLDER`.
- Trained on {len(training)} volumes: {", ".join(sorted(training))}.
- Held out, by patient, {len(validation)} volumes: {", ".join(sorted(validation))}.

Mean squared error of the denoised tile on held-out volumes, normalised units squared, before and
after conversion to integers:

| t (1 = pure noise) | float | integer | cost |
|---|---|---|---|
{rows}

## Data

{recipe.data_notes or "Synthetic; no licence applies."}

## Limits

A prior describes what it was trained on. Elsewhere it still decodes exactly, only larger. What a
low-rate decode shows beyond its measurements is an estimate: not for primary diagnosis.
"""
