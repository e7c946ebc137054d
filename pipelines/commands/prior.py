"""``psc-archive prior list``, ``inspect``, ``train`` and ``import``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.options import Debug, Json, Quiet, choice
from pipelines.commands.session import Session

IMPORTED_LEVELS = 50

__all__ = ["prior_import", "prior_inspect", "prior_list", "prior_train"]


def prior_list(as_json: Json = False, quiet: Quiet = False, debug: Debug = False) -> None:
    """List the installed priors."""
    with Session(as_json=as_json, quiet=quiet, debug=debug) as session:
        from pipelines.commands.priors import list_priors, prior_lines

        rows = list_priors()
        session.result(rows, lambda: prior_lines(rows))


def prior_inspect(
    name: Annotated[str, typer.Argument(help="Name of an installed prior, or a prior folder.")],
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Load a prior, check it, and show what it is."""
    with Session(as_json=as_json, quiet=quiet, debug=debug) as session:
        from pipelines.commands.priors import inspect_lines, inspect_prior

        found = inspect_prior(name)
        session.result(found, lambda: inspect_lines(found))


def prior_train(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe, or a JSON file.")],
    out: Annotated[Path, typer.Option(help="Prior folder to make; must not exist.")],
    data: Annotated[
        list[Path] | None,
        typer.Argument(help="Files and folders with volumes; `test-tiny` makes its own."),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="Skip training: float weights of an earlier run, or a diffusers folder."),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Train this long instead of what the recipe says.")
    ] = None,
    train_device: Annotated[
        str | None,
        choice(("cpu", "cuda"), "--device", help="Train there instead of what the recipe says."),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train a prior from a recipe, convert it to integers, calibrate and check it."""
    with Session(as_json=as_json, quiet=quiet, debug=debug) as session:
        from pipelines.commands.priors import inspect_lines, inspect_prior, train_prior

        train_prior(recipe, data or [], out, weights, minutes, train_device, session.note)
        found = inspect_prior(str(out))
        session.result(found, lambda: inspect_lines(found))


def prior_import(
    folder: Annotated[
        Path, typer.Argument(help="Latent diffusion model: unet, vae, scheduler, text_encoder ...")
    ],
    out: Annotated[Path, typer.Option(help="Prior folder to make; must not exist.")],
    data: Annotated[
        list[Path] | None,
        typer.Argument(help="Volumes and pictures that ranges are measured on."),
    ] = None,
    levels: Annotated[
        int, typer.Option(min=1, max=1000, help="Noise levels to tabulate.")
    ] = IMPORTED_LEVELS,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make a prior for --base latent of a folder in the shape of Stable Diffusion."""
    with Session(as_json=as_json, quiet=quiet, debug=debug) as session:
        from pipelines.commands.priors import inspect_lines, inspect_prior
        from pipelines.training.latent import import_latent

        import_latent(
            folder, out, name=out.name, levels=levels, data=data or [], report=session.note
        )
        found = inspect_prior(str(out))
        session.result(found, lambda: inspect_lines(found))
