"""An archive that was changed together with its manifest: found by digest and by signature."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from pipelines.archiving.archive import archive, plan
from pipelines.archiving.options import ArchiveOptions
from psc_volumetric.archive import Entry, Manifest
from psc_volumetric.archive.manifest import sha256_hex
from psc_volumetric.archive.signature import signer_of
from psc_volumetric.errors import FormatError

pytest.importorskip("cryptography")

KEYGEN = shutil.which("ssh-keygen")
OPENSSL = shutil.which("openssl")
LIMIT_S = 30


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    values = np.random.default_rng(3).integers(0, 900, (30, 20, 10), dtype=np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / "a.nii")
    archive(plan(folder / "a.nii", str(folder / "a.psc.zarr"), ArchiveOptions(coders="zstd")))
    return folder / "a.psc.zarr"


@pytest.fixture
def sealed(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "archives" / "a.psc.zarr"))


def keygen(path: Path, *words: str) -> Path:
    command = [str(KEYGEN), "-q", "-t", "ed25519", "-N", "", "-C", "me", "-f", str(path), *words]
    subprocess.run(command, check=True, timeout=LIMIT_S)
    return path


def pem(path: Path, kind: str = "ed25519") -> tuple[Path, Path]:
    for words in (
        ["genpkey", "-algorithm", kind, "-out", str(path)],
        ["pkey", "-in", str(path), "-pubout", "-out", f"{path}.pub"],
    ):
        subprocess.run([str(OPENSSL), *words], check=True, timeout=LIMIT_S, capture_output=True)
    path.chmod(0o600)
    return path, Path(f"{path}.pub")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A key in OpenSSH's format, with its public half beside it."""
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    path = tmp_path / "key"
    path.write_bytes(
        private.private_bytes(s.Encoding.PEM, s.PrivateFormat.OpenSSH, s.NoEncryption())
    )
    public = private.public_key().public_bytes(s.Encoding.OpenSSH, s.PublicFormat.OpenSSH)
    (tmp_path / "key.pub").write_bytes(public + b" me@here\n")
    path.chmod(0o600)
    return path


def edit_consistently(archive: Path) -> None:
    """Change an attribute, and the manifest with it: a valid archive that says something else."""
    path = archive / "zarr.json"
    document = json.loads(path.read_text())
    document["attributes"]["psc_archive"]["provenance"]["software"] = "somebody else's"
    path.write_text(json.dumps(document))
    entries = dict(Manifest.from_bytes((archive / "manifest.json").read_bytes(), where="x").entries)
    data = path.read_bytes()
    entries["zarr.json"] = Entry(len(data), sha256_hex(data))
    (archive / "manifest.json").write_bytes(Manifest(entries).to_bytes())


def kinds(outcome) -> list[str]:
    return [finding["kind"] for finding in outcome.document["findings"]]


def test_the_digest_is_printed_and_an_edit_is_caught_by_it(sealed, tmp_path, run):
    source = sealed.parent / "b.nii"
    nibabel.save(nibabel.Nifti1Image(np.ones((3, 4, 5), np.int16), np.eye(4)), source)
    report = run("archive", source, sealed.parent, "--coders", "zstd")
    (digest,) = (line.split()[1] for line in report.out.splitlines() if "manifest " in line)
    for command in ("info", "verify"):
        assert f"manifest {digest}" in " ".join(
            run(command, sealed.parent / "b.psc.zarr").out.split()
        )
    digest = run("info", sealed, "--json").document["manifest"]
    assert run("verify", sealed, "--expect", digest).code == 0
    assert run("verify", sealed, "--expect", f"sha256:{digest.upper()}").code == 0
    edit_consistently(sealed)
    assert run("verify", sealed, "--deep").code == 0  # it cannot know
    outcome = run("verify", sealed, "--expect", digest, "--json")
    assert (outcome.code, kinds(outcome)) == (7, ["other-manifest"])
    assert run("verify", sealed, "--expect", digest[:63]).code == 2
    refused = run("verify", sealed.parent, "--expect", digest)
    assert refused.code == 2 and "error[several-archives]" in refused.err


