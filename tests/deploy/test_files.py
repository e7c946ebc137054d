"""The files of deploy/ belong together, and `init-service` writes them with the user's paths."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.commands.failures import EXIT_STORAGE, EXIT_USAGE
from pipelines.commands.init_service import KINDS, service_files
from tests.deploy.compose_file import DEPLOY, VARIABLE, compose

STAY = ("database", "server", "store", "scheduler", "worker", "flows")
KUBERNETES = [
    document
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text("utf-8"))
]


def test_every_service_restarts_has_limits_and_runs_as_nobody_special(
    settings: dict[str, str],
) -> None:
    services = compose(settings)
    assert set(STAY) < set(services)
    for name in STAY:
        found = services[name]
        assert found["restart"] == "unless-stopped", name
        assert "memory" in found["deploy"]["resources"]["limits"], name
        assert "no-new-privileges:true" in found["security_opt"], name
        assert name == "flows" or "healthcheck" in found, name
        if found["image"] == "psc-archive":
            assert (found["user"], found["cap_drop"]) == ("1000:1000", ["ALL"]), name
    for name, found in services.items():
        for other, how in found.get("depends_on", {}).items():
            wanted = "restart" if how["condition"] == "service_completed_successfully" else None
            assert (wanted or "healthcheck") in services[other], (name, other)


def test_the_settings_of_compose_are_those_of_its_env_file(settings: dict[str, str]) -> None:
    text = "".join(path.read_text("utf-8") for path in DEPLOY.glob("compose*.yaml"))
    used = {match[1] for match in VARIABLE.finditer(text)}
    assert used - {"PSC_CUDA_IMAGE"} == set(settings)


def test_workers_with_a_gpu_differ_in_resources_only(settings: dict[str, str]) -> None:
    (gpu,) = compose(settings, "compose.cuda.yaml").values()
    plain = compose(settings)["worker"]["command"]
    changed = [(a, b) for a, b in zip(plain, gpu["command"], strict=True) if a != b]
    assert changed == [("PSC_SLOT=1", "PSC_SLOT=1 PSC_GPU=1"), ("6GiB", "12GiB")]


def containers() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Name -> pod and container."""
    pods = [d["spec"]["template"]["spec"] for d in KUBERNETES if "template" in d.get("spec", {})]
    return {c["name"]: (pod, c) for pod in pods for c in pod["containers"]}


def test_kubernetes_runs_the_commands_of_compose(settings: dict[str, str]) -> None:
    services = compose({**settings, "PSC_TARGET": "$(PSC_TARGET)"})
    places = {"/data/inbox": "/srv/volumes", "/data/records": "/srv/records"}
    for name in ("server", "scheduler", "worker", "flows"):
        wanted = [
            next((word.replace(a, b) for a, b in places.items() if word.startswith(a)), word)
            for word in services[name]["command"]
        ]
        assert containers()[name][1]["command"] == wanted, name


def test_pods_are_restricted_limited_and_looked_after() -> None:
    for name, (pod, container) in containers().items():
        assert pod["securityContext"]["runAsNonRoot"], name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in container["resources"]["limits"], name
        assert name == "flows" or {"readinessProbe", "livenessProbe"} <= container.keys(), name
        mounted = {mount["name"] for mount in container.get("volumeMounts", ())}
        declared = {volume["name"] for volume in pod.get("volumes", ())}
        assert mounted == declared or name == "database"
    claims = {d["metadata"]["name"] for d in KUBERNETES if d["kind"] == "PersistentVolumeClaim"}
    assert claims == {"inbox", "archives", "records"}
    labels = {
        d["spec"]["template"]["metadata"]["labels"]["app"]
        for d in KUBERNETES
        if "template" in d.get("spec", {})
    }
    for document in KUBERNETES:
        if document["kind"] == "Service":
            assert document["spec"]["selector"]["app"] in labels
            port = document["spec"]["ports"][0]["port"]
            ports = containers()[document["metadata"]["name"]][1]["ports"]
            assert port in {one["containerPort"] for one in ports}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here")
