"""Section 3.7 of SPEC-v1.md: the subset of AV1.

AV1 itself is another document; an AV1 decoder is handed in as a function.
"""

from __future__ import annotations

from reference_decoder.fields import require


def check_stream(data: bytes, valid: tuple) -> None:
    """Points 1 to 4: the OBUs of a stream, before an AV1 decoder sees it.

    ``valid`` has frames, rows and columns.
    """
    require(max(valid[1:]) <= 16384, "extent")
    units: list[list[tuple[int, bytes]]] = []
    at = 0
    while at < len(data):
        header, size, position = data[at], 0, 0
        while True:
            require(position < 4 and at + 1 + position < len(data), "OBU size")
            byte = data[at + 1 + position]
            size |= (byte & 127) << (7 * position)
            position += 1
            if byte < 128:
                break
        start = at + 1 + position
        at = start + size
        require(at <= len(data), "OBU past the end")
        if header == 0x12:
            require(size == 0, "delimiter")
            units.append([])
        else:
            require(bool(units) and header in (0x0A, 0x1A, 0x32), "OBU")
            units[-1].append((header, data[start:at]))
    require(len(units) == valid[0], "temporal units")
    _check_units(units, valid)


def _check_units(units: list, valid: tuple) -> None:
    sequence, fields = None, {}
    frames = 0
    for unit in units:
        shown = []
        for header, body in unit:
            if header == 0x0A and sequence is None:
                sequence, fields = body, _sequence(body, valid)
            elif header == 0x0A:
                require(body == sequence, "another sequence header")
            else:
                require(sequence is not None, "frame before the sequence header")
                shown.append(_shown(header, body, fields))
        frames += len(shown)
        require(bool(shown) and shown[-1] and not any(shown[:-1]), "one shown frame, the last")
    require(frames <= 2 * len(units), "frames")


def _bits(body: bytes) -> list[int]:
    return [byte >> shift & 1 for byte in body for shift in range(7, -1, -1)]


class _Reader:
    def __init__(self, body: bytes) -> None:
        self.bits = _bits(body)

    def __call__(self, count: int = 1) -> int:
        require(count <= len(self.bits), "end of an OBU")
        taken, self.bits = self.bits[:count], self.bits[count:]
        return int("".join(map(str, taken)), 2)


def _sequence(body: bytes, valid: tuple) -> dict:
    """AV1 5.5.1 and 5.5.2."""
    require(len(body) <= 32, "sequence header")
    f = _Reader(body)
    require(f(3) == 2, "seq_profile")
    still, reduced = f(), f()
    require(still == reduced and not (still and valid[0] > 1), "still picture")
    if reduced:
        f(5)
    else:
        require(f(1 + 1 + 5 + 12) == 0, "timing, display delay, operating points")
        if f(5) > 7:
            f()
    widths = f(4) + 1, f(4) + 1
    require(f(widths[0]) + 1 == valid[2] and f(widths[1]) + 1 == valid[1], "frame size")
    tools = vectors = 2
    if not reduced:
        require(f() == 0, "frame_id_numbers_present_flag")
        f(3 + 4)
        hint = f()
        if hint:
            f(2)
        tools = 2 if f() else f()
        if tools:
            vectors = 2 if f() else f()
        if hint:
            f(3)
    else:
        f(3)
    require(f() == 0, "enable_superres")
    f(2)
    require(f(3) == 0b111, "twelve bits, monochrome")
    if f():
        f(24)
    require(f() == 1, "color_range")
    require(f() == 0, "film_grain_params_present")
    require(1 <= len(f.bits) <= 8 and f.bits[0] == 1 and not any(f.bits[1:]), "trailing bits")
    return {"still": still, "tools": tools, "vectors": vectors}


def _shown(header: int, body: bytes, sequence: dict) -> bool:
    """AV1 5.9.2, as far as the frame size."""
    if sequence["still"]:
        require(header == 0x32, "repeated frame of a still picture")
        return True
    f = _Reader(body)
    require(f() == int(header == 0x1A), "show_existing_frame")
    if header == 0x1A:
        return True
    kind, shown = f(2), f()
    require(kind != 3, "switch frame")
    if not shown:
        f()
    if kind != 0 or not shown:
        f()
    f()
    tools = f() if sequence["tools"] == 2 else sequence["tools"]
    if tools and sequence["vectors"] == 2:
        f()
    require(f() == 0, "frame_size_override_flag")
    return bool(shown)
