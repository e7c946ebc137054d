"""Float networks become the same network as steps, then as integers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from small_networks import (
    ATTENTIVE,
    FOLDED,
    RESIDUAL,
    SMALL,
    attentive_network,
    awake,
    random_tiles,
)

from psc_volumetric.codec import (
    BrickOptions,
    CodecParameters,
    IntensityMapping,
    decode_brick,
    encode_brick,
)
from psc_volumetric.errors import ParameterError, PriorMismatchError
from psc_volumetric.prior.making.build import build_bundle, cosine_times, schedule_tables
from psc_volumetric.prior.making.convert import convert, observe
from psc_volumetric.prior.making.frontends import (
    from_diffusers,
    from_monai,
    from_trained,
    load_diffusers,
)
from psc_volumetric.prior.making.networks import build_network
from psc_volumetric.prior.runtime import TorchRuntime


def _integer_error(program, level):
    """Relative error power of the integer network, float steps as the truth."""
    batches = [(random_tiles(program, 2), k) for k in range(0, program.levels, 2)]
    integers = convert(program, observe(program, batches))
    x = random_tiles(program)
    samples = torch.round(x * 2048).to(torch.int32)
    got = TorchRuntime(integers)(samples, level).double() * 2.0**-integers.out_bits
    want = program.run(x.double(), level)
    return float(((got - want) ** 2).mean() / (want**2).mean())


@pytest.mark.parametrize(
    "architecture, net",
    [
        (SMALL, lambda: awake(build_network(SMALL))),
        (ATTENTIVE, attentive_network),
        (RESIDUAL, lambda: awake(build_network(RESIDUAL))),
        (FOLDED, lambda: awake(build_network(FOLDED))),
    ],
    ids=["monai", "monai-attention", "residual", "residual-folded"],
)
def test_trained_network_survives_as_steps_and_as_integers(architecture, net):
    net, times = net(), cosine_times(8)
    program = from_trained(net, architecture, times)
    x = random_tiles(program)
    with torch.no_grad():
        want = net(x, torch.full((len(x),), 1000 * times[5]))
    torch.testing.assert_close(program.run(x.double(), 5).float(), want, atol=2e-4, rtol=1e-3)
    assert _integer_error(program, 5) < 0.001


def test_rectified_inputs_take_no_negative_levels():
    """What ReLU throws away must not cost the grid of a convolution's input half of its levels."""
    program = from_trained(awake(build_network(RESIDUAL)), RESIDUAL, cosine_times(8))
    integers = convert(program, observe(program, [(random_tiles(program), 5)]))
    rectified = {s.name: s.relu for s in program.steps if s.op == "conv"}
    assert sum(rectified.values()) == 15  # two per block, and the last
    for step in integers.steps:
        if step.op == "conv":
            assert (step.quant[1] == 0) == rectified[step.name]


def test_attention_is_no_bystander_here():
    """Else the tests of attention would say nothing: without it the network is another one."""
    net = attentive_network()
    program = from_monai(net, ATTENTIVE, cosine_times(8))
    x = random_tiles(program).double()
    want = program.run(x, 5)
    net.unet.middle_block.attention = torch.nn.Identity()
    without = from_monai(net, ATTENTIVE, cosine_times(8)).run(x, 5)
    assert float(((without - want) ** 2).mean() / (want**2).mean()) > 0.01


@pytest.fixture(params=[False, True], ids=["plain", "attention"])
def diffusers_folder(tmp_path, request):
    kind = "Attn" if request.param else ""
    diffusers = pytest.importorskip("diffusers")
    net = awake(
        diffusers.UNet2DModel(
            sample_size=32,
            in_channels=4,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(16, 32),
            norm_num_groups=4,
            add_attention=request.param,
            down_block_types=("DownBlock2D", f"{kind}DownBlock2D"),
            up_block_types=(f"{kind}UpBlock2D", "UpBlock2D"),
        )
    )
    net.save_pretrained(tmp_path / "unet")
    schedule = {"beta_schedule": "linear", "num_train_timesteps": 100, "beta_end": 0.1}
    (tmp_path / "unet/scheduler_config.json").write_text(json.dumps(schedule))
    return tmp_path / "unet", net


