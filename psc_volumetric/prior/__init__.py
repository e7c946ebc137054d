"""Diffusion priors: integer networks named by the digest of their weights.

A prior is a folder in MONAI-bundle shape: ``configs/metadata.json`` (plain JSON, never
evaluated), ``models/integer.safetensors``, ``docs/README.md``. An archive embeds the first two.
"""

from __future__ import annotations

from psc_volumetric.prior.bundle import Prior, PriorSource, prior_from_files
from psc_volumetric.prior.finding import (
    PriorInfo,
    installed,
    installed_autoencoders,
    installed_latents,
    installed_posteriors,
    installed_priors,
    load_prior,
    resolve_prior,
)

__all__ = [
    "Prior",
    "PriorInfo",
    "PriorSource",
    "installed",
    "installed_autoencoders",
    "installed_latents",
    "installed_posteriors",
    "installed_priors",
    "load_prior",
    "prior_from_files",
    "resolve_prior",
]
