"""The card that goes with a prior: what it was trained on, what conversion cost, its limits."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.training.recipe import Recipe
from psc_volumetric.prior import Prior
from psc_volumetric.prior.making.networks import Architecture

__all__ = ["HeldOutErrors", "model_card"]

HeldOutErrors = dict[str, dict[str, float]]  # noise level -> "float", "integer"


def model_card(
    recipe: Recipe,
    prior: Prior,
    losses: HeldOutErrors,
    training: Sequence[str],
    validation: Sequence[str],
) -> str:
    """Text of ``docs/README.md`` in the prior's folder.

    ``losses`` maps a noise level to its held-out errors before and after conversion.
    """
    a, s = recipe.architecture, recipe.settings
    return f"""# Prior `{recipe.name}`

{recipe.description}

- Digest: `{prior.digest}`
- Tile: {a.slices} x {a.tile} x {a.tile}; {_network(a)}.
- Training: {s.minutes:g} minutes on `{s.device}` with {s.threads} thread(s), batch {s.batch},
  v-prediction, cosine schedule, EMA; recipe in `configs/metadata.json`, rerun with
  `psc-archive prior train {recipe.name} {"" if recipe.synthetic else "DATA "}--out NEW_FOLDER`.
- Trained on {len(training)} volumes: {", ".join(sorted(training))}.
- Held out, by patient or source, {len(validation)} volumes: {", ".join(sorted(validation))}.

Mean squared error of the denoised tile on held-out volumes, normalised units squared, before and
after conversion to integers:

{_table(losses)}

## Data

{recipe.data_notes or "Synthetic; no licence applies."}{_start(recipe)}

## Limits

A prior describes what it was trained on. Elsewhere it still decodes exactly, only larger. What a
low-rate decode shows beyond its measurements is an estimate: not for primary diagnosis.
"""


def _network(a: Architecture) -> str:
    folded = f"{a.fold} x {a.fold} pixels folded into channels" if a.fold > 1 else "full resolution"
    if a.family == "residual":
        return (
            "residual U-Net without normalisation (`psc_volumetric.prior.making.residual_unet`),\n"
            f"  channels {list(a.channels)}, blocks {list(a.blocks)}, {folded}"
        )
    attention = "self-attention" if a.mid_attention or any(a.attention_levels) else "no attention"
    return f"MONAI `DiffusionModelUNet`, channels {list(a.channels)},\n  {folded}, {attention}"


def _start(recipe: Recipe) -> str:
    if not recipe.start:
        return ""
    return (
        f"\n\nTraining went on from the weights of `{recipe.start}`, so what that prior was "
        "trained on is in here too, under the licences its card names."
    )


def _table(losses: HeldOutErrors) -> str:
    """Markdown: one row per noise level, and what conversion cost."""
    head = ["t (1 = pure noise)", "float", "integer", "cost"]
    rows = [head, ["---"] * len(head)]
    for level, errors in losses.items():
        exact, mse = errors["float"], errors["integer"]
        rows.append([level, f"{exact:.6f}", f"{mse:.6f}", f"{mse / exact - 1:+.2%}"])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
