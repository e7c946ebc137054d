"""The same bits with other instruction sets, forced in processes of their own."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import json, os, sys, torch
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
from psc_volumetric.golden import known_networks, load_case
from psc_volumetric.conformance.runner import check_case, make_denoiser
from psc_volumetric.methods.psc.trust import network_digest, primitive_digests

names, carriers = json.loads(sys.argv[1]), json.loads(sys.argv[2])
known, problems = known_networks(), []
if primitive_digests("cpu") != known["primitives"]:
    problems.append("primitives")
for carrier in carriers:
    for digest, entry in known["priors"].items():
        denoiser = make_denoiser(digest, "cpu", carrier)
        if network_digest(denoiser.network, denoiser.prior) != entry["digest"]:
            problems.append(f"network {entry['name']} {carrier}")
    outcomes = [check_case(load_case(name), "cpu", carrier) for name in names]
    problems += [o.line() for o in outcomes if not o.passed]
print(json.dumps({"capability": torch.backends.cpu.get_cpu_capability(), "problems": problems,
                  "threads": torch.get_num_threads()}))
"""
QUICK = ["fast-effort1-int16"]
ALL = ["fast-effort1-int16", "fast-effort5-int16", "fast-edge-uint16", "paper-float64"]
ONEDNN = ("SSE41", "AVX2", "AVX512_CORE", "default")
ATEN = ("default", "avx2", "avx512")


def run(names: list[str], carriers: list[str], **settings: str) -> dict[str, object]:
    chosen = {name: value for name, value in settings.items() if value}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **chosen}
    command = [sys.executable, "-c", PROGRAM, json.dumps(names), json.dumps(carriers)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize(
    ("onednn", "aten"),
    [("SSE41", "default"), pytest.param("AVX2", "avx2", marks=pytest.mark.slow)],
)
def test_same_bits_with_fewer_instructions(onednn: str, aten: str) -> None:
    found = run(QUICK, ["fused", "float32"], ONEDNN_MAX_CPU_ISA=onednn, ATEN_CPU_CAPABILITY=aten)
    assert found["problems"] == []
    if aten == "default":
        assert found["capability"] in ("DEFAULT", "NO AVX")


@pytest.mark.slow
@pytest.mark.parametrize(("onednn", "aten"), list(itertools.product(ONEDNN, ATEN)))
def test_same_bits_in_the_whole_matrix(onednn: str, aten: str) -> None:
    settings = {"ONEDNN_MAX_CPU_ISA": "" if onednn == "default" else onednn}
    found = run(ALL, ["fused", "float32", "float64"], ATEN_CPU_CAPABILITY=aten, **settings)
    assert found["problems"] == []


@pytest.mark.slow
@pytest.mark.parametrize("threads", ["1", "2", "3", "5"])
def test_same_bits_with_any_number_of_threads(threads: str) -> None:
    found = run(ALL[:3], ["fused", "float32"], OMP_NUM_THREADS=threads)
    assert found["problems"] == [] and found["threads"] == int(threads)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
        {"NUMBA_CPU_NAME": "nehalem", "NUMBA_CPU_FEATURES": "", "PSC_ARCHIVE_LOOPS": "numba"},
        {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "", "PSC_ARCHIVE_LOOPS": "numba"},
        {"NUMBA_DISABLE_INTEL_SVML": "1", "NUMBA_OPT": "1"},
        {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "MKL_CBWR": "COMPATIBLE"},
        {"NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F"},
        {"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1", "ONEDNN_DEFAULT_FPMATH_MODE": "ANY"},
    ],
    ids=lambda settings: "-".join([*settings, settings.get("NUMBA_CPU_NAME", "")]),
)
def test_same_bits_with_other_compilers_and_libraries(settings, tmp_path: Path) -> None:
    found = run(ALL, ["fused", "float32"], NUMBA_CACHE_DIR=str(tmp_path), **settings)
    assert found["problems"] == []
