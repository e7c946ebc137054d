"""Primitives against published answers, independent code, or digests fixed when they were made."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from psc_volumetric.bitstream.wire import crc32c
from psc_volumetric.entropy.adaptive import AdaptiveModel
from psc_volumetric.entropy.symbols import SymbolReader, SymbolWriter, categorical, uniform
from psc_volumetric.entropy.tables import (
    SCALE_BINS,
    gaussian_table,
    symbol_frequencies,
    symbol_limit,
)
from psc_volumetric.entropy.threefry import threefry2x32
from psc_volumetric.errors import FormatError
from psc_volumetric.golden import array_digest
from psc_volumetric.methods.psc.cpu import _threefry, advance
from psc_volumetric.methods.psc.noise import centred, gaussian
from psc_volumetric.methods.psc.pca import FIXED, ROW_BITS, gram_matrix, jacobi, principal_rows
from psc_volumetric.methods.psc.quantiser import float8_symbols, float8_values, uniform_symbols
from psc_volumetric.methods.psc.transform import BASIS_BITS, BlockTransform, basis
from psc_volumetric.prior.runtime import integer_sqrt

# Random123 1.14, tests/kat_vectors: counter, key, result of threefry2x32 with 20 rounds
THREEFRY = [
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
]


@pytest.mark.parametrize(("counter", "key", "expected"), THREEFRY)
def test_threefry_gives_the_published_answers(counter, key, expected) -> None:
    c0, c1 = (torch.tensor(word, dtype=torch.int64) for word in counter)
    assert tuple(int(word) for word in threefry2x32(key, c0, c1)) == expected
    fused = _threefry(*(np.uint64(word) for word in (*key, *counter)))
    assert tuple(int(word) for word in fused) == expected


@pytest.mark.parametrize("together", [False, True])
def test_fused_noise_is_the_plain_noise(together: bool) -> None:
    tiles = torch.tensor([3, 0, 2**31], dtype=torch.int64)
    x0 = torch.arange(6 * 128, dtype=torch.int32).reshape(6, 2, 8, 8) * 40 - 9000
    noise = gaussian(0xFFFFFFFE, tiles, 7, 2, 128)
    noise = (centred(noise) if together else noise).reshape(x0.shape).long()
    plain = ((x0.long() * 40000 + noise * 51000 + (1 << 15)) >> 16).clamp(-32767, 32767)
    fused = advance(x0, 0xFFFFFFFE, tiles.numpy(), 7, 2, 40000, 51000, together=together)
    assert torch.equal(fused.long(), plain)


@pytest.mark.parametrize("particles", [2, 8, 64])
def test_centred_noise_sums_to_zero_and_keeps_its_variance(particles: int) -> None:
    noise = centred(gaussian(1, torch.tensor([5]), 2, particles, 16384)).double()
    assert noise.sum(1).abs().max() <= particles / 2
    assert abs(float(noise.std()) / 2048 - 1) < 0.03


@pytest.mark.parametrize(
    ("data", "expected"),
    [  # RFC 3720 appendix B.4, and the usual check value
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(reversed(range(32))), 0x113FDB5C),
    ],
)
def test_crc32c_gives_the_published_answers(data: bytes, expected: int) -> None:
    assert crc32c(data) == expected


@given(st.binary(min_size=64, max_size=300))
def test_long_and_short_crc_paths_agree(data: bytes) -> None:
    value = 0xFFFFFFFF
    for byte in data:  # bit by bit, no table
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 * (value & 1))
    assert crc32c(data) == value ^ 0xFFFFFFFF


def test_tables_and_basis_are_the_ones_the_format_was_made_with() -> None:
    frequencies = np.concatenate([symbol_frequencies(b) for b in range(SCALE_BINS)])
    assert {
        "gaussian": array_digest(gaussian_table())[:32],
        "frequencies": array_digest(frequencies)[:32],
        "basis": array_digest(np.concatenate([basis(n).ravel() for n in (1, 2, 4, 8)]))[:32],
    } == {
        "gaussian": "6438f48c360bf440afee384ade4d36d4",
        "frequencies": "b686fd87106c1b935b77f43e52e19619",
        "basis": "d20531d9ea10da6b95a5f7a5d811c090",
    }


def test_gaussian_table_is_symmetric_rising_and_of_unit_variance() -> None:
    table = gaussian_table().astype(np.int64)
    assert np.array_equal(table, -table[::-1]) and (np.diff(table) >= 0).all()
    assert abs(np.mean(table**2) / 2048**2 - 1) < 1e-4


@pytest.mark.parametrize("scale_bin", range(SCALE_BINS))
def test_frequencies_sum_to_the_precision_and_none_is_zero(scale_bin: int) -> None:
    frequencies = symbol_frequencies(scale_bin)
    assert frequencies.sum() == 1 << 24 and frequencies.min() >= 1
    assert len(frequencies) == 2 * symbol_limit(scale_bin) + 1


def test_float8_values_are_those_of_torch() -> None:
    codes = torch.arange(256, dtype=torch.int32).to(torch.uint8)
    theirs = codes.view(torch.float8_e4m3fn).double().numpy() * 2048
    ours = float8_values()
    assert np.array_equal(theirs[:127], ours) and math.isnan(theirs[127])
    assert np.array_equal(theirs[129:255], -ours[1:]) and math.isnan(theirs[255])


def test_float8_rounding_is_that_of_torch_for_every_code_and_every_midpoint() -> None:
    values = float8_values()
    middle = (values[1:] + values[:-1]) // 2
    near = np.unique(np.concatenate([v + d for v in (values, middle) for d in (-1, 0, 1)]))
    near = near[(near >= 0) & (near <= values[-1])]
    y = np.concatenate([near, -near])
    theirs = torch.from_numpy(y / 2048).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    theirs = np.where(theirs == 128, 0, theirs)  # no negative zero in the format
    assert np.array_equal(float8_symbols(y), theirs)
    assert float8_symbols(np.array([10**9, -(10**9)])).tolist() == [126, 254]


@given(st.lists(st.integers(0, 2**61), min_size=1, max_size=50))
def test_integer_square_root_is_the_floor(values: list[int]) -> None:
    edges = [v for s in (1, 2**20, 94906267, 1518500249) for v in (s * s - 1, s * s, s * s + 1)]
    numbers = values + [v for v in edges if v < 2**61]
    roots = integer_sqrt(torch.tensor(numbers, dtype=torch.int64)).tolist()
    assert roots == [math.isqrt(v) for v in numbers]


def samples_for(particles: int, elements: int, seed: int) -> torch.Tensor:
    noise = gaussian(seed, torch.zeros(1, dtype=torch.int64), 0, particles, elements)[0].double()
    return torch.floor(noise * torch.linspace(3, 0.02, elements)).clamp(-8191, 8191)


@pytest.mark.parametrize("particles", [2, 4, 16, 32])
def test_jacobi_agrees_with_numpy(particles: int) -> None:
    _, gram = gram_matrix(samples_for(particles, 512, particles))
    eigenvalues, vectors = jacobi(gram)
    v = vectors.double().numpy() / (1 << FIXED)
    assert np.abs(v @ v.T - np.eye(particles)).max() < 2e-6
    trace = float(gram.diagonal().sum())
    expected = np.linalg.eigvalsh(gram.double().numpy()) / trace
    found = np.sort(eigenvalues.double().numpy()) / float(eigenvalues.sum())
    assert np.abs(found - expected).max() < 1e-4


def test_gram_matrix_is_exact_at_its_bound() -> None:
    samples = torch.full((32, 1 << 15), -8191.0, dtype=torch.float64)
    samples[0], samples[1] = 8191.0, 8190.0
    centred, gram = gram_matrix(samples)
    integers = [[int(v) for v in row[:1]] for row in centred[:2]]
    assert int(gram[0, 0]) == integers[0][0] ** 2 * (1 << 15)
    assert int(gram[0, 1]) == integers[0][0] * integers[1][0] * (1 << 15)
    assert int(gram.abs().max()) < 1 << 53


def test_principal_rows_are_orthonormal_with_the_largest_entry_positive() -> None:
    rows = principal_rows(samples_for(16, 512, 9), 12)
    h = rows.double().numpy() / (1 << ROW_BITS)
    assert rows.shape == (12, 512)
    assert np.abs(h @ h.T - np.eye(12)).max() < 2e-3
    peak = np.abs(h).argmax(1)
    assert (h[np.arange(12), peak] > 0).all()


def test_principal_rows_drop_directions_without_variance() -> None:
    line = torch.arange(16, dtype=torch.float64)[:, None] * torch.arange(64, dtype=torch.float64)
    assert len(principal_rows(line, 12)) == 1
    assert principal_rows(torch.zeros(16, 64, dtype=torch.float64), 12).shape == (0, 64)


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_basis_is_orthonormal(size: int) -> None:
    product = basis(size) @ basis(size).T / float(1 << (2 * BASIS_BITS))
    assert np.abs(product - np.eye(size)).max() < 2e-4


@pytest.mark.parametrize("size", [2, 4, 8])
def test_no_basis_entry_is_near_a_rounding_boundary(size: int) -> None:
    for k in range(size):
        for n in range(size):
            scale = math.sqrt((1 if k == 0 else 2) / size)
            exact = 16384 * scale * math.cos(math.pi * (2 * n + 1) * k / (2 * size))
            assert abs(exact - math.floor(exact) - 0.5) > 0.02


@pytest.mark.parametrize(("slices", "tile"), [(1, 8), (2, 16), (4, 16), (8, 64)])
def test_transform_is_nearly_its_own_inverse_and_keeps_energy(slices: int, tile: int) -> None:
    elements = slices * tile * tile
    x = gaussian(5, torch.zeros(1, dtype=torch.int64), 0, 3, elements)[0]
    x = x.reshape(3, slices, tile, tile).double()
    transform = BlockTransform(slices, tile, torch.device("cpu"))
    c = transform.forward(x)
    assert (transform.inverse(c) - x).abs().max() <= 6
    assert abs(float((c * c).sum() / (x * x).sum()) - 1) < 1e-3


@given(st.integers(-(2**40), 2**40), st.integers(1, 2**17 - 1), st.integers(0, 68))
def test_uniform_quantiser_stays_within_a_step_and_is_odd(residual, step, scale_bin) -> None:
    bins = torch.tensor([scale_bin])
    symbol = int(uniform_symbols(torch.tensor([residual]), step, bins))
    assert abs(residual) - step < abs(symbol) * step <= abs(residual) + step / 2 + 1
    assert int(uniform_symbols(torch.tensor([-residual]), step, bins)) == -symbol


def test_uniform_quantiser_spends_no_bits_that_are_not_worth_their_error() -> None:
    residual = torch.tensor([700, 700, 990])
    assert uniform_symbols(residual, 1000, torch.tensor([0, 20, 0])).tolist() == [0, 1, 1]


# --- entropy coder ------------------------------------------------------------------------------

symbol_runs = st.lists(
    st.tuples(st.integers(-(2**20), 2**20) | st.integers(-3, 3), st.integers(0, 60)),
    max_size=60,
)


@settings(deadline=None)
@given(st.lists(symbol_runs, min_size=1, max_size=4))
def test_symbols_survive_and_levels_are_prefixes(levels) -> None:
    writer = SymbolWriter()
    arrays = []
    for run in levels:
        symbols = np.array([s for s, _ in run], np.int32)
        bins = np.array([b for _, b in run], np.int64)
        arrays.append((symbols, bins))
        writer.code(symbols, bins)
        writer.mark()
    pieces = writer.finish()
    for count in range(1, len(levels) + 1):
        reader = SymbolReader(b"".join(pieces[:count]))
        for symbols, bins in arrays[:count]:
            assert np.array_equal(reader.code(None, bins), symbols)


def test_symbols_past_what_a_coefficient_can_be_are_refused() -> None:
    writer = SymbolWriter()
    writer.code(np.array([2**23], np.int32), np.array([68]))
    writer.mark()
    reader = SymbolReader(writer.finish()[0])
    assert reader.code(None, np.array([68]))[0] == 2**23
    ones = np.zeros(40, np.int32)  # forty zero bits: an escape without an end
    writer = SymbolWriter()
    limit = symbol_limit(0)
    writer.exchange(np.array([2 * limit], np.int32), 1, categorical(symbol_frequencies(0)))
    writer.exchange(ones, 40, uniform(2))
    writer.mark()
    with pytest.raises(FormatError) as caught:
        SymbolReader(writer.finish()[0]).code(None, np.array([0]))
    assert caught.value.kind == "bad-symbol"


class IntegerRangeDecoder:
    """Range decoder in Python integers: 32-bit words, 64-bit state, 24-bit frequencies."""

    def __init__(self, data: bytes) -> None:
        self.words = list(np.frombuffer(data, "<u4").tolist())
        self.lower, self.range = 0, (1 << 64) - 1
        self.point = (self._word() << 32) | self._word()

    def _word(self) -> int:
        return self.words.pop(0) if self.words else 0

    def decode(self, frequencies: list[int]) -> int:
        scale = self.range >> 24
        quantile = ((self.point - self.lower) % (1 << 64)) // scale
        assert quantile < 1 << 24
        symbol = left = 0
        while quantile >= left + frequencies[symbol]:
            left += frequencies[symbol]
            symbol += 1
        self.lower = (self.lower + scale * left) % (1 << 64)
        self.range = scale * frequencies[symbol]
        if self.range < 1 << 32:
            self.range <<= 32
            self.lower = (self.lower << 32) % (1 << 64)
            self.point = ((self.point << 32) | self._word()) % (1 << 64)
        return symbol


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 2**31), min_size=2, max_size=40), st.data())
def test_library_codes_with_exactly_our_frequencies(weights: list[int], data) -> None:
    """The library computes in floats; with ``frequency - 1`` as weights nothing is rounded."""
    size, total = len(weights), 1 << 24
    frequencies = [1 + w * (total - size) // (sum(weights) + 1) for w in weights]
    frequencies[0] += total - sum(frequencies)
    symbols = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=200))
    writer = SymbolWriter()
    model = categorical(np.array(frequencies, np.int64))
    for symbol in symbols:
        writer.exchange(np.array([symbol], np.int32), 1, model)
        writer.exchange(np.array([symbol % 8], np.int32), 1, uniform(8))
    writer.mark()
    own = IntegerRangeDecoder(writer.finish()[0])
    for symbol in symbols:
        assert own.decode(frequencies) == symbol
        assert own.decode([1 << 21] * 8) == symbol % 8


@pytest.mark.parametrize("scale_bin", [0, 7, 12, 20, 28])
def test_own_decoder_reads_every_symbol_of_a_shipped_table(scale_bin: int) -> None:
    frequencies = symbol_frequencies(scale_bin)
    writer = SymbolWriter()
    everything = np.arange(len(frequencies), dtype=np.int32)
    writer.exchange(everything, len(everything), categorical(frequencies))
    writer.mark()
    own = IntegerRangeDecoder(writer.finish()[0])
    assert [own.decode(frequencies.tolist()) for _ in everything] == everything.tolist()


def test_adaptive_model_learns_the_same_on_both_sides() -> None:
    symbols = [0, 5, 5, 5, 255, 5, 17] * 30
    writer, model = SymbolWriter(), AdaptiveModel(256)
    for symbol in symbols:
        model.code(writer, symbol)
    writer.mark()
    words = writer.finish()[0]
    reader, model = SymbolReader(words), AdaptiveModel(256)
    assert [model.code(reader, None) for _ in symbols] == symbols
    assert model.frequencies().sum() == 1 << 24
