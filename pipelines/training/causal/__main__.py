"""``python -m pipelines.training.causal record | train | convert | measure``; see CONTRIBUTING."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from adapters.errors import SourceError
from psc_volumetric.errors import PscError

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Causal networks.")

Sources = Annotated[list[Path], typer.Argument(help="Files and folders with volumes.")]
Folder = Annotated[Path, typer.Argument(help="What was recorded.")]


@app.command()
def record(
    data: Sources,
    out: Annotated[Path, typer.Option(help="Folder; other seeds add to it.")],
    seed: Annotated[int, typer.Option(help="Of the draw of crops and voxels.")] = 0,
) -> None:
    """Note what a network sees of crops of volumes that no recipe holds out."""
    from pipelines.training.causal.record import record as record_all

    def run() -> None:
        _print(f"{record_all(data, out, seed=seed, report=_print)} voxels in {out}")

    _guarded(run)


@app.command()
def train(
    folder: Folder,
    minutes: Annotated[float, typer.Option(help="Of one core, by the clock.", min=0.01)],
    out: Annotated[Path, typer.Option(help="Checkpoint, kept up to date.")],
    resume: Annotated[Path | None, typer.Option(help="Checkpoint to begin with.")] = None,
    seed: Annotated[int, typer.Option(help="Of first weights and batches.")] = 0,
) -> None:
    """Train a network of floats."""
    from pipelines.training.causal.train import train as train_all

    _guarded(lambda: train_all(folder, minutes, out, resume=resume, seed=seed, report=_print))


@app.command()
def convert(
    checkpoints: Annotated[list[Path], typer.Argument(help="Networks 0, 1, ...")],
    out: Annotated[Path, typer.Option(help="New file.")] = Path("networks.safetensors"),
    after: Annotated[
        Path | None, typer.Option(help="File of networks that come first, as they are.")
    ] = None,
) -> None:
    """Round networks to integers and prove that their sums fit into 32 bits."""
    from pipelines.training.causal.convert import convert as convert_all

    _guarded(lambda: convert_all(checkpoints, out, report=_print, after=after))


@app.command()
def measure(
    sources: Sources,
    max_error: Annotated[str, typer.Option(help="0 is lossless.")] = "0,2,5,10",
    crop: Annotated[
        tuple[int, int, int] | None, typer.Option(help="Voxels around the middle, z y x.")
    ] = None,
    middle: Annotated[
        int | None, typer.Option(help="Whole slices around the middle.", min=1)
    ] = None,
    network: Annotated[
        list[int] | None, typer.Option(help="Number; may be repeated. Default: all that ship.")
    ] = None,
) -> None:
    """Print bytes and CPU time with and without each network that ships."""
    from pipelines.training.causal.measure import HEAD, Wanted
    from pipelines.training.causal.measure import measure as measure_all

    if crop is not None and middle is not None:
        raise typer.BadParameter("--crop and --middle exclude each other")
    if crop is not None and min(crop) < 1:
        raise typer.BadParameter(f"--crop: expected extents of 1 or more, found {crop}")
    try:
        errors = tuple(int(word) for word in max_error.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"--max-error: whole numbers, found {max_error!r}") from error
    if min(errors) < 0:
        raise typer.BadParameter(f"--max-error: expected 0 or more, found {max_error!r}")

    def run() -> None:
        _print(HEAD)
        for row in measure_all(sources, Wanted(errors, crop, middle, tuple(network or ()))):
            _print(row)

    _guarded(run)


def _guarded(run: Callable[[], object]) -> None:
    """Errors in words, exit code 1."""
    try:
        run()
    except (PscError, SourceError) as error:
        sys.stderr.write(f"{error}\n")
        raise typer.Exit(1) from error


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    app()
