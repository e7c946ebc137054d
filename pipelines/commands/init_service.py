"""The command ``psc-archive init-service``: the files of deploy/ with the user's paths in them."""

from __future__ import annotations

import re
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from pipelines.commands.options import Debug, Json, Quiet
from pipelines.commands.session import Session
from psc_volumetric.errors import ParameterError, StorageError
from psc_volumetric.shipped import shipped_text

__all__ = ["KINDS", "ServiceFiles", "init_service", "service_files"]

# The paths of the example in deploy/ that stand for the user's.
INBOX, ARCHIVES, RECORDS = "/srv/volumes", "/srv/archives", "/srv/records"
PROGRAM = "/opt/psc-archive/bin/psc-archive"
# In these characters a path needs no quotes in a unit, a shell, a YAML file or an .env file.
_PLAIN = re.compile(r"/[A-Za-z0-9._/@+=-]*")
_PLAIN_URL = re.compile(r"s3://[A-Za-z0-9._/@+=-]+")


@dataclass(frozen=True)
class ServiceFiles:
    """What a kind of service consists of.

    Attributes
    ----------
    names : tuple of str
        Files below deploy/.
    takes_url : bool
        Whether the archives may go to an object store.
    next : tuple of str
        Commands that come next, ``{folder}`` being where the files are.
    """

    names: tuple[str, ...]
    takes_url: bool
    next: tuple[str, str]


KINDS = {
    "systemd": ServiceFiles(
        (
            "systemd/psc-archive.env",
            "systemd/psc-archive.service",
            "systemd/psc-archive.timer",
            "systemd/psc-archive-scrub.service",
            "systemd/psc-archive-scrub.timer",
        ),
        False,
        (
            "sudo useradd --system psc-archive && sudo cp {folder}/psc-archive.env /etc/ && "
            "sudo cp {folder}/*.service {folder}/*.timer /etc/systemd/system/",
            "sudo systemctl enable --now psc-archive.timer psc-archive-scrub.timer",
        ),
    ),
    "compose": ServiceFiles(
        ("compose.yaml", "compose.cuda.yaml", "compose.env"),
        True,
        (
            "docker build -f deploy/Dockerfile -t psc-archive .   # in a checkout of psc-archive",
            "docker compose --project-directory {folder} up -d",
        ),
    ),
    "slurm": ServiceFiles(
        ("slurm/archive.sbatch",),
        False,
        ("sbatch --test-only {folder}/archive.sbatch", "sbatch {folder}/archive.sbatch"),
    ),
    "kubernetes": ServiceFiles(
        tuple(
            f"kubernetes/{name}.yaml"
            for name in (
                "kustomization",
                "namespace",
                "settings",
                "volumes",
                "database",
                "server",
                "dask",
                "flows",
            )
        ),
        True,
        (
            "kubectl create namespace psc-archive && kubectl -n psc-archive create secret generic "
            'psc-archive --from-literal=database-password="$(openssl rand -hex 24)"',
            "kubectl apply -k {folder}",
        ),
    ),
}


