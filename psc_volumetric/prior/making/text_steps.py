"""Steps of networks that read text: a U-Net with cross-attention, and the text encoder before it.

The text encoder is CLIP's, read from its files: a network of a few kinds of layers, for which no
library is needed. Both end as one program, so that what a prompt makes of an image is integers
throughout (decision 0052).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F

from psc_volumetric.errors import ParameterError
from psc_volumetric.prior.making.float_program import Builder, FloatProgram
from psc_volumetric.prior.making.frontends import diffusers_steps, monai_steps

__all__ = [
    "TextEncoder",
    "encoded",
    "from_conditional",
    "from_monai_conditional",
    "read_text_encoder",
]

Tensor = torch.Tensor

UNDERSTOOD: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish"),
    "center_input_sample": (False,),
    "downsample_padding": (1,),
    "mid_block_scale_factor": (1,),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "only_cross_attention": (False,),
    "encoder_hid_dim_type": (None,),
    "dual_cross_attention": (False,),
    "class_embed_type": (None,),
    "num_class_embeds": (None,),
    "addition_embed_type": (None,),
    "resnet_time_scale_shift": ("default",),
    "resnet_skip_time_act": (False,),
    "resnet_out_scale_factor": (1.0,),
    "time_embedding_type": ("positional",),
    "time_embedding_act_fn": (None,),
    "timestep_post_act": (None,),
    "time_cond_proj_dim": (None,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "attention_type": ("default",),
    "mid_block_only_cross_attention": (None, False),
    "cross_attention_norm": (None,),
}
BLOCKS = {"DownBlock2D", "CrossAttnDownBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"}
ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu"}
MOST_LAYERS = 48


@dataclass(frozen=True)
class TextEncoder:
    """A CLIP text encoder as numbers.

    Attributes
    ----------
    tokens : (vocabulary, width) float64
        What each token starts as.
    positions : (n, width) float64
        Added to the token at each place; a prompt has n places.
    heads, layers : int
    activation : str
    eps : float
    weights : dict
        Name without its first words -> tensor.
    """

    tokens: Tensor
    positions: Tensor
    heads: int
    layers: int
    activation: str
    eps: float
    weights: dict[str, Tensor]

    def told(self, ids: Sequence[int]) -> Tensor:
        """The register of a prompt, (1, width, n, 1) float64; ``ids`` has n tokens."""
        return (self.tokens[list(ids)] + self.positions).T[None, :, :, None]

    def module(self, name: str) -> Any:
        """A layer as the builder wants it."""
        return SimpleNamespace(
            weight=self.weights[f"{name}.weight"], bias=self.weights[f"{name}.bias"], eps=self.eps
        )


def read_text_encoder(config: dict[str, Any], weights: dict[str, Tensor], what: str) -> TextEncoder:
    """A ``CLIPTextModel`` from its ``config.json`` and its weights.

    Raises
    ------
    ParameterError
        Another model, an activation that is not known, or weights that are missing or have other
        shapes (kind ``"unsupported-network"``).
    """
    sizes = [config.get(k) for k in ("hidden_size", "num_attention_heads", "num_hidden_layers")]
    kinds = config.get("architectures") or ["CLIPTextModel"]
    activation = config.get("hidden_act", "quick_gelu")
    eps = config.get("layer_norm_eps", 1e-5)
    known = activation in tuple(ACTIVATIONS) and isinstance(eps, float | int) and eps > 0
    whole = all(isinstance(n, int) and n > 0 for n in sizes)
    if kinds not in (["CLIPTextModel"], ["CLIPTextModelWithProjection"]) or not (known and whole):
        raise ParameterError(
            f"{what}: expected a CLIPTextModel with gelu or quick_gelu, found {kinds!r:.80}, "
            f"{activation!r:.40} and sizes {sizes!r:.80}",
            kind="unsupported-network",
        )
    width, heads, layers = (int(n) for n in sizes if isinstance(n, int))
    named = {name.removeprefix("text_model."): t.double() for name, t in weights.items()}
    wrong = [
        name
        for name, shape in _expected(width, config.get("intermediate_size"), layers).items()
        if name not in named or (None not in shape and named[name].shape != shape)
    ]
    tables = [named.get(f"embeddings.{kind}_embedding.weight") for kind in ("token", "position")]
    if wrong or layers > MOST_LAYERS or width % heads or any(t is None for t in tables):
        raise ParameterError(
            f"{what}: its weights do not fit its config.json: "
            f"{', '.join(wrong[:3]) or f'{layers} layers of {width} in {heads} heads'}",
            kind="unsupported-network",
        )
    tokens, positions = (t for t in tables if t is not None)
    if tokens.ndim != 2 or positions.ndim != 2 or {tokens.shape[1], positions.shape[1]} != {width}:
        raise ParameterError(
            f"{what}: expected embeddings of width {width}", kind="unsupported-network"
        )
    return TextEncoder(tokens, positions, heads, layers, activation, float(eps), named)


def _expected(width: int, inner: object, layers: int) -> dict[str, tuple[object, ...]]:
    """Weights of the encoder -> their shapes."""
    found: dict[str, tuple[object, ...]] = {}

    def layer(name: str, *shape: object) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = shape, shape[:1]

    layer("final_layer_norm", width)
    for n in range(min(layers, MOST_LAYERS)):
        at = f"encoder.layers.{n}"
        layer(f"{at}.layer_norm1", width)
        layer(f"{at}.layer_norm2", width)
        for part in ("q", "k", "v", "out"):
            layer(f"{at}.self_attn.{part}_proj", width, width)
        layer(f"{at}.mlp.fc1", inner, width)
        layer(f"{at}.mlp.fc2", width, inner)
    return found


def from_conditional(
    net: torch.nn.Module, timesteps: Sequence[int], encoder: TextEncoder
) -> FloatProgram:
    """Turn a diffusers ``UNet2DConditionModel`` and its text encoder into float steps.

    Parameters
    ----------
    net : torch.nn.Module
        U-Net whose input and output channels are those of a latent.
    timesteps : sequence of int
        Training time step of every noise level.
    encoder : TextEncoder
        As wide as the cross-attention.

    Raises
    ------
    ParameterError
        A setting that the steps would not follow, or a text encoder of another width (kind
        ``"unsupported-network"``).
    """
    unet: Any = net
    _refuse_unknown(unet.config)
    _require_width(unet.config.cross_attention_dim, encoder)
    with torch.no_grad():
        stamps = torch.tensor(list(timesteps))
        embedded = unet.time_embedding(unet.time_proj(stamps).float()).double()
    shape = (encoder.tokens.shape[1], encoder.positions.shape[0])
    program = FloatProgram(
        unet.config.in_channels, unet.config.sample_size, len(embedded), text=shape
    )
    b = Builder(program, F.silu(embedded))
    text = _encoded(b, encoder)
    diffusers_steps(b, unet, lambda name, m, h: _transformer(b, name, m, h, text))
    return program


def from_monai_conditional(
    net: torch.nn.Module, timesteps: Sequence[int], encoder: TextEncoder, *, tile: int
) -> FloatProgram:
    """Turn a MONAI ``DiffusionModelUNet`` with conditioning and a text encoder into float steps.

    Parameters
    ----------
    net : torch.nn.Module
        Made with ``with_conditioning=True``, in two dimensions.
    timesteps : sequence of int
        Training time step of every noise level.
    encoder : TextEncoder
        As wide as ``cross_attention_dim``.
    tile : int
        Extent of a latent.

    Raises
    ------
    ParameterError
        Layers that the steps would not follow, or a text encoder of another width (kind
        ``"unsupported-network"``).
    """
    from monai.networks.nets.diffusion_model_unet import (
        SpatialTransformer,
        get_timestep_embedding,
    )

    unet: Any = net
    found = next(m for m in unet.modules() if isinstance(m, SpatialTransformer))
    first: Any = found.transformer_blocks[0]
    _require_width(first.attn2.to_k.weight.shape[1], encoder)
    with torch.no_grad():
        stamps = torch.tensor(list(timesteps))
        embedded = unet.time_embed(get_timestep_embedding(stamps, unet.conv_in.conv.out_channels))
    shape = (encoder.tokens.shape[1], encoder.positions.shape[0])
    program = FloatProgram(unet.conv_in.conv.in_channels, tile, len(embedded), text=shape)
    b = Builder(program, F.silu(embedded.double()))
    text = _encoded(b, encoder)
    monai_steps(b, unet, "x", lambda name, m, h: _transformer(b, name, _monai_parts(m), h, text))
    return program


def _monai_parts(module: Any) -> Any:
    """A ``SpatialTransformer`` of MONAI under the names of diffusers."""

    def attention(m: Any) -> Any:
        if isinstance(m.to_q, torch.nn.Identity) or isinstance(m.out_proj, torch.nn.Identity):
            raise ParameterError(
                "network: attention with combined linear layers or without its last one",
                kind="unsupported-network",
                hint="use include_fc=True and use_combined_linear=False",
            )
        layers = {"to_q": m.to_q, "to_k": m.to_k, "to_v": m.to_v, "to_out": [m.out_proj]}
        return SimpleNamespace(**layers, heads=m.num_heads)

    blocks = [
        SimpleNamespace(
            norm1=m.norm1, norm2=m.norm2, norm3=m.norm3,
            attn1=attention(m.attn1), attn2=attention(m.attn2),
            ff=SimpleNamespace(net=[SimpleNamespace(proj=m.ff.linear1), None, m.ff.linear2]),
        )
        for m in module.transformer_blocks
    ]  # fmt: skip
    return SimpleNamespace(
        norm=module.norm, transformer_blocks=blocks,
        proj_in=module.proj_in.conv, proj_out=module.proj_out.conv,
    )  # fmt: skip


def _require_width(width: int, encoder: TextEncoder) -> None:
    if width != encoder.tokens.shape[1]:
        raise ParameterError(
            f"network: expected a text encoder of width {width}, found {encoder.tokens.shape[1]}",
            kind="unsupported-network",
        )


def encoded(encoder: TextEncoder, ids: Sequence[int]) -> Tensor:
    """What a U-Net is told of a prompt, (places, width) float32; ``ids`` has one for each place."""
    told = encoder.told(ids)
    program = FloatProgram(1, 1, 1, text=(told.shape[1], told.shape[2]))
    _encoded(Builder(program, None), encoder)
    return program.run(told.new_zeros(1, 1, 1, 1), 0, text=told)[0, :, :, 0].T.float()


def _refuse_unknown(config: Any) -> None:
    """Refuse every setting of a ``UNet2DConditionModel`` that the steps would not follow."""
    given = {name: config.get(name, known[0]) for name, known in UNDERSTOOD.items()}
    wrong = [f"{k}={v!r:.40}" for k, v in given.items() if v not in UNDERSTOOD[k]]
    wrong += sorted({*config.down_block_types, *config.up_block_types} - BLOCKS)
    wrong += [] if isinstance(config.sample_size, int) else [f"sample_size={config.sample_size!r}"]
    if wrong:
        raise ParameterError(
            f"network: settings that cannot be converted: {', '.join(wrong)}",
            kind="unsupported-network",
            hint="use plain and cross-attention blocks with default settings",
        )


def _encoded(b: Builder, encoder: TextEncoder) -> str:
    """Steps of the text encoder; the register that the U-Net looks at."""
    h = "text"
    for n in range(encoder.layers):
        own, at = f"text{n}", f"encoder.layers.{n}"
        seen = b.layer_norm(f"{own}.norm1", encoder.module(f"{at}.layer_norm1"), h)
        layers = tuple(encoder.module(f"{at}.self_attn.{p}_proj") for p in ("q", "k", "v", "out"))
        h = _looked(b, own, layers, encoder.heads, (seen, seen, h), causal=True)
        seen = b.layer_norm(f"{own}.norm2", encoder.module(f"{at}.layer_norm2"), h)
        inner = b.conv(f"{own}.fc1", encoder.module(f"{at}.mlp.fc1"), seen)
        inner = b.emit("activate", [inner], activation=ACTIVATIONS[encoder.activation])
        h = b.conv(f"{own}.fc2", encoder.module(f"{at}.mlp.fc2"), inner, add=h)
    return b.layer_norm("text.norm", encoder.module("final_layer_norm"), h)


def _transformer(b: Builder, name: str, module: Any, source: str, text: str) -> str:
    """Steps of a ``Transformer2DModel`` with its residual, or of what has its parts."""
    h = b.conv(f"{name}.in", module.proj_in, b.norm(f"{name}.norm", module.norm, source, "linear"))
    for j, block in enumerate(module.transformer_blocks):
        own = f"{name}.{j}"
        seen = b.layer_norm(f"{own}.norm1", block.norm1, h)
        h = _looked(b, f"{own}.own", _layers(block.attn1), block.attn1.heads, (seen, seen, h))
        seen = b.layer_norm(f"{own}.norm2", block.norm2, h)
        h = _looked(b, f"{own}.text", _layers(block.attn2), block.attn2.heads, (seen, text, h))
        seen = b.layer_norm(f"{own}.norm3", block.norm3, h)
        into, out = block.ff.net[0].proj, block.ff.net[2]
        hidden, gate = (
            SimpleNamespace(weight=weight, bias=bias)
            for weight, bias in zip(into.weight.chunk(2), into.bias.chunk(2), strict=True)
        )
        opened = b.emit("activate", [b.conv(f"{own}.gate", gate, seen)], activation="gelu")
        product = b.emit("multiply", [b.conv(f"{own}.hidden", hidden, seen), opened])
        h = b.conv(f"{own}.ff", out, product, add=h)
    return b.conv(f"{name}.out", module.proj_out, h, add=source)


def _layers(attention: Any) -> tuple[Any, Any, Any, Any]:
    return attention.to_q, attention.to_k, attention.to_v, attention.to_out[0]


def _looked(
    b: Builder,
    name: str,
    layers: tuple[Any, ...],
    heads: int,
    registers: tuple[str, str, str],
    *,
    causal: bool = False,
) -> str:
    """Attention of the first register to the second, added to the third."""
    to_q, to_k, to_v, to_out = layers
    asking, told, residual = registers
    scale = math.log2(math.e) / math.sqrt(to_q.weight.shape[0] // heads)
    q = b.conv(f"{name}.q", to_q, asking, scale=scale)
    k, v = b.conv(f"{name}.k", to_k, told), b.conv(f"{name}.v", to_v, told)
    seen = b.emit("attend", [q, k, v], heads=heads, causal=causal)
    return b.conv(f"{name}.out", to_out, seen, add=residual)
