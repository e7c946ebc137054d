"""From a stream of latents to samples of a region. Part of the format (SPEC section 3.11)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from psc_volumetric.arrays import Triple
from psc_volumetric.bitstream import constants as c
from psc_volumetric.entropy.symbols import SymbolReader, SymbolWriter
from psc_volumetric.errors import LimitExceededError
from psc_volumetric.methods.two_stage.latents import code_latents, joined_tiles, split_tiles
from psc_volumetric.methods.two_stage.network import Autoencoder
from psc_volumetric.prior.latent_model import LatentModel
from psc_volumetric.sigma.tables import Classes, voxel_classes
from psc_volumetric.tiling import Box, TileGrid

__all__ = ["LatentGrid"]

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class LatentGrid:
    """The tiles of a brick, and the latents that stand for them.

    Attributes
    ----------
    autoencoder : Autoencoder
    valid : (z, y, x)
        Extents of the brick.
    """

    autoencoder: Autoencoder
    valid: Triple

    @property
    def tiles(self) -> TileGrid:
        """Whole tiles over the valid part."""
        return TileGrid(self.valid, self.autoencoder.prior.tile_shape)

    @property
    def model(self) -> LatentModel:
        """Quantiser and distribution."""
        model = self.autoencoder.prior.latents
        assert model is not None
        return model

    @property
    def shape(self) -> Triple:
        """Layers of tiles, rows and columns of latents."""
        (z, y, x), extent = self.tiles.counts, self.autoencoder.prior.program.tile
        return z, y * extent, x * extent

    def joined(self, tiles: Integers) -> Integers:
        """Latents of all tiles (n, c, t, t) as (z, y, x, c)."""
        return joined_tiles(tiles, self.tiles.counts)

    def written(self, symbols: Integers, step: int) -> tuple[bytes, Integers]:
        """The stream of symbols, and the latents (z, y, x, c) that a reader gets."""
        port = SymbolWriter()
        latents = code_latents(port, self.model, step, self.shape, symbols)
        port.mark()
        data = port.finish()[0]
        self.check_work(len(data))
        return data, latents

    def read(self, data: bytes, step: int) -> Integers:
        """Latents (z, y, x, c) of a stream."""
        self.check_work(len(data))
        return code_latents(SymbolReader(data), self.model, step, self.shape, None)

    def check_work(self, nbytes: int) -> None:
        """Refuse far more symbols than a stream of so many bytes can pay for (SPEC 10.4).

        Raises
        ------
        LimitExceededError
        """
        symbols = math.prod(self.shape) * (1 if self.model.is_vector else self.model.channels)
        paid = c.MAX_FREE_LATENTS + c.MAX_LATENTS_PER_WORD * (nbytes // 4)
        if symbols > paid:
            raise LimitExceededError(
                f"a brick of {symbols} latents in {nbytes} bytes, at most {paid} are decoded",
                kind="limit",
                hint="the brick is damaged or was made to do harm; an encoder takes smaller bricks",
            )

    def samples(self, latents: Integers, numbers: tuple[int, ...]) -> NDArray[np.int32]:
        """Decoded tiles (n, slices, tile, tile) of some numbers."""
        split = split_tiles(latents, self.autoencoder.prior.program.tile)
        return self.autoencoder.decode(split[list(numbers)])

    def region(self, tiles: NDArray[Any], numbers: tuple[int, ...], box: Box) -> NDArray[Any]:
        """What tiles of some numbers have in a region."""
        extents = tuple(part.stop - part.start for part in box)
        out = np.empty(extents, tiles.dtype)
        places = {number: k for k, number in enumerate(numbers)}
        for number, inside, target in self.tiles.overlaps(box, numbers):
            out[target] = tiles[places[number]][inside]
        return out

    @staticmethod
    def classes(tiles: NDArray[np.int32], shift: int) -> Classes:
        """Classes of sigma of whole tiles, each by itself."""
        return voxel_classes(tiles.astype(np.int64) >> shift, 0)
