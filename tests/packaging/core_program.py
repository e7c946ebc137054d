"""What works with the core alone; run by the interpreter of such an environment, in a new folder.

Takes an archive whose bricks were coded with a prior. Prints one JSON document: what each step
gave.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

EXTRA = ("torch", "monai", "diffusers", "prefect", "dask", "distributed", "s3fs", "imageio_ffmpeg")


def command(*words: str) -> tuple[int, str, str]:
    """Exit code, output and errors of ``psc-archive``."""
    from pipelines.cli import main

    out, err = io.StringIO(), io.StringIO()
    code: Any = None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(list(words))
        except SystemExit as stop:
            code = stop.code
    return int(code or 0), out.getvalue(), err.getvalue()


def document(*words: str) -> Any:
    """What a command says with ``--json``; its errors where it failed."""
    code, out, err = command(*words, "--json")
    assert code == 0, (words, out, err)
    return json.loads(out)


def volume() -> np.ndarray[Any, np.dtype[np.int16]]:
    """A smooth ramp with noise."""
    noise = np.random.default_rng(7).normal(0, 20, (40, 36, 12))
    ramp = np.add.outer(np.add.outer(np.arange(40), np.arange(36)), np.arange(12))
    return (8 * ramp + noise).astype(np.int16)


def main(coded: str) -> None:
    """Archive, verify, restore and open, and say what came out."""
    import xarray
    import zarr

    voxels = volume()
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([1.0, 1.0, 2.0, 1.0])), "scan.nii")
    exact, lossy = "out/exact.psc.zarr", "out/lossy.psc.zarr"
    made = document("archive", "scan.nii", exact, "--coders", "zstd")
    document("archive", "scan.nii", lossy, "--mode", "lossy", "--base", "av1")
    checked = [document("verify", "--deep", name) for name in (exact, lossy)]
    restored = document("restore", exact, "back.nii")
    document("restore", lossy, "lossy.nii")
    with xarray.open_dataset(exact, engine="psc", mask_and_scale=False) as dataset:
        seen = dataset["image"].transpose("x", "y", "z").values
    plain = zarr.open_group(exact, mode="r")["image"][:]
    info = document("info", lossy)["variables"]["image"]
    refused = command("archive", "scan.nii", "no.psc.zarr", "--mode", "lossy", "--base", "psc")
    found = {
        "importable": [name for name in EXTRA if importlib.util.find_spec(name)],
        "made": [row["mode"] for row in made["archives"][0]["variables"]],
        "verified": [report["ok"] for report in checked],
        "restored": [proof["outcome"] for proof in restored["proofs"]],
        "identical": Path("back.nii").read_bytes() == Path("scan.nii").read_bytes(),
        "xarray": bool((seen == voxels).all()),
        "zarr": bool((plain == voxels.T).all()),
        "info": info["brick_methods"],
        "ls": [row["name"] for row in document("ls", "out")],
        "plan": document("archive", "scan.nii", "p.psc.zarr", "--mode", "lossy", "--dry-run"),
        "refused": refused,
        "coded by a prior": {
            "info": command("info", coded)[0],
            "verify": command("verify", coded)[0],
            "verify --deep": command("verify", "--deep", str(Path(coded).parent)),
            "restore": command("restore", coded, "coded.nii"),
        },
        "doctor": document("doctor"),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
