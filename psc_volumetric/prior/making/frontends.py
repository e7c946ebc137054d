"""Float networks as straight-line programs, ready to be measured and converted to integers.

One function per family turns a trained network into the same small list of float steps
(:class:`psc_volumetric.prior.making.float_program.FloatStep`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from psc_volumetric.errors import ParameterError
from psc_volumetric.extras import require
from psc_volumetric.prior.making.float_program import Builder, Denoising, FloatProgram
from psc_volumetric.prior.making.networks import Architecture
from psc_volumetric.prior.making.residual_steps import from_residual

__all__ = [
    "Denoising",
    "diffusers_steps",
    "from_diffusers",
    "from_monai",
    "from_trained",
    "load_diffusers",
    "monai_steps",
    "read_json",
    "schedule_of",
]

Tensor = torch.Tensor
SCHEDULE = "scheduler_config.json"


def from_trained(
    net: torch.nn.Module, architecture: Architecture, times: Sequence[float]
) -> FloatProgram:
    """Turn a network of `psc_volumetric.prior.making.networks.build_network` into float steps.

    Parameters
    ----------
    net : torch.nn.Module
        Trained.
    architecture : Architecture
        Its shape.
    times : sequence of float
        Time (0..1) of every noise level; the embeddings are tabulated here, once.
    """
    family = from_residual if architecture.family == "residual" else from_monai
    return family(net, architecture, times)


def from_monai(
    net: torch.nn.Module, architecture: Architecture, times: Sequence[float]
) -> FloatProgram:
    """Turn a trained folded MONAI ``DiffusionModelUNet`` into float steps.

    Parameters
    ----------
    net : torch.nn.Module
        From :func:`psc_volumetric.prior.making.networks.build_network`.
    architecture : Architecture
        Its shape.
    times : sequence of float
        Time (0..1) of every noise level; the embeddings are tabulated here, once.
    """
    from monai.networks.nets.diffusion_model_unet import get_timestep_embedding

    unet: Any = net.unet
    a = architecture
    with torch.no_grad():
        stamps = torch.tensor([1000.0 * t for t in times])
        embedded = unet.time_embed(get_timestep_embedding(stamps, a.channels[0])).double()
    program = FloatProgram(a.slices, a.tile, len(times))
    b = Builder(program, F.silu(embedded))
    h = b.emit("unfold", ["x"], factor=a.fold) if a.fold > 1 else "x"
    h = monai_steps(b, unet, h)
    if a.fold > 1:
        b.emit("fold", [h], factor=a.fold)
    return program


def monai_steps(
    b: Builder, unet: Any, source: str, transformer: Callable[[str, Any, str], str] | None = None
) -> str:
    """Steps of a MONAI ``DiffusionModelUNet`` from a register on; the register of its output.

    ``transformer`` takes a name, a block that reads text and its input, and adds the steps of it.
    """

    def resnet(name: str, m: Any, *sources: str) -> str:
        x = sources[0] if len(sources) == 1 else b.emit("concat", sources)
        h = b.conv(f"{name}.conv1", m.conv1.conv, b.norm(f"{name}.norm1", m.norm1, x),
                   time=m.time_emb_proj)  # fmt: skip
        if not isinstance(m.skip_connection, torch.nn.Identity):
            x = b.shortcut(f"{name}.skip", m.skip_connection.conv, sources)
        return b.conv(f"{name}.conv2", m.conv2.conv, b.norm(f"{name}.norm2", m.norm2, h), add=x)

    def block(name: str, resnet_: Any, attention: Any, *sources: str) -> str:
        h = resnet(name, resnet_, *sources)
        if attention is None or isinstance(attention, torch.nn.Identity):
            return h
        if transformer is not None:
            return transformer(f"{name}.attention", attention, h)
        m = attention.attn
        layers = (m.to_q, m.to_k, m.to_v, m.out_proj)
        return b.attend(f"{name}.attention", attention.norm, layers, m.num_heads, h)

    h = b.conv("conv_in", unet.conv_in.conv, source)
    skips = [h]
    for i, part in enumerate(unet.down_blocks):
        for j, (m, attention) in enumerate(_pairs(part)):
            h = block(f"down{i}.{j}", m, attention, h)
            skips.append(h)
        if part.downsampler is not None:
            h = b.conv(f"down{i}.pool", part.downsampler.op.conv, h, stride=2)
            skips.append(h)
    h = block("middle.0", unet.middle_block.resnet_1, unet.middle_block.attention, h)
    h = block("middle.1", unet.middle_block.resnet_2, None, h)
    for i, part in enumerate(unet.up_blocks):
        for j, (m, attention) in enumerate(_pairs(part)):
            h = block(f"up{i}.{j}", m, attention, h, skips.pop())
        if part.upsampler is not None:
            h = b.conv(f"up{i}.grow", part.upsampler.postconv.conv, h, upsample=True)
    return b.conv("conv_out", unet.out[2].conv, b.norm("norm_out", unet.out[0], h))


def _pairs(part: Any) -> list[tuple[Any, Any]]:
    """Residual blocks of a part of a U-Net with the attention after each, None for none."""
    attentions = list(getattr(part, "attentions", ()))
    return list(zip(part.resnets, attentions or [None] * len(part.resnets), strict=True))


UNDERSTOOD: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish"),
    "center_input_sample": (False,),
    "downsample_type": ("conv",),
    "upsample_type": ("conv",),
    "downsample_padding": (1,),
    "mid_block_scale_factor": (1,),
    "mid_block_type": ("UNetMidBlock2D",),
    "resnet_time_scale_shift": ("default",),
    "time_embedding_type": ("positional", "learned"),
    "class_embed_type": (None,),
}
BLOCKS = {"DownBlock2D", "AttnDownBlock2D", "UpBlock2D", "AttnUpBlock2D"}


def _refuse_unknown(config: Any) -> None:
    """Refuse every setting of a ``UNet2DModel`` that the steps would not follow."""
    wrong = [f"{k}={config[k]!r}" for k, v in UNDERSTOOD.items() if config.get(k, v[0]) not in v]
    wrong += sorted({*config.down_block_types, *config.up_block_types} - BLOCKS)
    if wrong:
        raise ParameterError(
            f"network: settings that cannot be converted: {', '.join(wrong)}",
            kind="unsupported-network",
            hint="train with plain or attention blocks and default settings",
        )


def from_diffusers(net: torch.nn.Module, timesteps: Sequence[int]) -> FloatProgram:
    """Turn a diffusers ``UNet2DModel`` into float steps.

    A class-conditional one has the levels of its first class, then those of the second, and so on.

    Parameters
    ----------
    net : torch.nn.Module
        ``UNet2DModel`` whose input and output channels are the slices of a tile.
    timesteps : sequence of int
        Training time step of every noise level, as the network's embedding expects.

    Raises
    ------
    ParameterError
        A setting other than attention differs from diffusers' defaults.
    """
    unet: Any = net
    _refuse_unknown(unet.config)
    with torch.no_grad():
        stamps = torch.tensor(list(timesteps))
        embedded = unet.time_embedding(unet.time_proj(stamps).float()).double()
        if unet.class_embedding is not None:
            classes = unet.class_embedding.weight.double()
            embedded = (classes[:, None] + embedded).flatten(0, 1)
    program = FloatProgram(unet.config.in_channels, unet.config.sample_size, len(embedded))
    b = Builder(program, F.silu(embedded))

    def attended(name: str, m: Any, h: str) -> str:
        layers = (m.to_q, m.to_k, m.to_v, m.to_out[0])
        return b.attend(name, m.group_norm, layers, m.heads, h)

    diffusers_steps(b, unet, attended)
    return program


def diffusers_steps(b: Builder, unet: Any, attended: Callable[[str, Any, str], str]) -> None:
    """Steps of a U-Net of diffusers from ``x`` to its output.

    Parameters
    ----------
    b : Builder
        With the embedding of every noise level.
    unet : module
        ``UNet2DModel`` or ``UNet2DConditionModel``.
    attended : callable
        ``attended(name, module, register)`` appends the steps of an attention module.
    """

    def resnet(name: str, m: Any, *sources: str) -> str:
        x = sources[0] if len(sources) == 1 else b.emit("concat", sources)
        h = b.conv(f"{name}.conv1", m.conv1, b.norm(f"{name}.norm1", m.norm1, x),
                   time=m.time_emb_proj)  # fmt: skip
        if m.conv_shortcut is not None:
            x = b.shortcut(f"{name}.skip", m.conv_shortcut, sources)
        return b.conv(f"{name}.conv2", m.conv2, b.norm(f"{name}.norm2", m.norm2, h), add=x)

    def block(name: str, resnet_: Any, m: Any, *sources: str) -> str:
        h = resnet(name, resnet_, *sources)
        return h if m is None else attended(f"{name}.attention", m, h)

    h = b.conv("conv_in", unet.conv_in, "x")
    skips = [h]
    for i, part in enumerate(unet.down_blocks):
        for j, (m, attention) in enumerate(_pairs(part)):
            h = block(f"down{i}.{j}", m, attention, h)
            skips.append(h)
        for m in part.downsamplers or ():
            h = b.conv(f"down{i}.pool", m.conv, h, stride=2)
            skips.append(h)
    middle = unet.mid_block
    for j, (m, attention) in enumerate(
        zip(middle.resnets, [*middle.attentions, None], strict=True)
    ):
        h = block(f"middle.{j}", m, attention, h)
    for i, part in enumerate(unet.up_blocks):
        for j, (m, attention) in enumerate(_pairs(part)):
            h = block(f"up{i}.{j}", m, attention, h, skips.pop())
        for m in part.upsamplers or ():
            h = b.conv(f"up{i}.grow", m.conv, h, upsample=True)
    b.conv("conv_out", unet.conv_out, b.norm("norm_out", unet.conv_norm_out, h))


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
    config = read_json(folder / "config.json")
    weights = folder / "diffusion_pytorch_model.safetensors"
    if config.get("_class_name") != "UNet2DModel" or not weights.is_file():
        raise ParameterError(
            f"{folder}: expected a UNet2DModel config and {weights.name}, found class "
            f"{config.get('_class_name')!r}",
            kind="unsupported-network",
        )
    places = (folder, folder.parent / "scheduler")
    found = next((p for p in places if (p / SCHEDULE).is_file()), folder)
    steps, alpha, prediction = schedule_of(found, levels)
    require("train", "importing a diffusers network", "diffusers")
    from diffusers import UNet2DModel
    from safetensors.torch import load_file

    net = UNet2DModel.from_config(config).eval()
    net.load_state_dict(load_file(weights))
    classes = tuple(str(n) for n in range(config.get("num_class_embeds") or 0))
    alpha = np.tile(alpha, max(1, len(classes)))
    return Denoising(from_diffusers(net, steps), alpha, prediction, classes)


def schedule_of(folder: Path, levels: int) -> tuple[list[int], NDArray[np.float64], str]:
    """Time steps of noise levels, their signal amplitudes, and what a network predicts.

    Parameters
    ----------
    folder : Path
        Holds ``scheduler_config.json``.
    levels : int
        Noise levels to tabulate, evenly spread over the training steps.

    Raises
    ------
    ParameterError
        The file is missing, or an unknown schedule or prediction.
    """
    schedule = read_json(folder / SCHEDULE)
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
    return steps, np.sqrt(alpha_bar[steps]), prediction


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


def read_json(path: Path, *, most: int = 1 << 20) -> dict[str, Any]:
    """An object of a JSON file of at most so many bytes.

    Raises
    ------
    ParameterError
        The file is missing, too large, or something else (kind ``"unsupported-network"``).
    """
    if not path.is_file():
        raise ParameterError(f"{path}: expected a file, found none", kind="unsupported-network")
    if path.stat().st_size > most:
        raise ParameterError(f"{path}: more than {most} bytes", kind="unsupported-network")
    try:
        data = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ParameterError(f"{path}: no JSON ({error})", kind="unsupported-network") from error
    if not isinstance(data, dict):
        raise ParameterError(f"{path}: expected a JSON object", kind="unsupported-network")
    return data