def test_a_signature_vouches_for_the_manifest(sealed, key, tmp_path, run):
    before = {p: p.read_bytes() for p in sealed.rglob("*") if p.is_file()}
    signed = run("sign", sealed, "--key", key, "--json")
    assert signed.code == 0, signed.err
    assert Path(signed.document["signature"]) == sealed.with_name("a.psc.zarr.sig")
    assert {p: p.read_bytes() for p in sealed.rglob("*") if p.is_file()} == before
    again = run("sign", sealed, "--key", key, "--json")
    assert again.code == 0 and again.document["was_there"]
    public = ("--public-key", f"{key}.pub")
    assert run("verify", sealed, *public, "--deep").code == 0
    assert run("verify", sealed.parent, *public).code == 0  # a folder, each by its own
    edit_consistently(sealed)
    outcome = run("verify", sealed, *public, "--json")
    assert (outcome.code, kinds(outcome)) == (7, ["bad-signature"])
    sealed.with_name("a.psc.zarr.sig").unlink()
    assert kinds(run("verify", sealed, *public, "--json")) == ["not-signed"]
    forged = run("sign", sealed, "--key", keygen(tmp_path / "forger"))
    assert forged.code == 0
    outcome = run("verify", sealed, *public, "--json")
    assert (outcome.code, kinds(outcome)) == (7, ["unknown-signer"])
    both = (*public, "--public-key", tmp_path / "forger.pub")
    assert run("verify", sealed, *both).code == 0


def test_copies_have_the_signature(sealed, key, tmp_path, run):
    assert run("sign", sealed, "--key", key).code == 0
    packed, folder = tmp_path / "b.psc.zarr.zip", tmp_path / "copies"
    assert run("copy", sealed, packed).code == 0
    assert run("sync", sealed.parent, folder).code == 0
    for copied in (packed, folder):
        assert run("verify", copied, "--public-key", f"{key}.pub").code == 0


def test_scrub_asks_for_signatures(sealed, key, tmp_path, run):
    words = ("scrub", sealed.parent, "--public-key", f"{key}.pub", "--json")
    unsigned = run(*words)
    assert unsigned.code == 7 and kinds(unsigned) == ["not-signed"]
    assert run("sign", sealed, "--key", key).code == 0
    assert run(*words).code == 0
    edit_consistently(sealed)
    assert kinds(run(*words)) == ["bad-signature"]
    assert run("scrub", sealed.parent, "--public-key", tmp_path / "none").code == 2


def test_no_signature_is_replaced(sealed, key, tmp_path, run):
    assert run("sign", sealed, "--key", key).code == 0
    text = sealed.with_name("a.psc.zarr.sig").read_bytes()
    other = keygen(tmp_path / "other")
    outcome = run("sign", sealed, "--key", other)
    assert outcome.code == 6 and "error[target-exists]" in outcome.err
    assert sealed.with_name("a.psc.zarr.sig").read_bytes() == text
    elsewhere = tmp_path / "second.sig"
    assert run("sign", sealed, "--key", other, "--signature", elsewhere).code == 0
    words = ("verify", sealed, "--public-key", f"{other}.pub")
    assert kinds(run(*words, "--json")) == ["unknown-signer"]
    assert run(*words, "--signature", elsewhere).code == 0
    assert run("verify", sealed, "--signature", elsewhere).code == 2


