"""Faults at every request that changes an object store: ``python -m tests.faults.object_store``.

The store is a server on this machine that speaks S3 (moto). Before each PUT, POST or DELETE, and
after it but before its answer, the command that sent it is killed; then it is run again. Asked is
what `tests.faults.kill` asks of folders. With ``--mode failing`` the store fails instead: it is
silent on one request (the command asks again and ends well), or it is gone from that request on
(the command ends with exit code 6 or well, and the next run finishes).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from psc_volumetric.archive import ArchiveReader, verify_archive
from psc_volumetric.errors import PscError
from tests.faults.kill import CODERS, Tally, last_line
from tests.faults.runner import Runner, scratch_folder
from tests.faults.shim import Fault
from tests.faults.sources import write_nifti

__all__ = ["Store", "serving", "try_at_requests"]

BUCKET = "bucket"
TARGET = f"s3://{BUCKET}/scan.psc.zarr"
CHANGES = ("PUT", "POST", "DELETE")
KILLS = ("before", "after")
ENDS = {"silent": (0,), "gone": (0, 6)}  # exit codes of a command whose store fails so
TIMEOUT_S = 2  # that the client of the commands has; a silent store is silent for longer
Answer = Callable[..., Any]


class Store:
    """A WSGI application in front of the server, that counts and kills."""

    def __init__(self, application: Callable[[dict[str, Any], Answer], Iterable[bytes]]) -> None:
        self._application = application
        self._lock = threading.Lock()
        self.url = ""
        self.count = 0
        self.at = 0
        self.when = "before"
        self.victim = 0

    def arm(self, at: int, when: str) -> None:
        """What happens at the ``at``-th change; 0: nothing.

        The victim is killed ``"before"`` or ``"after"`` it is made; or the store is ``"silent"``
        once, or ``"gone"`` from then on.
        """
        self.count, self.at, self.when, self.victim = 0, at, when, 0

    def __call__(self, environ: dict[str, Any], answer: Answer) -> Iterable[bytes]:
        with self._lock:
            self.count += environ["REQUEST_METHOD"] in CHANGES
            meets = environ["REQUEST_METHOD"] in CHANGES and self.count == self.at
            gone = self.when == "gone" and 0 < self.at <= self.count
        if gone or (meets and self.when == "silent"):
            if not gone:
                threading.Event().wait(2 * TIMEOUT_S)
            answer("503 Service Unavailable", [])
            return [b""]
        if meets and self.when == "before":
            self._kill()
            answer("503 Service Unavailable", [])
            return [b""]
        found = self._application(environ, answer)
        if meets:
            found = [b"".join(found)]
            self._kill()
        return found

    def _kill(self) -> None:
        while self.victim == 0:
            threading.Event().wait(0.001)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.victim, signal.SIGKILL)

    def client(self) -> Any:
        """A client of the store."""
        import boto3

        return boto3.client("s3", endpoint_url=self.url)

    def objects(self) -> dict[str, str]:
        """Every key with the digest of its object."""
        client, found = self.client(), {}
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
            for entry in page.get("Contents", ()):
                body = client.get_object(Bucket=BUCKET, Key=entry["Key"])["Body"].read()
                found[entry["Key"]] = hashlib.sha256(body).hexdigest()
        return found

    def clear(self) -> None:
        """Remove every object."""
        client = self.client()
        for key in self.objects():
            client.delete_object(Bucket=BUCKET, Key=key)


ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "FSSPEC_S3": json.dumps({"config_kwargs": {"read_timeout": TIMEOUT_S}}),
}


@contextmanager
def serving() -> Iterator[Store]:
    """A store with one empty bucket; this process's environment leads to it."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    store = Store(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, store, threaded=True)
    store.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    before = dict(os.environ)
    os.environ.update(ENVIRONMENT, AWS_ENDPOINT_URL=store.url)
    try:
        store.client().create_bucket(Bucket=BUCKET)
        yield store
    finally:
        os.environ.clear()
        os.environ.update(before)
        server.shutdown()
        thread.join()


def try_at_requests(
    store: Store, runner: Runner, words: list[str], faults: Sequence[str], *, every: int = 1
) -> Tally:
    """Meet each n-th change with each of the faults, and run again where that did not end well."""
    store.clear()
    store.arm(0, "")
    done = runner.run(words, Fault(runner.folder))
    assert done.code == 0, done.err
    expected, total = store.objects(), store.count
    tally = Tally(f"s3, {' and '.join(faults)}", total)
    for at in range(1, total + 1, every):
        for fault in faults:
            where = f"{fault} change {at}"
            store.clear()
            store.arm(at, fault)
            store.victim = runner.start(words, Fault(runner.folder))
            done = runner.finish()
            store.arm(0, "")
            if fault in KILLS and not done.killed:
                continue
            tally.kills += 1
            if not done.killed and done.code not in ENDS[fault]:
                tally.wrong(where, f"the command exits {done.code}: {last_line(done)}")
            _check_killed(store, expected, tally, where)
            if done.code != 0:
                done = runner.run(words, Fault(runner.folder))
                if done.code != 0:
                    tally.wrong(where, f"the rerun exits {done.code}: {last_line(done)}")
            if store.objects() != expected:
                tally.wrong(where, "in the end the objects are not those of a calm run")
    return tally


def _check_killed(store: Store, expected: dict[str, str], tally: Tally, where: str) -> None:
    try:
        with ArchiveReader.open(TARGET):
            pass
        findings = list(verify_archive(TARGET))
    except PscError:
        return
    tally.sealed += 1
    found = store.objects()
    if any(found.get(key) != digest for key, digest in expected.items()):
        tally.wrong(where, "sealed, but not whole")
    if findings:
        tally.wrong(where, f"sealed, but verify finds {findings[0].kind} {findings[0].key}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--every", type=int, default=1, help="only each n-th change")
    parser.add_argument("--mode", choices=("kill", "failing"), default="kill")
    arguments = parser.parse_args()
    folder = scratch_folder("psc-store-")
    source = write_nifti(folder)
    words = ["archive", str(source), TARGET, *CODERS]
    with serving() as store, Runner(ENVIRONMENT, shimmed=False) as runner:
        faults = KILLS if arguments.mode == "kill" else tuple(ENDS)
        tally = try_at_requests(store, runner, words, faults, every=arguments.every)
    print(
        "| case | changes | kills, or failures | sealed already | problems |\n|---|---|---|---|---|"
    )
    print(tally.line())
    print("\n".join(tally.problems), file=sys.stderr)
    shutil.rmtree(folder)
    sys.exit(1 if tally.problems else 0)


if __name__ == "__main__":
    main()
