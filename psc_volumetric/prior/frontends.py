"""Float networks as straight-line programs, ready to be measured and converted to integers.

One function per family turns a trained network into the same small list of float steps
(:class:`FloatStep`), in the vocabulary of :mod:`psc_volumetric.prior.program`. Attention is not
in that vocabulary yet: networks that use it are refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from psc_volumetric.errors import ParameterError
from psc_volumetric.prior.architecture import Architecture

__all__ = [
    "Denoising",
    "FloatProgram",
    "FloatStep",
    "from_diffusers",
    "from_monai",
    "load_diffusers",
]

Tensor = torch.Tensor


@dataclass(frozen=True)
class FloatStep:
    """A step before quantisation; see :class:`psc_volumetric.prior.program.Step`.

    ``bias`` is (1 or levels, O): the time embedding of each noise level is already added.
    """

    op: str
    out: str
    inputs: tuple[str, ...]
    name: str = ""
    factor: int = 1
    weight: Tensor | None = None
    bias: Tensor | None = None
    stride: int = 1
    upsample: bool = False
    add: str | None = None
    gamma: Tensor | None = None
    beta: Tensor | None = None
    groups: int = 1
    eps: float = 1e-5


@dataclass
class FloatProgram:
    """Float steps plus the input shape; runs in float64 for measuring."""

    slices: int
    tile: int
    levels: int
    steps: list[FloatStep] = field(default_factory=list)

    def run(
        self, x: Tensor, level: int, observe: Callable[[str, Tensor], None] | None = None
    ) -> Tensor:
        """Run on (b, slices, tile, tile); ``observe(register, value)`` sees every register."""
        registers = {"x": x}
        with torch.no_grad():
            for step in self.steps:
                value = _run_step(step, registers, level)
                registers[step.out] = value
                if observe is not None:
                    observe(step.out, value)
        return registers[self.steps[-1].out]

    def single(self) -> FloatProgram:
        """Copy in float32, for measuring many tiles."""

        def cast(value: Any) -> Any:
            return value.float() if isinstance(value, torch.Tensor) else value

        steps = [FloatStep(**{k: cast(v) for k, v in vars(step).items()}) for step in self.steps]
        return FloatProgram(self.slices, self.tile, self.levels, steps)


@dataclass(frozen=True)
class Denoising:
    """A float network with the schedule it was trained for.

    Attributes
    ----------
    program : FloatProgram
        The network.
    alpha : (levels,) float64
        Signal amplitude of every noise level, level 0 cleanest.
    prediction : str
        ``"v"`` or ``"epsilon"``.
    """

    program: FloatProgram
    alpha: NDArray[np.float64]
    prediction: str


def _run_step(step: FloatStep, r: dict[str, Tensor], level: int) -> Tensor:
    x = r[step.inputs[0]]
    if step.op == "unfold":
        return F.pixel_unshuffle(x, step.factor)
    if step.op == "fold":
        return F.pixel_shuffle(x, step.factor)
    if step.op == "concat":
        return torch.cat([r[name] for name in step.inputs], 1)
    if step.op == "norm_act":
        assert step.gamma is not None and step.beta is not None
        return F.silu(F.group_norm(x, step.groups, step.gamma, step.beta, step.eps))
    assert step.weight is not None and step.bias is not None
    if step.upsample:
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
    row = step.bias[level if len(step.bias) > 1 else 0]
    y = F.conv2d(x, step.weight, row, step.stride, step.weight.shape[-1] // 2)
    return y if step.add is None else y + r[step.add]


class _Builder:
    """Collects steps; registers are numbered, tensors named after their module."""

    def __init__(self, program: FloatProgram, embeddings: Tensor | None) -> None:
        self.program, self.embeddings, self.count = program, embeddings, 0

    def _register(self) -> str:
        self.count += 1
        return f"r{self.count}"

    def emit(self, op: str, inputs: Sequence[str], **fields: Any) -> str:
        out = self._register()
        self.program.steps.append(FloatStep(op, out, tuple(inputs), **fields))
        return out

    def conv(self, name: str, module: Any, source: str, **fields: Any) -> str:
        time = fields.pop("time", None)
        bias = module.bias.detach().double()[None]
        if time is not None:
            assert self.embeddings is not None
            projected = F.silu(self.embeddings) @ time.weight.detach().double().T
            bias = bias + projected + time.bias.detach().double()
        weight = module.weight.detach().double()
        return self.emit("conv", [source], name=name, weight=weight, bias=bias, **fields)

    def norm(self, name: str, module: Any, source: str) -> str:
        return self.emit(
            "norm_act",
            [source],
            name=name,
            gamma=module.weight.detach().double(),
            beta=module.bias.detach().double(),
            groups=module.num_groups,
            eps=module.eps,
        )


def _refuse_attention(found: bool, where: str) -> None:
    if found:
        raise ParameterError(
            f"network: {where} uses attention, which integer programs do not have",
            kind="unsupported-network",
            hint="train without attention (it gains little at this size)",
        )


def from_monai(
    net: torch.nn.Module, architecture: Architecture, times: Sequence[float]
) -> FloatProgram:
    """Turn a trained folded MONAI ``DiffusionModelUNet`` into float steps.

    Parameters
    ----------
    net : torch.nn.Module
        From :func:`psc_volumetric.prior.architecture.build_network`.
    architecture : Architecture
        Its shape.
    times : sequence of float
        Time (0..1) of every noise level; the embeddings are tabulated here, once.
    """
    from monai.networks.nets.diffusion_model_unet import get_timestep_embedding

    unet: Any = net.unet
    a = architecture
    _refuse_attention(any(a.attention_levels) or a.mid_attention, "the architecture")
    with torch.no_grad():
        stamps = torch.tensor([1000.0 * t for t in times])
        embedded = unet.time_embed(get_timestep_embedding(stamps, a.channels[0])).double()
    program = FloatProgram(a.slices, a.tile, len(times))
    b = _Builder(program, embedded)

    def resnet(name: str, m: Any, x: str) -> str:
        h = b.conv(f"{name}.conv1", m.conv1.conv, b.norm(f"{name}.norm1", m.norm1, x),
                   time=m.time_emb_proj)  # fmt: skip
        if not isinstance(m.skip_connection, torch.nn.Identity):
            x = b.conv(f"{name}.skip", m.skip_connection.conv, x)
        return b.conv(f"{name}.conv2", m.conv2.conv, b.norm(f"{name}.norm2", m.norm2, h), add=x)

    h = b.emit("unfold", ["x"], factor=a.fold) if a.fold > 1 else "x"
    h = b.conv("conv_in", unet.conv_in.conv, h)
    skips = [h]
    for i, block in enumerate(unet.down_blocks):
        for j, m in enumerate(block.resnets):
            h = resnet(f"down{i}.{j}", m, h)
            skips.append(h)
        if block.downsampler is not None:
            h = b.conv(f"down{i}.pool", block.downsampler.op.conv, h, stride=2)
            skips.append(h)
    h = resnet("middle.0", unet.middle_block.resnet_1, h)
    h = resnet("middle.1", unet.middle_block.resnet_2, h)
    for i, block in enumerate(unet.up_blocks):
        for j, m in enumerate(block.resnets):
            h = resnet(f"up{i}.{j}", m, b.emit("concat", [h, skips.pop()]))
        if block.upsampler is not None:
            h = b.conv(f"up{i}.grow", block.upsampler.postconv.conv, h, upsample=True)
    h = b.conv("conv_out", unet.out[2].conv, b.norm("norm_out", unet.out[0], h))
    if a.fold > 1:
        b.emit("fold", [h], factor=a.fold)
    return program


def from_diffusers(net: torch.nn.Module, timesteps: Sequence[int]) -> FloatProgram:
    """Turn a diffusers ``UNet2DModel`` (no attention, default resnets) into float steps.

    Parameters
    ----------
    net : torch.nn.Module
        ``UNet2DModel`` whose input and output channels are the slices of a tile.
    timesteps : sequence of int
        Training time step of every noise level, as the network's embedding expects.
    """
    unet: Any = net
    blocks = [*unet.down_blocks, *unet.up_blocks]
    _refuse_attention(any(getattr(k, "attentions", None) for k in blocks), "a block")
    _refuse_attention(any(x is not None for x in unet.mid_block.attentions), "the middle block")
    with torch.no_grad():
        stamps = torch.tensor(list(timesteps))
        embedded = unet.time_embedding(unet.time_proj(stamps).float()).double()
    program = FloatProgram(unet.config.in_channels, unet.config.sample_size, len(timesteps))
    b = _Builder(program, embedded)

    def resnet(name: str, m: Any, x: str) -> str:
        if m.output_scale_factor != 1.0 or m.time_embedding_norm != "default":
            raise ParameterError(
                f"network: resnet {name} scales its output or uses scale-shift norms",
                kind="unsupported-network",
            )
        h = b.conv(f"{name}.conv1", m.conv1, b.norm(f"{name}.norm1", m.norm1, x),
                   time=m.time_emb_proj)  # fmt: skip
        if m.conv_shortcut is not None:
            x = b.conv(f"{name}.skip", m.conv_shortcut, x)
        return b.conv(f"{name}.conv2", m.conv2, b.norm(f"{name}.norm2", m.norm2, h), add=x)

    h = b.conv("conv_in", unet.conv_in, "x")
    skips = [h]
    for i, block in enumerate(unet.down_blocks):
        for j, m in enumerate(block.resnets):
            h = resnet(f"down{i}.{j}", m, h)
            skips.append(h)
        for m in block.downsamplers or ():
            if m.padding != 1:
                raise ParameterError(
                    "network: downsample_padding must be 1", kind="unsupported-network"
                )
            h = b.conv(f"down{i}.pool", m.conv, h, stride=2)
            skips.append(h)
    for j, m in enumerate(unet.mid_block.resnets):
        h = resnet(f"middle.{j}", m, h)
    for i, block in enumerate(unet.up_blocks):
        for j, m in enumerate(block.resnets):
            h = resnet(f"up{i}.{j}", m, b.emit("concat", [h, skips.pop()]))
        for m in block.upsamplers or ():
            h = b.conv(f"up{i}.grow", m.conv, h, upsample=True)
    b.conv("conv_out", unet.conv_out, b.norm("norm_out", unet.conv_norm_out, h))
    return program


def load_diffusers(folder: Path, levels: int) -> Denoising:
    """Read a local diffusers ``UNet2DModel`` folder with its DDPM schedule.

    Parameters
    ----------
    folder : Path
        Holds ``config.json`` and ``diffusion_pytorch_model.safetensors``. The schedule comes from
        ``scheduler_config.json`` beside them or in ``../scheduler``; only linear and
        scaled-linear betas and epsilon or v prediction are known.
    levels : int
        Noise levels to tabulate, evenly spread over the training steps.

    Raises
    ------
    ParameterError
        Files missing, another model class, or an unknown schedule.
    """
    config = _read_json(folder / "config.json")
    weights = folder / "diffusion_pytorch_model.safetensors"
    if config.get("_class_name") != "UNet2DModel" or not weights.is_file():
        raise ParameterError(
            f"{folder}: expected a UNet2DModel config and {weights.name}, found class "
            f"{config.get('_class_name')!r}",
            kind="unsupported-network",
        )
    places = (folder / "scheduler_config.json", folder.parent / "scheduler/scheduler_config.json")
    schedule = _read_json(next((p for p in places if p.is_file()), places[0]))
    from diffusers import UNet2DModel
    from safetensors.torch import load_file

    net = UNet2DModel.from_config(config).eval()
    net.load_state_dict(load_file(weights))
    alpha_bar = _alpha_bar(schedule)
    steps = [round((i + 1) * len(alpha_bar) / levels) - 1 for i in range(levels)]
    prediction = {"epsilon": "epsilon", "v_prediction": "v"}.get(
        str(schedule.get("prediction_type", "epsilon"))
    )
    if prediction is None:
        raise ParameterError(
            f"{folder}: prediction_type {schedule.get('prediction_type')!r} is not known",
            kind="unsupported-network",
        )
    return Denoising(from_diffusers(net, steps), np.sqrt(alpha_bar[steps]), prediction)


def _alpha_bar(schedule: dict[str, Any]) -> NDArray[np.float64]:
    first = float(schedule.get("beta_start", 1e-4))
    last = float(schedule.get("beta_end", 0.02))
    count = int(schedule.get("num_train_timesteps", 1000))
    kind = schedule.get("beta_schedule", "linear")
    betas: NDArray[np.float64]
    if kind == "linear":
        betas = np.linspace(first, last, count)
    elif kind == "scaled_linear":
        betas = np.linspace(first**0.5, last**0.5, count) ** 2
    else:
        raise ParameterError(
            f"beta_schedule {kind!r} is not known; known are linear and scaled_linear",
            kind="unsupported-network",
        )
    product: NDArray[np.float64] = np.cumprod(1 - betas).astype(np.float64)
    return product


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ParameterError(f"{path}: expected a file, found none", kind="unsupported-network")
    data = json.loads(path.read_text())
    if not isinstance(data, dict):
        raise ParameterError(f"{path}: expected a JSON object", kind="unsupported-network")
    return data
