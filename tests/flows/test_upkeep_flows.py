"""Scrub, restore and retention over a folder of archives, and whom a failure is told."""

from __future__ import annotations

import datetime
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import get_client
from pydantic import SecretStr

from flows.records import ArchivesFailedError
from flows.restore import restore_archives
from flows.retention import retain_archives
from flows.scrub import scrub_archives
from pipelines.archiving.archive import ArchiveOptions, archive, plan
from pipelines.checking.scrub import ScrubOptions

pytestmark = pytest.mark.usefixtures("prefect_server")


@pytest.fixture
def archives(scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder with an old archive, ``labels``, and a new one in a folder, ``sub/anatomical``."""
    folder, options = tmp_path / "archives", ArchiveOptions(coders="zstd")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    archive(plan(scans / "labels.nii", str(folder), options))
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    archive(plan(scans / "anatomical.nii", str(folder / "sub"), options))
    return folder


@pytest.fixture
def hooks() -> Iterator[tuple[str, list[str]]]:
    """A web server on this machine: its address, and the bodies that were posted to it."""
    bodies: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    # a connection that says nothing must not keep the server from its end
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.block_on_close = True, False
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", bodies
    server.shutdown()
    thread.join(timeout=30)
    server.server_close()


def artifact(key: str) -> str:
    with get_client(sync_client=True) as client:
        found = [a for a in client.read_artifacts() if a.key == key]
    return str(max(found, key=lambda a: a.created or datetime.datetime.min).data)


def events(archives: Path) -> list[dict[str, object]]:
    log = archives.with_name(archives.name + ".events.jsonl")
    return [json.loads(line) for line in log.read_text("utf-8").splitlines()]


def test_scrub_finds_damage_logs_it_and_tells_it(
    archives: Path, hooks: tuple[str, list[str]]
) -> None:
    outcomes = scrub_archives(str(archives), ScrubOptions(deep=True))
    assert [outcome.status for outcome in outcomes] == ["ok", "ok"]
    brick = next((archives / "labels.psc.zarr").glob("*/c/0/0/0"))
    brick.write_bytes(brick.read_bytes()[:-1])
    url, bodies = hooks
    Webhook(url=SecretStr(url)).save("flow-tests", overwrite=True)
    with pytest.raises(ArchivesFailedError) as caught:
        scrub_archives(str(archives), notify="webhook/flow-tests")
    assert caught.value.kind == "damage-found"
    assert [outcome.status for outcome in caught.value.outcomes] == ["damaged", "ok"]
    logged = events(archives)
    assert [event["outcome"] for event in logged] == ["ok", "ok", "damaged", "ok"]
    assert all(event["who"] and event["time"] and event["how"] for event in logged)
    (body,) = bodies
    told = json.loads(body)
    assert (told["flow"], told["state"]) == ("scrub-archives", "Failed")
    summary = artifact("psc-scrub")
    assert "1 archives in order, 1 not" in summary
    for text in (body, summary):
        assert "labels" not in text
        assert "anatomical" not in text


def test_scrub_tells_an_archive_of_a_later_release_from_damage(archives: Path) -> None:
    for path in ("manifest.json", "zarr.json"):
        place = archives / "labels.psc.zarr" / path
        place.write_text(place.read_text().replace('"format":1', '"format":7'))
    with pytest.raises(ArchivesFailedError) as caught:
        scrub_archives(str(archives))
    assert caught.value.kind == "not-checked"
    assert [outcome.status for outcome in caught.value.outcomes] == ["not-checked", "ok"]
    assert caught.value.outcomes[0].error_kind == "unsupported-version"
    assert [event["outcome"] for event in events(archives)] == ["not-checked", "ok"]


def test_notification_blocks_are_told_in_words(
    archives: Path, tmp_path: Path, hooks: tuple[str, list[str]]
) -> None:
    url, bodies = hooks
    block = CustomWebhookNotificationBlock(name="t", url=url, json_data={"text": "{{body}}"})
    block.save("flow-tests", overwrite=True)
    brick = next((archives / "labels.psc.zarr").glob("*/c/0/0/0"))
    brick.unlink()
    with pytest.raises(ArchivesFailedError) as caught:
        restore_archives(str(archives), str(tmp_path / "out"), notify="custom-webhook/flow-tests")
    assert caught.value.kind == "not-restored"
    assert "restore-archives" in json.loads(bodies[0])["text"]
    assert [p.name for p in sorted((tmp_path / "out").rglob("*.nii"))] == ["anatomical.nii"]


def test_restore_gives_the_files_on_the_list_and_nothing_twice(
    archives: Path, scans: Path, tmp_path: Path
) -> None:
    wanted, out = tmp_path / "wanted.txt", tmp_path / "out"
    wanted.write_text("# for the study\nlabels.psc.zarr\n", encoding="utf-8")
    outcomes = restore_archives(str(archives), str(out), wanted=str(wanted))
    assert [outcome.status for outcome in outcomes] == ["restored"]
    (file,) = (out / "labels").iterdir()
    assert file.read_bytes() == (scans / "labels.nii").read_bytes()
    again = restore_archives(str(archives), str(out))
    assert [outcome.status for outcome in again] == ["restored-before", "restored"]
    assert "labels" not in artifact("psc-restore")


def test_retention_lists_and_removes_only_when_told_so(archives: Path) -> None:
    listed = retain_archives(str(archives), 365)
    assert [outcome.status for outcome in listed] == ["past", "kept"]
    assert (archives / "labels.psc.zarr").is_dir()
    assert "1 archives past their date, 0 removed" in artifact("psc-retention")
    removed = retain_archives(str(archives), 365, delete=True)
    assert [outcome.status for outcome in removed] == ["removed", "kept"]
    left = sorted(path.name for path in archives.iterdir())
    assert left == ["labels.psc.zarr.retired.json", "sub"]
    assert [event["outcome"] for event in events(archives)] == ["begun", "removed"]
