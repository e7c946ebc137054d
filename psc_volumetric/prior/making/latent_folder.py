"""Read a folder of a latent diffusion model: U-Net, autoencoder, text encoder, tokenizer.

The folder has the shape of Stable Diffusion in diffusers: ``unet``, ``vae``, ``scheduler``, and
``text_encoder`` with ``tokenizer`` where the U-Net reads text, each with a ``config.json`` and
safetensors. MONAI's ``DiffusionModelUNet`` and ``AutoencoderKL`` are read from the same places,
with ``_class_name`` (the second as ``monai.AutoencoderKL``) and the arguments of their constructors
in ``config.json``. Plain JSON and safetensors are all that is read: nothing is downloaded,
unpickled or evaluated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from psc_volumetric.errors import ParameterError
from psc_volumetric.extras import require
from psc_volumetric.prior.making.float_program import FloatProgram
from psc_volumetric.prior.making.frontends import from_diffusers, from_monai, read_json, schedule_of
from psc_volumetric.prior.making.text_steps import (
    TextEncoder,
    from_conditional,
    from_monai_conditional,
    read_text_encoder,
)

__all__ = ["LatentModel", "load_latent_model"]

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
MOST_JSON = 16 << 20  # bytes of a vocabulary


@dataclass(frozen=True)
class LatentModel:
    """A latent diffusion model in floats.

    Attributes
    ----------
    network : FloatProgram
        The U-Net with its text encoder.
    autoencoder : torch.nn.Module
        ``AutoencoderKL`` of diffusers or MONAI.
    scale, offset : float
        The U-Net sees ``(latent - offset) * scale``.
    alpha : (levels,) float64
    prediction : str
    encoder : TextEncoder or None
    pieces, merges : tuple of str
        Of the tokenizer; empty without text.
    marks : (int, int, int)
        Tokens that begin, end and pad a prompt.
    """

    network: FloatProgram
    autoencoder: torch.nn.Module
    scale: float
    offset: float
    alpha: NDArray[np.float64]
    prediction: str
    encoder: TextEncoder | None = None
    pieces: tuple[str, ...] = ()
    merges: tuple[str, ...] = ()
    marks: tuple[int, int, int] = (0, 0, 0)


def load_latent_model(folder: Path, levels: int) -> LatentModel:
    """Read a folder with everything that coding takes.

    Parameters
    ----------
    folder : Path
    levels : int
        Noise levels to tabulate, evenly spread over the training steps.

    Raises
    ------
    ParameterError
        A component is missing, has pickled weights, or is of a class or setting that is not known
        (kind ``"unsupported-network"``).
    """
    config, unet = _module(folder / "unet", UNETS)
    vae_config, autoencoder = _module(folder / "vae", AUTOENCODERS)
    steps, alpha, prediction = schedule_of(folder / "scheduler", levels)
    scale = _number(vae_config, "scaling_factor", 1.0 if _is_monai(vae_config) else 0.18215, folder)
    offset = _number(vae_config, "shift_factor", 0.0, folder)
    common = (autoencoder, scale, offset, alpha, prediction)
    if config["_class_name"] == "UNet2DModel":
        return LatentModel(from_diffusers(unet, steps), *common)
    if config["_class_name"] == "UNet2DConditionModel":
        encoder = _text_encoder(folder)
        network = from_conditional(unet, steps, encoder)
        return LatentModel(network, *common, encoder, *_tokenizer(folder / "tokenizer", encoder))
    size = _monai_extent(config, folder / "unet/config.json")
    if config.get("with_conditioning"):
        encoder = _text_encoder(folder)
        network = from_monai_conditional(unet, steps, encoder, tile=size)
        return LatentModel(network, *common, encoder, *_tokenizer(folder / "tokenizer", encoder))
    shape: Any = SimpleNamespace(
        slices=unet.in_channels, tile=size, fold=1, channels=unet.block_out_channels
    )
    network = from_monai(_held(unet), shape, [step / 1000 for step in steps])
    return LatentModel(network, *common)


def _text_encoder(folder: Path) -> TextEncoder:
    return read_text_encoder(
        read_json(folder / "text_encoder/config.json"),
        _weights(folder / "text_encoder", ("model.safetensors",)),
        str(folder / "text_encoder"),
    )


def _monai_extent(config: dict[str, Any], place: Path) -> int:
    """The extent of a latent of a MONAI network, whose other settings are as the steps have it."""
    size = config.get("_tile")
    wrong = [
        f"{k}={config[k]!r:.40}"
        for k, usual in MONAI_USUAL.items()
        if config.get(k, usual) != usual
    ]
    if wrong:
        raise _refused(place, f"settings that cannot be converted: {', '.join(wrong)}")
    if not isinstance(size, int):
        raise _refused(place, f"expected _tile, the extent of a latent, found {size!r:.40}")
    return size


def _held(unet: Any) -> Any:
    """As the front end of our own networks finds it."""
    return SimpleNamespace(unet=unet)


def _monai(name: str) -> Callable[[dict[str, Any]], torch.nn.Module]:
    def make(config: dict[str, Any]) -> torch.nn.Module:
        require("train", "importing a MONAI network", "monai")
        from monai.networks import nets

        given = {k: v for k, v in config.items() if not k.startswith("_") and k not in SCALES}
        kind: Any = getattr(nets, name)
        made: torch.nn.Module = kind(**given)
        made.block_out_channels = given.get("channels", (32, 64, 64, 64))
        made.in_channels = given.get("in_channels", 1)
        return made

    return make


def _diffusers(name: str) -> Callable[[dict[str, Any]], torch.nn.Module]:
    def make(config: dict[str, Any]) -> torch.nn.Module:
        require("train", "importing a diffusers network", "diffusers")
        import diffusers

        kind: Any = getattr(diffusers, name)
        made: torch.nn.Module = kind.from_config(config)
        return made

    return make


MONAI_USUAL: dict[str, Any] = {
    "spatial_dims": 2, "resblock_updown": False, "num_class_embeds": None, "include_fc": True,
    "use_combined_linear": False,
}  # fmt: skip
SCALES = ("scaling_factor", "shift_factor")
UNETS = {
    "UNet2DConditionModel": _diffusers("UNet2DConditionModel"),
    "UNet2DModel": _diffusers("UNet2DModel"),
    "DiffusionModelUNet": _monai("DiffusionModelUNet"),
}
AUTOENCODERS = {
    "AutoencoderKL": _diffusers("AutoencoderKL"),
    "monai.AutoencoderKL": _monai("AutoencoderKL"),
}


def _is_monai(config: dict[str, Any]) -> bool:
    return str(config.get("_class_name")).startswith("monai.")


def _module(
    folder: Path, known: dict[str, Callable[[dict[str, Any]], torch.nn.Module]]
) -> tuple[dict[str, Any], torch.nn.Module]:
    """A component's configuration, and the component with its weights."""
    config = read_json(folder / "config.json")
    name = config.get("_class_name")
    if name not in tuple(known):
        raise _refused(
            folder / "config.json", f"expected _class_name {' or '.join(known)}, found {name!r:.60}"
        )
    weights = _weights(folder, ("diffusion_pytorch_model.safetensors", "model.safetensors"))
    try:
        made = known[name](config)
        made.load_state_dict(weights)
    except (TypeError, ValueError, RuntimeError) as error:
        raise _refused(folder, f"{name} cannot be made of it ({str(error)[:300]})") from error
    return config, made.float().eval()


