"""Which view of a stream is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from psc_volumetric.errors import ParameterError

__all__ = ["GENERATED", "MEAN", "NESTED", "PIGDM", "REFINED", "SAMPLE", "VIEWS", "ViewRequest"]

MEAN, SAMPLE, NESTED, PIGDM, REFINED = "mean", "sample", "nested", "pigdm", "refined"
VIEWS = (MEAN, SAMPLE, NESTED, PIGDM, REFINED)
GENERATED = "generated detail"  # what every output of a view is labelled with
MOST_SEED = (1 << 32) - 1
EVALUATIONS = {  # of a denoiser, at most, for one tile of psc; a derivative counts as two
    MEAN: 0,
    SAMPLE: 25,
    NESTED: 500,
    PIGDM: 300,
    REFINED: 0,
}


@dataclass(frozen=True)
class ViewRequest:
    """A view by name.

    Attributes
    ----------
    name : str
        ``"mean"``: what decoding gives; ``"sample"``: one of the volumes that the bytes may stand
        for, drawn with the spread that the archive states, by DDRM where a prior coded them;
        ``"nested"``, ``"pigdm"``: by slower samplers of that prior, methods ``psc`` and ``latent``
        (`psc_volumetric.views.samplers`); ``"refined"``: latents with the detail that a denoiser
        of them draws, method ``two-stage`` only (`psc_volumetric.views.refined`).
    seed : int
        Which one, 0 .. 2^32 - 1. The same seed gives the same view.

    Raises
    ------
    ParameterError
        Another name (kind ``"bad-view"``) or seed (``"bad-seed"``).
    """

    name: str = MEAN
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in VIEWS:
            raise ParameterError(
                f"view must be one of {', '.join(VIEWS)}, found {self.name!r}", kind="bad-view"
            )
        if isinstance(self.seed, bool) or not 0 <= self.seed <= MOST_SEED:
            raise ParameterError(
                f"seed: expected a whole number of 0..{MOST_SEED}, found {self.seed!r}",
                kind="bad-seed",
            )

    @property
    def is_generated(self) -> bool:
        """Whether it has detail that was not measured."""
        return self.name != MEAN

    def check_alone(self, level: int | str | None, *, skip_damaged: bool) -> None:
        """Refuse what a view cannot be asked for with.

        Raises
        ------
        ParameterError
            Beside a quality level, or the reading of damaged bricks (kind ``"bad-view"``).
        """
        if self.is_generated and (level is not None or skip_damaged):
            raise ParameterError(
                f"view {self.name}: expected neither a level nor skip-damaged beside it",
                kind="bad-view",
                hint="a view is drawn from all bytes of sound bricks",
            )

    def evaluations(self, fields: object) -> int:
        """Evaluations of a network for a view of a whole brick with these header fields.

        A brick is decoded for its mean, decoded for its measurements, and drawn.
        """
        decoding = int(getattr(fields, "evaluations", 0))
        if not self.is_generated:
            return decoding
        return 2 * decoding + EVALUATIONS[self.name] * int(getattr(fields, "coded_tiles", 0))

    @property
    def label(self) -> str:
        """What outputs say of it: ``"generated detail (view sample, seed 7)"``."""
        return f"{GENERATED} (view {self.name}, seed {self.seed})"