def init_service(
    kind: Annotated[str, typer.Argument(metavar="|".join(KINDS), help="What runs it.")],
    inbox: Annotated[Path, typer.Option(help="Folder that volumes arrive in.")],
    archive: Annotated[str, typer.Option(help="Folder for archives; s3://BUCKET/FOLDER too.")],
    into: Annotated[Path, typer.Option(help="New folder for the files.")] = Path(
        "psc-archive-service"
    ),
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write the files that run psc-archive as a service, with your paths in them."""
    with Session(as_json=as_json, quiet=quiet, debug=debug) as session:
        files = service_files(kind, inbox, archive)
        _write(into, files)
        commands = [command.format(folder=into) for command in KINDS[kind].next]
        document = {"kind": kind, "files": [str(into / name) for name in files], "next": commands}
        lines = [f"wrote  {into / name}" for name in files]
        lines += ["next:", *(f"  {command}" for command in commands)]
        session.result(document, lambda: lines)


def service_files(kind: str, inbox: Path, archive: str) -> dict[str, str]:
    """The files of a kind of service with the user's paths: name -> text.

    Raises
    ------
    ParameterError : kind ``"bad-service"``, there is no such kind; ``"bad-path"``, a path with
        characters that some of the files would have to quote, or a URL where a folder is expected.
    """
    if kind not in KINDS:
        raise ParameterError(
            f"expected one of {', '.join(KINDS)}, found {kind!r}", kind="bad-service"
        )
    given = KINDS[kind]
    source = _plain(str(inbox.absolute()), "--inbox")
    is_url = "://" in archive
    if is_url and not (given.takes_url and _PLAIN_URL.fullmatch(archive)):
        expected = "a folder or s3://BUCKET/FOLDER" if given.takes_url else "a folder"
        raise ParameterError(
            f"expected {expected} for --archive, found {archive!r}", kind="bad-path"
        )
    target = ARCHIVES if is_url else _plain(str(Path(archive).absolute()), "--archive")
    folder = Path(__file__).resolve().parents[1] / "deploy"
    if not folder.is_dir():  # a checkout: the wheel has a copy there
        folder = Path(__file__).resolve().parents[2] / "deploy"
    records = str(Path(target).parent / "records") if not is_url else RECORDS
    paths = {INBOX: source, ARCHIVES: target, RECORDS: records, PROGRAM: _program()}
    finish = _FINISH[kind]
    made = {}
    for name in given.names:
        text = re.sub(
            "|".join(map(re.escape, paths)),
            lambda m: paths[m[0]],
            shipped_text(folder / name),
        )
        own = ".env" if name == "compose.env" else Path(name).name
        made[own] = finish(name, text, archive if is_url else None)
    return made


def _plain(path: str, option: str) -> str:
    if not _PLAIN.fullmatch(path) or Path(path).parent == Path("/"):
        raise ParameterError(
            f"expected a path of letters, digits and ._/@+=- for {option}, not right below /, "
            f"found {path!r}",
            kind="bad-path",
            hint="a link with a plain name to that folder will do",
        )
    return path.rstrip("/")


def _program() -> str:
    """The command of this installation."""
    here = Path(sys.executable).with_name("psc-archive")
    return str(here) if here.is_file() and _PLAIN.fullmatch(str(here)) else PROGRAM


def _compose(name: str, text: str, url: str | None) -> str:
    """New passwords, and where archives go."""
    if name != "compose.env":
        return text
    text = re.sub(r"^(PSC_\w+(?:SECRET|PASSWORD))=$", _with_secret, text, flags=re.M)
    target = url or "/data/archives"
    return re.sub(r"^PSC_TARGET=.*$", f"PSC_TARGET={target}", text, flags=re.M)


def _with_secret(found: re.Match[str]) -> str:
    return f"{found[1]}={secrets.token_urlsafe(24)}"


def _kubernetes(name: str, text: str, url: str | None) -> str:
    """Where archives go."""
    if url is None or not name.endswith("settings.yaml"):
        return text
    return re.sub(r"^(  PSC_TARGET: ).*$", rf"\g<1>{url}", text, flags=re.M)


def _systemd(_: str, text: str, __: str | None) -> str:
    """Lock and records stand beside the archives, so that folder is writable, too."""
    archives = re.search(r"^RequiresMountsFor=(?:.* )?(\S+)$", text, flags=re.M)
    if archives is None:
        return text
    beside = f"ReadWritePaths={Path(archives[1]).parent}"
    return re.sub(r"^ReadWritePaths=.*$", beside, text, flags=re.M)


def _unchanged(_: str, text: str, __: str | None) -> str:
    return text


_FINISH: dict[str, Callable[[str, str, str | None], str]] = {
    "compose": _compose,
    "kubernetes": _kubernetes,
    "slurm": _unchanged,
    "systemd": _systemd,
}


def _write(folder: Path, files: dict[str, str]) -> None:
    """Write all files, or none where one of them is there."""
    taken = [name for name in files if (folder / name).exists()]
    if taken:
        raise StorageError(
            f"{str(folder / taken[0])!r} is there already",
            kind="target-exists",
            hint="name another folder with --into, or remove it",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            path = folder / name
            path.touch(mode=0o600 if name == ".env" else 0o644, exist_ok=False)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(
            f"the files cannot be written to {str(folder)!r} ({error.strerror})",
            kind="storage-failed",
            hint="check the rights and the free space",
        ) from error
