"""The command ``psc-archive view``."""

from __future__ import annotations

import threading
import webbrowser
from contextlib import ExitStack
from typing import Annotated

import typer

from pipelines.commands.failures import EXIT_OK
from pipelines.commands.options import ArchivesPath, Debug, Json, Quiet
from pipelines.commands.session import Session
from pipelines.stopping import Stopped

__all__ = ["view"]

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def view(
    source: ArchivesPath,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Interface to listen on; others can then look.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Only say the address; open it yourself.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Open an archive, or a folder of archives, in a browser; Ctrl-C ends it."""
    with Session(as_json=as_json, quiet=quiet, debug=debug) as session:
        from pipelines.viewing.doorway import doorway
        from pipelines.viewing.server import ViewServer

        try:
            with ViewServer(source, host=host, port=port) as server, ExitStack() as stack:
                lines = [f"looking at {server.shelf.name}", server.url, "Ctrl-C ends it"]
                session.result({"url": server.url, "name": server.shelf.name}, lambda: lines)
                if host not in LOOPBACK:
                    session.note("others who know this address can look, too")
                if not (no_browser or as_json or quiet):
                    # some browsers are waited for; Ctrl-C has to find this thread at nothing else
                    page = stack.enter_context(doorway(server.url))
                    threading.Thread(target=webbrowser.open, args=(page,), daemon=True).start()
                threading.Event().wait()
        except KeyboardInterrupt as told:  # the way to end it: nothing went wrong
            code = told.exit_code if isinstance(told, Stopped) else EXIT_OK
            raise typer.Exit(code) from None