def test_diffusers_folder_survives_as_steps_and_as_integers(diffusers_folder):
    folder, net = diffusers_folder
    source = load_diffusers(folder, 10)
    x = random_tiles(source.program)
    with torch.no_grad():
        want = net(x, 59).sample
    torch.testing.assert_close(
        source.program.run(x.double(), 5).float(), want, atol=2e-4, rtol=1e-3
    )
    assert source.prediction == "epsilon"
    assert np.all(np.diff(source.alpha) < 0)
    assert _integer_error(source.program, 5) < 0.001


def test_a_class_conditional_network_has_the_levels_of_every_class(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    net = awake(
        diffusers.UNet2DModel(
            sample_size=32, in_channels=4, out_channels=4, layers_per_block=1, norm_num_groups=4,
            block_out_channels=(8, 16), num_class_embeds=3,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
        )
    )  # fmt: skip
    net.save_pretrained(tmp_path)
    schedule = {"beta_schedule": "linear", "num_train_timesteps": 100, "beta_end": 0.1}
    (tmp_path / "scheduler_config.json").write_text(json.dumps(schedule))
    source = load_diffusers(tmp_path, 10)
    assert source.classes == ("0", "1", "2")
    assert source.program.levels == len(source.alpha) == 30
    x = random_tiles(source.program)
    with torch.no_grad():
        want = net(x, 59, class_labels=torch.full((len(x),), 2)).sample
    found = source.program.run(x.double(), 25).float()
    torch.testing.assert_close(found, want, atol=2e-4, rtol=1e-3)
    assert not torch.allclose(found, source.program.run(x.double(), 15).float(), atol=1e-2)

    batches = [(random_tiles(source.program, 2), k) for k in range(0, 30, 3)]
    prior = build_bundle(
        convert(source.program, observe(source.program, batches)), name="three",
        alpha=source.alpha, prediction=source.prediction, clip=(-1.1, 2.2), metadata={},
        classes=source.classes,
    )  # fmt: skip
    assert (prior.classes, prior.levels, prior.program.levels) == (("0", "1", "2"), 10, 30)
    _check_streams_of_classes(prior)


def _check_streams_of_classes(prior):
    """The class is in the stream: a decoder takes the prior as it finds it."""
    values = (900 + 300 * random_tiles(prior.program, 1)[0].numpy()).astype("<i2")
    streams = {}
    for name in ("0", "2"):
        brick = encode_brick(
            values, position=(0, 0, 0), shape=values.shape, mapping=IntensityMapping(0, 1800),
            parameters=CodecParameters(effort=1, step=0.4), prior=prior.of_class(name),
            options=BrickOptions(base="psc"),
        )  # fmt: skip
        levels = brick.index.fields.parameters.noise_levels
        assert {level // prior.levels for level in levels} == {int(name)}
        decoded = decode_brick(lambda start, n, data=brick.data: data[start : start + n],
                               selection=tuple(slice(0, n) for n in values.shape),
                               prior=lambda digest: prior)  # fmt: skip
        assert np.array_equal(decoded.values, brick.last)
        streams[name] = brick.last
    assert not np.array_equal(streams["0"], streams["2"])
    with pytest.raises(PriorMismatchError, match="0, 1, 2") as caught:
        prior.of_class("cat")
    assert caught.value.kind == "unknown-class"


def test_epsilon_tables_undo_the_noise():
    alpha = np.array([0.99, 0.8, 0.3])
    tables = schedule_tables(alpha, "epsilon")
    x, noise = 0.7, -1.3
    noisy = alpha * x + np.sqrt(1 - alpha**2) * noise
    x0 = (tables["schedule.x_gain"] * noisy + tables["schedule.out_gain"] * noise) / 65536
    np.testing.assert_allclose(x0, x, atol=1e-4)


def test_settings_the_steps_would_not_follow_are_refused_by_name():
    diffusers = pytest.importorskip("diffusers")
    net = diffusers.UNet2DModel(
        sample_size=32, in_channels=4, out_channels=4, layers_per_block=1, norm_num_groups=4,
        block_out_channels=(16,), down_block_types=("SkipDownBlock2D",),
        up_block_types=("UpBlock2D",), act_fn="gelu", resnet_time_scale_shift="scale_shift",
    )  # fmt: skip
    with pytest.raises(ParameterError, match=r"act_fn='gelu'.*SkipDownBlock2D") as caught:
        from_diffusers(net, [9, 99])
    assert caught.value.kind == "unsupported-network"


def test_foreign_diffusers_folder_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    with pytest.raises(ParameterError, match="UNet2DModel"):
        load_diffusers(tmp_path, 8)
