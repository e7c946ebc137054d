"""What a region of an estimator's output needs, and which networks are none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from psc_volumetric.errors import FormatError
from psc_volumetric.prior import installed_posteriors, load_prior, prior_from_files
from psc_volumetric.prior.program import Program
from psc_volumetric.prior.runtime import TorchRuntime

TINY = "test-tiny-posterior"


@pytest.mark.parametrize("name", sorted(installed_posteriors()))
def test_a_cut_differs_within_the_margin_only(name: str) -> None:
    program = load_prior(name).program
    multiple, margin = program.reach
    size = -(-(2 * margin + 24) // multiple) * multiple
    rng = np.random.default_rng(7)
    x = torch.from_numpy(rng.integers(-3000, 3000, (1, program.slices, size, 16), np.int32))
    run = TorchRuntime(program)
    whole, cut = run(x, 0), run(x[:, :, multiple:], 0)
    same = (whole[:, :, multiple:] == cut).all(dim=3).all(dim=1)[0].numpy()
    assert same[margin:].all()
    assert not same[: margin // 3].any()


def test_the_networks_that_ship_are_made_for_any_extents() -> None:
    for name in installed_posteriors():
        prior = load_prior(name)
        assert prior.kind == "posterior" and prior.levels == 4 * len(prior.steps)
        assert sum(map(len, prior.files().values())) < 10_000_000
        out = TorchRuntime(prior.program)(
            torch.zeros((2, prior.program.slices, 8, 20), dtype=torch.int32), prior.levels - 1
        )
        assert out.shape == (2, 2, 8, 20)


def test_a_step_that_sees_the_whole_plane_is_refused() -> None:
    denoiser = load_prior("test-tiny").program
    assert any(step.op == "norm_act" for step in denoiser.steps)
    with pytest.raises(FormatError, match="looks at whole planes") as caught:
        replace(denoiser, outputs=denoiser.slices)
    assert caught.value.kind == "bad-program"


def test_a_convolution_with_a_stride_is_refused() -> None:
    program = load_prior(TINY).program
    steps = list(program.steps)
    places = [i for i, step in enumerate(steps) if step.op == "unfold"]
    steps[places[0] - 1] = replace(steps[places[0] - 1], stride=2)
    with pytest.raises(FormatError):
        Program(
            tuple(steps), program.slices, program.tile, program.levels, program.out_bits,
            program.tensors, program.outputs,
        )  # fmt: skip


def test_a_prior_of_an_unknown_kind_is_refused() -> None:
    files = load_prior(TINY).files()
    path = "configs/metadata.json"
    files[path] = files[path].replace(b'"kind": "posterior"', b'"kind": "oracle"')
    with pytest.raises(FormatError, match="oracle") as caught:
        prior_from_files(files)
    assert caught.value.kind == "bad-prior"


def test_a_denoiser_cannot_pass_for_a_posterior_network() -> None:
    files = load_prior("test-tiny").files()
    path = "configs/metadata.json"
    files[path] = files[path].replace(b'"identity": {', b'"identity": {"kind": "posterior",')
    with pytest.raises(FormatError, match="outputs") as caught:
        prior_from_files(files)
    assert caught.value.kind == "bad-prior"