def _weights(folder: Path, names: tuple[str, ...]) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    found = next((folder / name for name in names if (folder / name).is_file()), None)
    if found is None:
        pickled = sorted(p.name for p in folder.glob("*") if p.suffix in PICKLED)
        if pickled:
            raise ParameterError(
                f"{folder}: expected {names[0]}, found {pickled[0]}, which is pickled: opening it "
                "would run code of its author",
                kind="pickled-weights",
                hint="ask for the model in safetensors",
            )
        raise _refused(folder, f"expected {names[0]}, found no weights")
    try:
        return load_file(found)
    except SafetensorError as error:
        raise _refused(found, f"no safetensors ({error})") from error


def _tokenizer(
    folder: Path, encoder: TextEncoder
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[int, int, int]]:
    """Pieces in the order of their numbers, merges, and the tokens around a prompt."""
    vocabulary = read_json(folder / "vocab.json", most=MOST_JSON)
    merges_file = folder / "merges.txt"
    if not merges_file.is_file():
        raise _refused(merges_file, "expected a file, found none")
    if merges_file.stat().st_size > MOST_JSON:
        raise _refused(merges_file, f"more than {MOST_JSON} bytes")
    try:
        lines = merges_file.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise _refused(merges_file, f"no UTF-8 ({error})") from error
    merges = tuple(line for line in lines if line and not line.startswith("#version"))
    pieces = sorted(vocabulary, key=lambda piece: _as_number(vocabulary[piece]))
    count = len(encoder.tokens)
    if sorted(map(_as_number, vocabulary.values())) != list(range(count)):
        raise _refused(
            folder / "vocab.json", f"expected the numbers 0..{count - 1} of the text encoder"
        )
    wrong = next((line for line in merges if line.count(" ") != 1), None)
    if wrong is not None:
        raise _refused(merges_file, f"expected two pieces in a line, found {wrong!r:.40}")
    settings = {}
    if (folder / "tokenizer_config.json").is_file():
        settings = read_json(folder / "tokenizer_config.json", most=MOST_JSON)
    names = [
        _mark(settings, "bos_token", "<|startoftext|>"),
        _mark(settings, "eos_token", "<|endoftext|>"),
        _mark(settings, "pad_token", "<|endoftext|>"),
    ]
    missing = [name for name in names if name not in vocabulary]
    if missing:
        raise _refused(folder / "vocab.json", f"expected the piece {missing[0]!r:.40}, found none")
    begin, end, pad = (int(vocabulary[name]) for name in names)
    return tuple(pieces), merges, (begin, end, pad)


def _as_number(value: object) -> int:
    return value if isinstance(value, int) else -1


def _mark(settings: dict[str, Any], name: str, usual: str) -> str:
    """The piece that a setting names, as text or as an object with its content."""
    found = settings.get(name, usual)
    found = found.get("content", usual) if isinstance(found, dict) else found
    return found if isinstance(found, str) else usual


def _number(config: dict[str, Any], name: str, usual: float, folder: Path) -> float:
    found = config.get(name)
    found = usual if found is None else found
    if not isinstance(found, int | float) or not abs(found) < 1e4 or (usual and found <= 0):
        raise _refused(folder / "vae/config.json", f"{name} is {found!r:.40}")
    return float(found)


def _refused(place: Path, problem: str) -> ParameterError:
    return ParameterError(f"{place}: {problem}", kind="unsupported-network")
