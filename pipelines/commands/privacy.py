"""The commands ``psc-archive strip`` and ``psc-archive pseudonyms``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.commands.options import ArchivePath, Debug, Json, Quiet
from pipelines.commands.session import Session

if TYPE_CHECKING:
    from psc_volumetric.archive.age import Recipient

__all__ = ["identity_make", "pseudonyms_make", "pseudonyms_show", "strip"]

KeyFile = Annotated[Path, typer.Argument(metavar="KEYFILE", help="Yours alone (mode 600).")]


def strip(
    source: ArchivePath,
    target: Annotated[str, typer.Argument(metavar="NEW", help="Name of the copy.")],
    link_original: Annotated[
        bool,
        typer.Option("--link-original", help="Record the digest of the first archive's manifest."),
    ] = False,
    encrypt_headers: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RECIPIENT",
            help="Keep what is left out, for the owner of this key only: age1..., or a file of "
            "such; may be repeated.",
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Copy an archive without headers, file names and digests of its source."""
    with Session(as_json=as_json, quiet=quiet, debug=debug) as session:
        from pipelines.archiving.strip import strip as copy_stripped
        from pipelines.archiving.strip import strip_lines

        given = (line for text in encrypt_headers or () for line in _recipients(text))
        report = copy_stripped(
            source, target, link_original=link_original, recipients=tuple(dict.fromkeys(given))
        )
        session.result(report.to_dict(), lambda: strip_lines(report))


def _recipients(text: str) -> tuple[Recipient, ...]:
    """A recipient, or those in a file."""
    from pipelines.key_files import read_key_file
    from psc_volumetric.archive.age import recipients_in

    if text.startswith("age1"):
        return recipients_in(text)
    return recipients_in(read_key_file(Path(text)).decode("utf-8", "replace"))


def identity_make(
    keyfile: KeyFile, as_json: Json = False, quiet: Quiet = False, debug: Debug = False
) -> None:
    """Make a key for `strip --encrypt-headers`; what it prints is the half to give away."""
    with Session(as_json=as_json, quiet=quiet, debug=debug) as session:
        from pipelines.archiving.created import created_now
        from pipelines.key_files import write_key_file
        from psc_volumetric.archive.age import Identity

        made = Identity.make()
        lines = f"# created: {created_now()}\n# public key: {made.recipient}\n{made.text}\n"
        write_key_file(keyfile, lines.encode("ascii"))
        document = {"key": str(keyfile), "recipient": str(made.recipient)}
        session.result(document, lambda: [str(made.recipient)])


def pseudonyms_make(
    keyfile: KeyFile, as_json: Json = False, quiet: Quiet = False, debug: Debug = False
) -> None:
    """Make a key for `archive --pseudonyms`; keep it and the table beside it safe."""
    with Session(as_json=as_json, quiet=quiet, debug=debug) as session:
        from pipelines.archiving.pseudonyms import make_key

        make_key(keyfile)
        session.result({"key": str(keyfile)}, lambda: [f"made {keyfile}"])


def pseudonyms_show(
    keyfile: KeyFile, as_json: Json = False, quiet: Quiet = False, debug: Debug = False
) -> None:
    """Show what each pseudonym stands for."""
    with Session(as_json=as_json, quiet=quiet, debug=debug) as session:
        from pipelines.archiving.pseudonyms import read_table

        rows = read_table(keyfile)
        session.result(rows, lambda: [f"{name}  {source}" for name, source in rows.items()])
