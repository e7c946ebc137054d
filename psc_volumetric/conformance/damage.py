"""Bad streams made from good ones: where things are in a brick, and how to re-fix its checks.

Used by the vectors' generator and by the fuzz targets; nothing here runs when coding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from psc_volumetric.bitstream.header import BrickHeader
from psc_volumetric.bitstream.index import PROLOGUE, write_brick
from psc_volumetric.bitstream.layer_fields import LayerFields
from psc_volumetric.bitstream.methods import MethodFields
from psc_volumetric.bitstream.value_limits import ValueLimits
from psc_volumetric.bitstream.wire import crc32c
from psc_volumetric.methods.psc.fields import PscFields, StreamParameters
from psc_volumetric.methods.registry import REGISTRY, read_index
from psc_volumetric.values.mapping import IntensityMapping

__all__ = ["Parts", "flip_bit", "refix", "split"]

Change = Callable[[bytearray], None]


@dataclass(frozen=True)
class Parts:
    """A brick taken apart; :meth:`join` writes it again with correct checks."""

    header: BrickHeader
    sections: tuple[tuple[str, bytes], ...]
    fields: MethodFields | None
    constant: bytes
    layers: tuple[tuple[LayerFields, tuple[bytes, ...]], ...] = ()
    limits: ValueLimits | None = None

    def join(self) -> bytes:
        """The brick as bytes."""
        data, _ = write_brick(
            self.header,
            list(self.sections),
            methods=REGISTRY,
            fields=self.fields,
            constant=self.constant,
            layers=self.layers,
            limits=self.limits,
        )
        return data

    def with_header(self, **changes: object) -> Parts:
        """Other header fields."""
        return replace(self, header=replace(self.header, **changes))  # type: ignore[arg-type]

    def with_section(self, name: str, data: bytes) -> Parts:
        """Other content of one section."""
        changed = tuple((n, data if n == name else d) for n, d in self.sections)
        return replace(self, sections=changed)

    def with_layer(self, number: int, **changes: object) -> Parts:
        """Other fields of one layer."""
        fields, segments = self.layers[number]
        changed = replace(fields, **changes)  # type: ignore[arg-type]
        return self._with_layer(number, (changed, segments))

    def with_segment(self, layer: int, number: int, data: bytes) -> Parts:
        """Other content of one segment of a layer."""
        fields, segments = self.layers[layer]
        changed = tuple(data if n == number else piece for n, piece in enumerate(segments))
        return self._with_layer(layer, (fields, changed))

    def _with_layer(self, number: int, layer: tuple[LayerFields, tuple[bytes, ...]]) -> Parts:
        layers = tuple(layer if n == number else old for n, old in enumerate(self.layers))
        return replace(self, layers=layers)

    def with_fields(self, **changes: object) -> Parts:
        """Other method fields."""
        assert self.fields is not None
        changed = replace(self.fields, **changes)  # type: ignore[type-var]
        return replace(self, fields=changed)

    @property
    def psc(self) -> PscFields:
        """Method fields of a ``psc`` brick."""
        assert isinstance(self.fields, PscFields)
        return self.fields

    def with_parameters(self, **changes: object) -> Parts:
        """Other stream parameters."""
        parameters: StreamParameters = replace(self.psc.parameters, **changes)  # type: ignore[arg-type]
        return self.with_fields(parameters=parameters)

    def with_mapping(self, low: float, high: float) -> Parts:
        """Another intensity mapping, even one that may not be."""
        mapping = object.__new__(IntensityMapping)
        object.__setattr__(mapping, "low", low)
        object.__setattr__(mapping, "high", high)
        return self.with_fields(mapping=mapping)


def split(stream: bytes) -> Parts:
    """Take a good brick apart."""
    index = read_index(lambda a, n: stream[a : a + n], len(stream))
    sections = tuple((s.name, stream[s.offset : s.offset + s.nbytes]) for s in index.sections)
    layers = []
    for number, fields in enumerate(index.layers):
        places = [index.segment(number, n) for n in range(len(fields.sizes))]
        layers.append((fields, tuple(stream[p.offset : p.offset + p.nbytes] for p in places)))
    return Parts(index.header, sections, index.fields, index.constant, tuple(layers), index.limits)


def flip_bit(stream: bytes, bit: int) -> bytes:
    """Copy of ``stream`` with one bit flipped."""
    out = bytearray(stream)
    out[bit // 8] ^= 1 << (bit % 8)
    return bytes(out)


def refix(stream: bytes, change: Change) -> bytes:
    """Let ``change`` edit the header between prologue and check, then write a correct check."""
    size = int.from_bytes(stream[8:12], "little")
    body = bytearray(stream[PROLOGUE : size - 4])
    change(body)
    head = stream[:8] + (PROLOGUE + len(body) + 4).to_bytes(4, "little") + bytes(body)
    return head + crc32c(head).to_bytes(4, "little") + stream[size:]
