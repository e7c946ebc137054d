"""Copies whose headers only the owner of a key can read."""

from __future__ import annotations

import base64
import io
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from psc_volumetric.archive import ArchiveReader, verify_archive
from psc_volumetric.archive.age import Identity, Recipient, decrypt, encrypt, identities_in
from psc_volumetric.archive.hidden import HIDDEN_KEY, _unpacked, reveal
from psc_volumetric.errors import FormatError, ParameterError
from tests.pipelines.conftest import run_in_process

pytest.importorskip("cryptography")

AGE = shutil.which("age") or shutil.which("rage")
# The key of 32 letters B, as the specification of age writes it.
KNOWN = (
    "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX",
    "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj",
)


@pytest.fixture(scope="module")
def shared(
    sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, Path]]:
    """For each format a lossless archive and a copy with encrypted headers; keys beside them."""
    folder = tmp_path_factory.mktemp("shared")
    keys = [folder / "mine.key", folder / "yours.key"]
    given = []
    for key in keys:
        outcome = run_in_process("identity", key, "--json")
        assert outcome.code == 0, outcome.err
        given.append(outcome.document["recipient"])
    (folder / "recipients.txt").write_text(f"# yours\n{given[1]}\n")
    made = {}
    for kind, source in sources.items():
        archive, copy = folder / f"{kind}.psc.zarr", folder / f"{kind}-share.psc.zarr"
        keep = ("--keep-original",) if kind == "netcdf" else ()
        outcome = run_in_process("archive", source, archive, "--coders", "zstd", *keep)
        assert outcome.code == 0, outcome.err
        recipients = ("--encrypt-headers", given[0])
        recipients += ("--encrypt-headers", folder / "recipients.txt")
        outcome = run_in_process("strip", archive, copy, *recipients)
        assert outcome.code == 0, outcome.err
        made[kind] = (archive, copy)
    return made


def key_of(copy: Path, name: str = "mine") -> Path:
    return copy.parent / f"{name}.key"


@pytest.mark.parametrize("kind", ["dicom", "nifti", "netcdf"])
def test_with_the_key_the_source_comes_back_and_without_it_a_derived_file(
    kind, shared, sources, tmp_path, run
):
    archive, copy = shared[kind]
    assert run("verify", copy, "--deep").code == 0
    assert "encrypted for 2 key(s)" in run("info", copy).out
    plain = run("restore", copy, tmp_path / "plain", "--json")
    assert plain.code == 0
    assert list(plain.document["outcomes"]) == ["derived (source headers left out)"]
    for name in ("mine", "yours"):
        target = tmp_path / name
        outcome = run("restore", copy, target, "--identity", key_of(copy, name), "--json")
        assert outcome.code == 0, outcome.err
        assert all(proof["proven"] for proof in outcome.document["proofs"])
        wanted = run("restore", archive, tmp_path / f"{name}-first", "--json").document
        assert outcome.document["outcomes"] == wanted["outcomes"]
        first = {p.name: p.read_bytes() for p in (tmp_path / f"{name}-first").rglob("*.*")}
        assert {p.name: p.read_bytes() for p in target.rglob("*.*")} == first


def test_the_copy_and_the_key_are_the_first_archive_byte_for_byte(shared, tmp_path):
    for archive, copy in shared.values():
        with ArchiveReader.open(copy) as reader:
            sealed = reveal(reader.sealed, identities_in(key_of(copy).read_text()))
            assert sealed.manifest == ArchiveReader.open(archive).manifest
            for key in sealed.manifest.entries:
                assert sealed.read(key) == (archive / key).read_bytes()
            opened = ArchiveReader(sealed)
            for name in opened.variables:
                np.testing.assert_array_equal(opened.read(name), reader.read(name))


def test_nothing_of_the_source_can_be_read_without_a_key(shared):
    archive, copy = shared["nifti"]
    with ArchiveReader.open(archive) as first, ArchiveReader.open(copy) as reader:
        secrets = [first.source().files[0].sha256.encode(), first.source().files[0].name.encode()]
        secrets += [first.manifest.digest.encode()]
        for key in reader.manifest.entries:
            assert not any(secret in reader.sealed.read(key) for secret in secrets), key