@pytest.mark.skipif(KEYGEN is None, reason="no ssh-keygen")
def test_openssh_checks_our_signatures_and_we_check_its(sealed, tmp_path, run):
    key = keygen(tmp_path / "id")
    assert run("sign", sealed, "--key", key).code == 0
    manifest = (sealed / "manifest.json").read_bytes()
    signers = tmp_path / "allowed_signers"
    signers.write_text(f"me@here {(tmp_path / 'id.pub').read_text()}")
    check = [str(KEYGEN), "-Y", "verify", "-n", "psc-archive", "-f", str(signers), "-I", "me@here"]
    check += ["-s", f"{sealed}.sig"]
    done = subprocess.run(check, input=manifest, capture_output=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stdout
    for hashed in ("sha512", "sha256"):
        theirs = tmp_path / hashed
        theirs.write_bytes(manifest)
        make = [str(KEYGEN), "-Y", "sign", "-O", f"hashalg={hashed}", "-n", "psc-archive"]
        subprocess.run([*make, "-f", str(key), str(theirs)], check=True, timeout=LIMIT_S)
        words = ("verify", sealed, "--public-key", signers, "--signature", f"{theirs}.sig")
        assert run(*words).code == 0
    make[make.index("psc-archive")] = "file"
    theirs.with_name(f"{hashed}.sig").unlink()
    subprocess.run([*make, "-f", str(key), str(theirs)], check=True, timeout=LIMIT_S)
    assert kinds(run(*words, "--json")) == ["bad-signature"]


@pytest.mark.skipif(OPENSSL is None, reason="no openssl")
def test_keys_of_openssl(sealed, tmp_path, run):
    private, public = pem(tmp_path / "key.pem")
    assert run("sign", sealed, "--key", private).code == 0
    assert run("verify", sealed, "--public-key", public).code == 0
    other, other_public = pem(tmp_path / "x448.pem", "ed448")
    for words in (
        ("sign", sealed, "--key", other),
        ("verify", sealed, "--public-key", other_public),
        ("sign", sealed, "--key", public),
    ):
        outcome = run(*words)
        assert outcome.code == 2 and "error[bad-key]" in outcome.err, outcome.err


@pytest.mark.skipif(KEYGEN is None, reason="no ssh-keygen")
def test_keys_that_others_read_or_that_have_a_passphrase_are_refused(sealed, key, tmp_path, run):
    key.chmod(0o644)
    outcome = run("sign", sealed, "--key", key)
    assert outcome.code == 2 and "chmod 600" in outcome.err
    locked = keygen(tmp_path / "locked")
    change = [str(KEYGEN), "-q", "-p", "-P", "", "-N", "secret", "-f", str(locked)]
    subprocess.run(change, check=True, timeout=LIMIT_S, capture_output=True)
    outcome = run("sign", sealed, "--key", locked)
    assert outcome.code == 2 and "passphrase" in outcome.err and "ssh-keygen -Y sign" in outcome.err
    assert run("sign", sealed, "--key", tmp_path / "none").code == 2


def test_a_signature_that_is_none_is_refused_and_never_crashes(sealed, key, run):
    assert run("sign", sealed, "--key", key).code == 0
    good = sealed.with_name("a.psc.zarr.sig").read_bytes()
    manifest = (sealed / "manifest.json").read_bytes()
    lines = good.splitlines(keepends=True)
    bad = [good[:n] for n in range(0, len(good) - 2, 7)]
    bad += [good[:n] + bytes([good[n] ^ 1]) + good[n + 1 :] for n in range(30, len(good) - 30, 3)]
    bad += [b"", b"\0" * 100, b"x" * (1 << 17), lines[0] + lines[-1], good.replace(b"SSH", b"GPG")]
    for text in bad:
        if text.split() == good.split():
            continue  # white space may differ
        with pytest.raises(FormatError) as caught:
            signer_of(text, manifest, where="s")
        assert caught.value.kind == "bad-signature"


def test_the_extra_is_named_where_it_is_missing(sealed, key, monkeypatch, run):
    assert run("sign", sealed, "--key", key).code == 0
    monkeypatch.setitem(sys.modules, "cryptography", None)
    for words in (
        ("sign", sealed, "--key", key),
        ("verify", sealed, "--public-key", f"{key}.pub"),
    ):
        outcome = run(*words)
        assert outcome.code == 9
        assert "pip install 'psc-archive[sign]'" in outcome.err
    digest = run("info", sealed, "--json").document["manifest"]
    assert run("verify", sealed, "--expect", digest).code == 0
