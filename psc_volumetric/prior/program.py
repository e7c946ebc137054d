"""Integer networks as straight-line programs. Part of the format (SPEC section 6)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.errors import FormatError, LimitExceededError
from psc_volumetric.prior.proof import Prover
from psc_volumetric.prior.reach import Reach, reach_of
from psc_volumetric.prior.step import TOKEN_OPS, Step, is_integer

__all__ = ["Program", "canonical_digest"]

Tensors = Mapping[str, NDArray[np.generic]]

MAX_STEPS = 512
MAX_TILE = 1024
MAX_NOISE_LEVELS = 4096
MAX_TEXT_WIDTH, MAX_TOKENS_OF_TEXT = 2048, 256
MAX_INPUTS = 64  # channels that an estimator sees
OUT_BITS = range(11, 25)  # samples have 11; products with the schedule then stay below 2^63


@dataclass(frozen=True)
class Program:
    """An integer network with its tensors, proven free of overflow on construction.

    Attributes
    ----------
    steps : tuple of Step
        First reads register ``"x"`` (fraction bits 11); last writes the network's output.
    slices, tile : int
        Input is (batch, slices, tile, tile).
    levels : int
        Noise levels, or conditions, the biases are tabulated for.
    out_bits : int
        Fraction bits of the output.
    tensors : mapping
        Integer arrays by name.
    outputs : int
        Channels of the output of an **estimator**, which runs on planes of any extents that are
        multiples of its `reach`; 0 for a denoiser, whose output is shaped as its input.
    out_tile : int
        Of **half an autoencoder**: extent of its output, which has ``outputs`` channels. It runs on
        whole tiles; 0 for others.
    text : (width, tokens) or None
        Shape of the register ``"text"`` of a network that reads one (SPEC 6.10).
    """

    steps: tuple[Step, ...]
    slices: int
    tile: int
    levels: int
    out_bits: int
    tensors: Tensors
    outputs: int = 0
    out_tile: int = 0
    text: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.steps) <= MAX_STEPS:
            raise LimitExceededError(f"network has {len(self.steps)} steps", kind="limit")
        whole_blocks = 8 <= self.tile <= MAX_TILE and self.tile % 8 == 0
        allowed = range(1, MAX_INPUTS + 1) if self.outputs else (1, 2, 4, 8)
        if self.slices not in allowed or not whole_blocks or self.outputs < 0:
            raise FormatError(
                f"network tile: expected {'1 to 64' if self.outputs else '1, 2, 4 or 8'} slices of "
                f"8, 16, ... {MAX_TILE} voxels, found {self.slices} of {self.tile}",
                kind="bad-program",
            )
        if not 1 <= self.levels <= MAX_NOISE_LEVELS or self.out_bits not in OUT_BITS:
            raise FormatError(
                f"network: expected 1..{MAX_NOISE_LEVELS} noise levels and {OUT_BITS[0]}.."
                f"{OUT_BITS[-1]} output bits, found {self.levels} and {self.out_bits}",
                kind="bad-program",
            )
        if self.out_tile and not (self.outputs >= 1 and 1 <= self.out_tile <= MAX_TILE):
            raise FormatError(
                f"network: expected an output tile of 1..{MAX_TILE} with 1 channel or more, found "
                f"{self.out_tile} with {self.outputs}",
                kind="bad-program",
            )
        if self.text is not None and not (
            1 <= self.text[0] <= MAX_TEXT_WIDTH and 1 <= self.text[1] <= MAX_TOKENS_OF_TEXT
        ):
            raise FormatError(
                f"network: expected text of 1..{MAX_TEXT_WIDTH} numbers and "
                f"1..{MAX_TOKENS_OF_TEXT} tokens, found {self.text}",
                kind="bad-program",
            )
        shape, wanted = (self.slices, self.tile), (self.outputs, self.out_tile or self.tile)
        prover = Prover(
            shape, self.levels, self.tensors, wanted if self.outputs else shape, text=self.text
        )
        prover.run(self.steps)
        if self.outputs and not self.out_tile:
            _ = self.reach

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """Channels and extents that a whole tile gives."""
        extent = self.out_tile or self.tile
        return (self.outputs or self.slices, extent, extent)

    @property
    def has_tokens(self) -> bool:
        """Whether it has steps or registers that only bundles with text may have (SPEC 6.10)."""
        return self.text is not None or any(step.op in TOKEN_OPS for step in self.steps)

    @cached_property
    def reach(self) -> Reach:
        """How far an output of an estimator looks; FormatError for what looks at whole planes."""
        return reach_of(self.steps, self.tensors)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the tensors, JSON-able."""
        return {
            "slices": self.slices,
            "tile": self.tile,
            "levels": self.levels,
            "out_bits": self.out_bits,
            **({"outputs": self.outputs} if self.outputs else {}),
            **({"out_tile": self.out_tile} if self.out_tile else {}),
            **({"text": list(self.text)} if self.text else {}),
            "steps": [step.to_dict() for step in self.steps],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], tensors: Tensors) -> Program:
        """Rebuild and prove; :class:`FormatError` when the description is not a program."""
        try:
            sizes = [data[key] for key in ("slices", "tile", "levels", "out_bits")]
            sizes += [data.get("outputs", 0), data.get("out_tile", 0)]
            if not isinstance(data["steps"], list) or not all(map(is_integer, sizes)):
                raise TypeError("steps must be a list and the others integers")
            steps = tuple(Step.from_dict(s) for s in data["steps"])
            text = data.get("text")
            if text is not None and not (
                isinstance(text, list) and len(text) == 2 and all(map(is_integer, text))
            ):
                raise TypeError("text must be two integers")
            slices, tile, levels, out_bits, outputs, out_tile = sizes
            told = None if text is None else (text[0], text[1])
            return cls(steps, slices, tile, levels, out_bits, tensors, outputs, out_tile, told)
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, FormatError):
                raise
            raise FormatError(
                f"network description: expected steps, slices, tile, levels and out_bits ({error})",
                kind="bad-program",
            ) from error


def canonical_digest(description: Mapping[str, Any], tensors: Tensors) -> str:
    """SHA-256 of the canonical JSON and of every tensor (name, dtype, shape, bytes), by name."""
    digest = hashlib.sha256()
    digest.update(json.dumps(description, sort_keys=True, separators=(",", ":")).encode())
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name], tensors[name].dtype.newbyteorder("<"))
        digest.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