def test_keys_that_do_not_fit_and_copies_without_headers_are_refused(shared, tmp_path, run):
    archive, copy = shared["nifti"]
    other = tmp_path / "other.key"
    assert run("identity", other).code == 0
    assert run("identity", other).code == 6  # never replaced
    for source, key, kind in (
        (copy, other, "wrong-identity"),
        (archive, other, "nothing-hidden"),
        (copy, tmp_path / "none", "no-key"),
        (copy, archive / "README.txt", "bad-key"),
    ):
        outcome = run("restore", source, tmp_path / "x.nii", "--identity", key)
        assert outcome.code == 2 and f"error[{kind}]" in outcome.err, outcome.err
    other.chmod(0o644)
    assert "chmod 600" in run("restore", copy, tmp_path / "x", "--identity", other).err
    for recipient in ("age1qqqq", "age1" + "q" * 58, str(archive / "README.txt")):
        outcome = run("strip", archive, tmp_path / "y.psc.zarr", "--encrypt-headers", recipient)
        assert outcome.code == 2 and "error[bad-key]" in outcome.err


def test_damaged_headers_are_found_by_verify_and_never_half_read(shared, tmp_path, run):
    _, copy = shared["nifti"]
    damaged = Path(shutil.copytree(copy, tmp_path / "d.psc.zarr"))
    data = bytearray((damaged / HIDDEN_KEY).read_bytes())
    data[-20] ^= 1
    (damaged / HIDDEN_KEY).write_bytes(data)
    assert [f.key for f in verify_archive(damaged)] == [HIDDEN_KEY]
    assert run("restore", damaged, tmp_path / "x.nii", "--identity", key_of(copy)).code == 4
    key = Identity.make()
    whole = encrypt(b"0123456789" * 20000, [key.recipient])
    for cut in (0, 10, 60, 150, 180, len(whole) - 65537, len(whole) - 1):
        with pytest.raises((FormatError, ParameterError)):
            decrypt(whole[:cut], [key], where="x")
    for at in range(0, len(whole), 997):
        with pytest.raises((FormatError, ParameterError)):
            decrypt(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :], [key], where="x")
    with pytest.raises(FormatError):
        decrypt(whole + b"more", [key], where="x")


def test_keys_are_those_of_age(tmp_path):
    (known,) = identities_in(f"# public key: ...\n{KNOWN[0]}\n")
    assert (known.raw, known.text, str(known.recipient)) == (b"B" * 32, *KNOWN)
    assert KNOWN[0] not in repr(known)
    for size in (0, 1, 65535, 65536, 65537, 131072):
        data = bytes(size)
        both = [Identity.make().recipient, known.recipient]
        assert decrypt(encrypt(data, both), [known], where="x") == data
    head = encrypt(b"", [known.recipient]).split(b"\n")
    assert head[0] == b"age-encryption.org/v1" and head[1].startswith(b"-> X25519 ")
    assert len(base64.b64decode(head[1].split()[2] + b"=")) == 32
    assert Recipient(b"\1" * 32) != known.recipient


@pytest.mark.skipif(AGE is None, reason="age is not installed")
def test_age_opens_the_headers(shared, tmp_path):
    archive, copy = shared["nifti"]
    opened = tmp_path / "headers.zip"
    command = [str(AGE), "-d", "-i", str(key_of(copy)), "-o", str(opened), str(copy / HIDDEN_KEY)]
    subprocess.run(command, check=True, timeout=30)
    with zipfile.ZipFile(opened) as packed:
        assert packed.read("manifest.json") == (archive / "manifest.json").read_bytes()


def test_the_extra_is_named_where_it_is_missing(shared, tmp_path, monkeypatch, run):
    archive, copy = shared["nifti"]
    monkeypatch.setitem(sys.modules, "cryptography", None)
    for words in (
        ("strip", archive, tmp_path / "y.psc.zarr", "--encrypt-headers", KNOWN[1]),
        ("restore", copy, tmp_path / "x.nii", "--identity", key_of(copy)),
        ("identity", tmp_path / "k"),
    ):
        outcome = run(*words)
        assert outcome.code == 9 and "pip install 'psc-archive[sign]'" in outcome.err


@pytest.mark.parametrize("harm", ["deflate", "encrypted", "method", "cut", "no zip"])
def test_what_is_decrypted_and_is_no_sound_zip_file_is_refused(harm: str) -> None:
    """Whoever knows the recipient's public key can encrypt anything for them."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("manifest.json", bytes(range(256)) * 40)
    data = bytearray(out.getvalue())
    directory = data.rindex(b"PK\x01\x02")
    if harm == "deflate":
        data[60:80] = b"\xff" * 20
    elif harm == "encrypted":
        data[6] |= 1
        data[directory + 8] |= 1
    elif harm == "method":
        data[8] = data[directory + 10] = 97
    data = {"cut": data[:-40], "no zip": bytearray(b"text")}.get(harm, data)
    with pytest.raises(FormatError) as caught:
        _unpacked(bytes(data), "a.psc.zarr")
    assert caught.value.kind == "bad-encryption"
