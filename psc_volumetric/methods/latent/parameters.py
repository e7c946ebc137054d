"""From what a user chooses to the parameters that a ``latent`` stream carries. Encoder only."""

from __future__ import annotations

from functools import singledispatch

from psc_volumetric.bitstream.constants import MAX_TILE_ROWS
from psc_volumetric.methods.latent.fields import parameters_of
from psc_volumetric.methods.parameters import CodecParameters
from psc_volumetric.methods.psc.fields import StreamParameters

__all__ = ["falling_levels", "latent_parameters"]

PAPER_STEPS, PAPER_PARTICLES, PAPER_ROWS = 25, 64, 48  # PSC, experiments with Stable Diffusion
EFFORTS = {1: (2, 4), 2: (4, 8), 3: (6, 16), 4: (8, 16), 5: (10, 16), 6: (12, 32), 7: (16, 32),
           8: (20, 64), 9: (25, 64)}  # fmt: skip
USUAL_STEP, USUAL_ROUNDS = 0.5, 2  # rounds at that quantiser step
ROUNDS_WITH_A_LEVEL = 8  # from which on there is a level half way


@singledispatch
def latent_parameters(
    chosen: CodecParameters, levels: int, elements: int, seed: int
) -> StreamParameters:
    """Parameters as a stream carries them; others register theirs for their own classes.

    Parameters
    ----------
    chosen : CodecParameters
        The paper's setting takes its number of rounds as it is; the other one takes more of them
        for a finer step, in proportion.
    levels : int
        Noise levels of the prior.
    elements : int
        Numbers of a latent: there are no more rows.
    seed : int
        Key of the noise.
    """
    if chosen.setting == "paper":
        steps, particles, rows, rounds = PAPER_STEPS, PAPER_PARTICLES, PAPER_ROWS, chosen.rounds
    else:
        steps, particles = EFFORTS[chosen.effort]
        rows = 3 * particles // 4
        rounds = round(min(USUAL_ROUNDS * USUAL_STEP / chosen.step, MAX_TILE_ROWS))
    rounds = max(1, min(rounds, min(MAX_TILE_ROWS, elements) // rows))
    ends = (rounds // 2, rounds) if rounds >= ROUNDS_WITH_A_LEVEL else (rounds,)
    return parameters_of(particles, rows, 1, seed, falling_levels(steps, levels), ends)


def falling_levels(steps: int, levels: int) -> tuple[int, ...]:
    """Noise levels of one pass: from pure noise, evenly apart in time, each once."""
    times = (1 - i / steps for i in range(steps))
    found = {min(levels - 1, max(0, round(t * levels) - 1)) for t in times}
    return tuple(sorted(found, reverse=True))
