"""Float steps of autoencoders: halves of ``AutoencoderKL`` (MONAI, diffusers) and MONAI ``VQVAE``.

Halving is an unfold and a 3 x 3 convolution with some weights 0, whatever the kernel and padding of
the original; a transposed convolution is a convolution to four times the channels and a fold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from psc_volumetric.errors import ParameterError
from psc_volumetric.prior.making.float_program import Builder, FloatProgram

__all__ = ["from_autoencoder"]

Tensor = torch.Tensor


def from_autoencoder(net: torch.nn.Module, half: str, *, tile: int) -> FloatProgram:
    """Turn half of a trained autoencoder into float steps.

    Parameters
    ----------
    net : torch.nn.Module
        MONAI ``AutoencoderKL`` or ``VQVAE`` in two dimensions, or diffusers ``AutoencoderKL``.
    half : str
        ``"encoder"``: pixels to the mode of the latents, before any quantiser. ``"decoder"``:
        latents to pixels.
    tile : int
        Extent of the pixels; latents have that divided by what the network shrinks by.

    Returns
    -------
    FloatProgram
        One level; ``slices`` and ``outputs`` are the channels that go in and come out.

    Raises
    ------
    ParameterError
        Another class, or a setting that the steps would not follow (kind
        ``"unsupported-network"``).
    """
    module: Any = net
    found = (type(net).__module__.partition(".")[0], type(net).__name__)
    parts = {
        ("monai", "AutoencoderKL"): (_monai_encoder, _monai_decoder),
        ("monai", "VQVAE"): (_vq_encoder, _vq_decoder),
        ("diffusers", "AutoencoderKL"): (_diffusers_encoder, _diffusers_decoder),
    }.get(found)
    if parts is None or half not in ("encoder", "decoder"):
        raise _refused(
            f"expected an encoder or decoder of MONAI AutoencoderKL or VQVAE, or of diffusers "
            f"AutoencoderKL, found {half!r} of {'.'.join(found)}"
        )
    program = FloatProgram(0, tile, 1)
    out = parts[half == "decoder"](Builder(program, None), module)
    shrink = _growth(program)
    steps = program.steps
    if half == "decoder":
        program.tile, program.out_tile = round(tile / shrink), tile
    else:
        program.out_tile = round(tile * shrink)
    if max(program.tile, program.out_tile) * min(shrink, 1 / shrink) % 1:
        raise _refused(f"a tile of {tile} pixels is no multiple of what the network shrinks by")
    program.slices, program.outputs = _channels_in(steps), _channels_out(steps, out)
    return program


def _growth(program: FloatProgram) -> float:
    """Extent of the output over that of the input."""
    scales = {"x": 1.0}
    for step in program.steps:
        scale = scales[step.inputs[0]] * (2 if step.upsample else 1) / step.stride
        factors = {"unfold": 1 / step.factor, "fold": float(step.factor)}
        scales[step.out] = scale * factors.get(step.op, 1.0)
    return scales[program.steps[-1].out]


def _channels_in(steps: Sequence[Any]) -> int:
    first = next(s for s in steps if s.weight is not None)
    unfolded = [s.factor**2 for s in steps[: steps.index(first)] if s.op == "unfold"]
    return int(first.weight.shape[1]) // (unfolded[0] if unfolded else 1)


def _channels_out(steps: Sequence[Any], out: str) -> int:
    made = {s.out: s for s in steps}
    step, folded = made[out], 1
    if step.op == "fold":
        step, folded = made[step.inputs[0]], step.factor**2
    return len(step.weight) // folded


# MONAI AutoencoderKL


def _monai_encoder(b: Builder, net: Any) -> str:
    h = _monai_blocks(b, "encoder", net.encoder.blocks, "x")
    return b.conv("mode", net.quant_conv_mu.conv, h)


def _monai_decoder(b: Builder, net: Any) -> str:
    return _monai_blocks(
        b, "decoder", net.decoder.blocks, b.conv("post", net.post_quant_conv.conv, "x")
    )


def _monai_blocks(b: Builder, half: str, blocks: Any, h: str) -> str:
    """Blocks of an encoder or decoder, by the names of their classes."""
    for number, block in enumerate(blocks):
        name, kind = f"{half}.{number}", type(block).__name__
        if kind == "Convolution":
            h = b.conv(name, block.conv, h)
        elif kind == "AEKLResBlock":
            skip = getattr(block.nin_shortcut, "conv", None)
            h = _resnet(b, name, block, (block.conv1.conv, block.conv2.conv), skip, h)
        elif kind == "SpatialAttentionBlock":
            h = _monai_attention(b, name, block, h)
        elif kind == "AEKLDownsample":
            h = _halved(b, name, block.conv.conv, h, before=0)
        elif kind == "UpSample" and hasattr(block, "postconv"):
            h = b.conv(name, block.postconv.conv, h, upsample=True)
        elif kind == "UpSample":
            h = _doubled(b, name, block.deconv, h)
        elif kind == "GroupNorm":
            h = b.norm(name, block, h, "linear")
        else:
            raise _refused(f"{half} block {number} is a {kind}")
    return h


def _monai_attention(b: Builder, name: str, block: Any, h: str) -> str:
    m = block.attn
    if isinstance(m.to_q, torch.nn.Identity):
        raise _refused(f"{name}: attention with combined linear layers")
    out = m.out_proj
    if isinstance(out, torch.nn.Identity):
        out = _identity(m.to_q.weight.shape[0])
    return b.attend(name, block.norm, (m.to_q, m.to_k, m.to_v, out), m.num_heads, h)


# diffusers AutoencoderKL


def _diffusers_encoder(b: Builder, net: Any) -> str:
    _refuse_unlike(net.config)
    part = net.encoder
    h = b.conv("conv_in", part.conv_in, "x")
    for i, down in enumerate(part.down_blocks):
        for j, m in enumerate(down.resnets):
            h = _resnet(b, f"down{i}.{j}", m, (m.conv1, m.conv2), m.conv_shortcut, h)
        for m in down.downsamplers or ():
            h = _halved(b, f"down{i}.shrink", m.conv, h, before=0)
    h = _diffusers_middle(b, part.mid_block, h)
    h = b.conv("conv_out", part.conv_out, b.norm("norm_out", part.conv_norm_out, h))
    latents = part.conv_out.weight.shape[0] // 2  # what follows is the logarithm of the variance
    moments = net.quant_conv if net.quant_conv is not None else _identity(2 * latents)
    weight = moments.weight.detach().double().reshape(2 * latents, -1, 1, 1)[:latents]
    bias = moments.bias.detach().double()[None, :latents]
    return b.emit("conv", [h], name="mode", weight=weight, bias=bias)


def _diffusers_decoder(b: Builder, net: Any) -> str:
    _refuse_unlike(net.config)
    part = net.decoder
    h = b.conv("post", net.post_quant_conv, "x") if net.post_quant_conv is not None else "x"
    h = _diffusers_middle(b, part.mid_block, b.conv("conv_in", part.conv_in, h))
    for i, up in enumerate(part.up_blocks):
        for j, m in enumerate(up.resnets):
            h = _resnet(b, f"up{i}.{j}", m, (m.conv1, m.conv2), m.conv_shortcut, h)
        for m in up.upsamplers or ():
            h = b.conv(f"up{i}.grow", m.conv, h, upsample=True)
    return b.conv("conv_out", part.conv_out, b.norm("norm_out", part.conv_norm_out, h))


def _diffusers_middle(b: Builder, middle: Any, h: str) -> str:
    attentions = [*middle.attentions, *[None] * (len(middle.resnets) - len(middle.attentions))]
    order = [None, *attentions[: len(middle.resnets) - 1]]  # the first resnet comes before any
    for j, (m, attention) in enumerate(zip(middle.resnets, order, strict=True)):
        if attention is not None:
            layers = (attention.to_q, attention.to_k, attention.to_v, attention.to_out[0])
            name = f"middle.{j}.attention"
            h = b.attend(name, attention.group_norm, layers, attention.heads, h)
        h = _resnet(b, f"middle.{j}", m, (m.conv1, m.conv2), m.conv_shortcut, h)
    return h


def _refuse_unlike(config: Any) -> None:
    blocks = {*config.down_block_types, *config.up_block_types}
    unknown = sorted(blocks - {"DownEncoderBlock2D", "UpDecoderBlock2D"})
    if unknown or config.act_fn not in ("silu", "swish"):
        raise _refused(f"blocks {', '.join(unknown) or 'none'} with activation {config.act_fn!r}")


# MONAI VQVAE


def _vq_encoder(b: Builder, net: Any) -> str:
    return _vq_blocks(b, "encoder", net.encoder.blocks, "x")


def _vq_decoder(b: Builder, net: Any) -> str:
    return _vq_blocks(b, "decoder", net.decoder.blocks, "x")


def _vq_blocks(b: Builder, half: str, blocks: Any, h: str) -> str:
    """Blocks of an encoder or decoder; a register is read as its positive part where it is due."""
    positive = False
    for number, block in enumerate(blocks):
        name, kind = f"{half}.{number}", type(block).__name__
        if kind == "VQVAEResidualUnit":
            first, second = block.conv1, block.conv2
            _require_relu(name, first)
            if positive:  # what is added must be the positive part itself
                one = _identity(first.conv.weight.shape[1])
                h = b.conv(f"{name}.positive", one, h, relu=True)
            inner = b.conv(f"{name}.conv1", first.conv, h, relu=positive)
            h = b.conv(f"{name}.conv2", second.conv, inner, relu=True, add=h)
            positive = True
        elif kind == "Convolution":
            h = _vq_convolution(b, name, block.conv, h, positive)
            positive = hasattr(block, "adn")
            if positive:
                _require_relu(name, block)
        else:
            raise _refused(f"{half} block {number} is a {kind}")
    return h


def _vq_convolution(b: Builder, name: str, conv: Any, h: str, positive: bool) -> str:
    if isinstance(conv, torch.nn.ConvTranspose2d):
        return _doubled(b, name, conv, h, positive)
    if conv.stride == (2, 2):
        return _halved(b, name, conv, h, before=conv.padding[0], relu=positive)
    if conv.stride != (1, 1) or conv.kernel_size not in ((1, 1), (3, 3)) or conv.groups != 1:
        raise _refused(f"{name}: {conv}")
    return b.conv(name, conv, h, relu=positive)


def _require_relu(name: str, convolution: Any) -> None:
    kinds = [type(m).__name__ for m in convolution.adn if not isinstance(m, torch.nn.Dropout)]
    if kinds != ["ReLU"]:
        raise _refused(f"{name}: expected a ReLU after the convolution, found {kinds}")


# parts that families share


def _resnet(b: Builder, name: str, m: Any, convolutions: tuple[Any, Any], skip: Any, x: str) -> str:
    """Two normalised convolutions, and what goes around them."""
    first, second = convolutions
    h = b.conv(f"{name}.conv1", first, b.norm(f"{name}.norm1", m.norm1, x))
    around = b.conv(f"{name}.skip", skip, x) if skip is not None else x
    return b.conv(f"{name}.conv2", second, b.norm(f"{name}.norm2", m.norm2, h), add=around)


def _halved(b: Builder, name: str, conv: Any, h: str, *, before: int, relu: bool = False) -> str:
    """A convolution of stride 2 with ``before`` zeros in front, on pixels unfolded by 2."""
    weight = conv.weight.detach().double()
    out, channels, kernel, _ = weight.shape
    if conv.stride != (2, 2) or conv.dilation != (1, 1) or kernel + before not in (3, 4, 5):
        raise _refused(f"{name}: {conv}")
    unfolded = weight.new_zeros(out, channels, 2, 2, 3, 3)
    taps = [
        (a, 1 + d, 2 * d + a + before)
        for a in (0, 1)
        for d in (-1, 0, 1)
        if 0 <= 2 * d + a + before < kernel
    ]
    for a, y, k in taps:
        for c, x, j in taps:
            unfolded[:, :, a, c, y, x] = weight[:, :, k, j]
    source = b.emit("unfold", [h], factor=2)
    return b.emit(
        "conv", [source], name=name, weight=unfolded.flatten(1, 3),
        bias=conv.bias.detach().double()[None], relu=relu,
    )  # fmt: skip


def _doubled(b: Builder, name: str, conv: Any, h: str, relu: bool = False) -> str:
    """A transposed convolution of stride 2 with kernel 4 and padding 1, or 2 and 0."""
    found = (conv.kernel_size, conv.padding)
    usual = (conv.stride, conv.output_padding, conv.dilation) == ((2, 2), (0, 0), (1, 1))
    if found not in (((4, 4), (1, 1)), ((2, 2), (0, 0))) or not usual or conv.groups != 1:
        raise _refused(f"{name}: {conv}")
    kernel, before = conv.kernel_size[0], conv.padding[0]
    weight = conv.weight.detach().double().transpose(0, 1)  # (out, in, kernel, kernel)
    phases = weight.new_zeros(weight.shape[0], 2, 2, weight.shape[1], 3, 3)
    taps = [
        (a, 1 + d, a - 2 * d + before)
        for a in (0, 1)
        for d in (-1, 0, 1)
        if 0 <= a - 2 * d + before < kernel
    ]
    for a, y, k in taps:
        for c, x, j in taps:
            phases[:, a, c, :, y, x] = weight[:, :, k, j]
    bias = conv.bias.detach().double().repeat_interleave(4)[None]
    grown = b.emit("conv", [h], name=name, weight=phases.flatten(0, 2), bias=bias, relu=relu)
    return b.emit("fold", [grown], factor=2)


def _identity(channels: int) -> Any:
    """A linear layer that changes nothing."""
    layer = torch.nn.Linear(channels, channels)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(channels))
        layer.bias.zero_()
    return layer


def _refused(problem: str) -> ParameterError:
    return ParameterError(
        f"autoencoder: {problem}",
        kind="unsupported-network",
        hint="use the classes' own settings with convolutions and group normalisation",
    )