def test_kustomize_takes_the_manifests() -> None:
    done = subprocess.run(
        ["kubectl", "kustomize", str(DEPLOY / "kubernetes")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(list(yaml.safe_load_all(done.stdout))) == len(KUBERNETES) - 1


def test_the_image_has_what_its_commands_take(settings: dict[str, str]) -> None:
    """Instructions of the Dockerfile, lines joined."""
    text = (DEPLOY / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    steps = [line.split(None, 1) for line in lines]
    assert {word for word, _ in steps} <= {
        "FROM",
        "WORKDIR",
        "COPY",
        "RUN",
        "ARG",
        "ENV",
        "USER",
        "CMD",
    }
    assert re.search(r"\[prior,av1,s3,flows,sign,deidentify,report\]", text)
    user = max(i for i, step in enumerate(steps) if step[0] == "USER")
    assert steps[user][1] == "1000:1000"
    compiled = next(i for i, step in enumerate(steps) if "doctor --conformance" in step[1])
    assert compiled > user, "the cache of machine code belongs to the user that runs"
    (numba,) = re.findall(r"NUMBA_CACHE_DIR=(\S+)", text)
    mounts = compose(settings)["worker"]["volumes"]
    assert any(numba.startswith(mount.rpartition(":")[2]) for mount in mounts)
    copied = (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8")
    for folder in ("psc_volumetric", "pipelines", "adapters", "flows", "deploy"):
        assert f"!{folder}\n" in copied


def run(*words: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["init-service", *words])
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_init_service_writes_the_users_paths_once(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = (kind, "--inbox", "/mnt/in", "--archive", "/mnt/cold/archives", "--into", "made")
    code, shown, said = run(*words)
    assert code == 0, said
    files = {p.name: p.read_text("utf-8") for p in (tmp_path / "made").iterdir()}
    assert len(files) == len(KINDS[kind].names)
    text = "".join(files.values())
    assert "/mnt/in" in text and "/mnt/cold/archives" in text
    assert "/srv/volumes" not in text and "/srv/archives" not in text
    assert len([line for line in shown.splitlines() if line.startswith("  ")]) == 2
    code, _, said = run(*words)
    assert (code, "target-exists" in said) == (EXIT_STORAGE, True)
    assert {p.name: p.read_text("utf-8") for p in (tmp_path / "made").iterdir()} == files


def test_init_service_knows_urls_and_makes_passwords(tmp_path: Path) -> None:
    words = ("--inbox", "/mnt/in", "--archive", "s3://cold/volumes")
    made = tmp_path / "compose"
    code, shown, _ = run("compose", *words, "--into", str(made), "--json")
    assert (code, json.loads(shown)["kind"]) == (0, "compose")
    env = made / ".env"
    assert env.stat().st_mode & 0o077 == 0
    found = dict(re.findall(r"^(\w+)=(.*)$", env.read_text("utf-8"), re.M))
    assert found["PSC_TARGET"] == "s3://cold/volumes"
    assert all(len(found[name]) == 32 for name in ("PSC_S3_SECRET", "PSC_DATABASE_PASSWORD"))
    again = service_files("compose", Path("/mnt/in"), "s3://cold/volumes")[".env"]
    assert again != env.read_text("utf-8"), "each has its own passwords"
    kept = service_files("kubernetes", Path("/mnt/in"), "s3://cold/volumes")
    assert "  PSC_TARGET: s3://cold/volumes\n" in kept["settings.yaml"]


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (("windows", "--inbox", "/a/b", "--archive", "/c/d"), "bad-service"),
        (("systemd", "--inbox", "/a/b", "--archive", "s3://c/d"), "bad-path"),
        (("slurm", "--inbox", "/a/b c", "--archive", "/c/d"), "bad-path"),
        (("compose", "--inbox", "/a/b", "--archive", "s3://c/$(d)"), "bad-path"),
        (("systemd", "--inbox", "/a/b", "--archive", "/c"), "bad-path"),
        (("kubernetes", "--inbox", "/a/b", "--archive", "/c/d\n"), "bad-path"),
    ],
)
def test_init_service_refuses_what_it_would_have_to_quote(
    words: tuple[str, ...], kind: str, tmp_path: Path
) -> None:
    code, _, said = run(*words, "--into", str(tmp_path / "made"))
    assert (code, kind in said) == (EXIT_USAGE, True), said
    assert not (tmp_path / "made").exists()
