"""Latent priors: networks that read text, in integers; the folder they come from; their words."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from latent_folders import diffusers_folder, monai_folder
from reference_decoder.fields import Header
from reference_decoder.latent import LatentPrior

from pipelines.training.latent import import_latent, pictures
from pipelines.training.latents.words import vocabulary
from psc_volumetric.errors import FormatError, NumericalError, ParameterError, PriorMismatchError
from psc_volumetric.methods.latent.prompt import pack_prompt
from psc_volumetric.prior import Prior, load_prior, prior_from_files
from psc_volumetric.prior.bundle import METADATA, WEIGHTS
from psc_volumetric.prior.making.latent_folder import LatentModel, load_latent_model
from psc_volumetric.prior.parts import ANALYSIS
from psc_volumetric.prior.program import Program
from psc_volumetric.prior.runtime import TorchRuntime
from psc_volumetric.prior.step import Step
from psc_volumetric.prior.text_runtime import TextRuntime
from psc_volumetric.prior.tokenizer import Tokenizer

LEVELS = 6
PROMPT = "A CT scan of the Head"
TOKENS = (320, 512, 526, 527, 529, 517)  # as transformers' CLIPTokenizer has them, like all below


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return diffusers_folder(tmp_path_factory.mktemp("diffusers"))


@pytest.fixture(scope="module")
def model(folder: Path) -> LatentModel:
    return load_latent_model(folder, LEVELS)


@pytest.fixture(scope="module")
def prior(folder: Path, tmp_path_factory) -> Prior:
    out = tmp_path_factory.mktemp("made") / "prior"
    return import_latent(folder, out, name="made", levels=LEVELS, report=lambda line: None)


def ids_of(model: LatentModel, tokens: tuple[int, ...]) -> list[int]:
    begin, end, pad = model.marks
    assert model.encoder is not None
    places = len(model.encoder.positions)
    return [begin, *tokens, end, *[pad] * (places - 2 - len(tokens))]


def hidden(model: LatentModel, tokens: tuple[int, ...]) -> torch.Tensor:
    """What the U-Net looks at, (1, places, width)."""
    seen: dict[str, torch.Tensor] = {}
    assert model.encoder is not None
    told = model.encoder.told(ids_of(model, tokens))
    last = next(s.out for s in model.network.steps if s.name == "text.norm")
    model.network.run(torch.zeros(1, 4, 8, 8).double(), 0, seen.__setitem__, told)
    return seen[last][0, :, :, 0].T[None]


def test_the_text_encoder_is_that_of_transformers(model: LatentModel) -> None:
    """Numbers of ``CLIPTextModel`` with these weights (transformers 5.24), not installed here."""
    found = hidden(model, TOKENS)[0]
    assert found[0, :4].tolist() == pytest.approx(
        [-1.255764, 0.278219, -0.11924, 1.338131], abs=2e-6
    )
    assert found[5, :4].tolist() == pytest.approx(
        [-0.089676, -0.550719, -1.971483, 0.877836], abs=2e-6
    )
    assert float(found.abs().sum()) == pytest.approx(217.484, abs=1e-3)


def test_float_steps_are_the_network(folder: Path, model: LatentModel) -> None:
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(folder / "unet").double().eval()
    x = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(1)).double()
    level, tokens = 3, TOKENS[:4]
    step = round((level + 1) * 1000 / LEVELS) - 1
    with torch.no_grad():
        text = hidden(model, tokens).expand(2, -1, -1)
        wanted = unet(x, torch.tensor(step), encoder_hidden_states=text).sample
    assert model.encoder is not None
    found = model.network.run(x, level, text=model.encoder.told(ids_of(model, tokens)))
    assert float((found - wanted).abs().max()) < 1e-5 * float(wanted.abs().max())


def test_integers_are_near_and_the_same_on_every_carrier(model: LatentModel, prior: Prior) -> None:
    assert prior.space is not None and prior.space.words is not None
    told = prior.told(PROMPT)
    assert told.prompt == TOKENS
    register = prior.space.register(told.prompt)
    x = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(1)).double()
    whole = torch.round(x * 2048).int()
    kinds = (torch.float32, torch.float64)
    runs = [TextRuntime(prior.program, register, carrier=kind)(whole, 2) for kind in kinds]
    assert runs[0].equal(runs[1])
    h = Header(tile=prior.voxels)
    prompt = pack_prompt(told.prompt, len(prior.space.words.tokens))
    second = LatentPrior(prior.files(), h, prompt)
    assert np.array_equal(second.network(whole.numpy().astype(np.int64), 2), runs[0].numpy())
    assert model.encoder is not None
    exact = model.network.run(x, 2, text=model.encoder.told(ids_of(model, TOKENS)))
    error = runs[0].double() / 2**prior.program.out_bits - exact
    assert 0 < float((error**2).mean() / (exact**2).mean()) < 2e-3


def test_autoencoder_in_grey_and_back(folder: Path, prior: Prior) -> None:
    """Grey values as three equal colours, latents as the scheduler's model wants them."""
    from diffusers import AutoencoderKL

    assert prior.space is not None and prior.analysis is not None
    vae = AutoencoderKL.from_pretrained(folder / "vae").eval()
    x = torch.from_numpy(pictures(2, 5, 32)).float()
    with torch.no_grad():
        mode = vae.encode(x.expand(-1, 3, -1, -1)).latent_dist.mode()
        back = vae.decode(mode).sample.mean(1, keepdim=True)
    latents = TorchRuntime(prior.analysis)(torch.round(x * 2048).int(), 0)
    scaled = latents.double() / 2**prior.analysis.out_bits
    wanted = mode * vae.config.scaling_factor
    assert float((scaled - wanted).pow(2).mean() / wanted.pow(2).mean()) < 5e-3
    pixels = TorchRuntime(prior.space.decoder)(torch.round(wanted * 2048).int(), 0)
    shown = pixels.double() / 2**prior.space.decoder.out_bits
    assert float((shown - back).pow(2).mean() / back.pow(2).mean()) < 2e-2


def test_monai_folder_is_imported(tmp_path: Path) -> None:
    source = monai_folder(tmp_path / "monai")
    made = import_latent(source, tmp_path / "out", name="m", levels=3, report=lambda line: None)
    assert made.kind == "latent" and made.voxels == (1, 32, 32)
    with pytest.raises(ParameterError, match="reads no text") as caught:
        made.told("head")
    assert caught.value.kind == "bad-prompt"


def test_monai_network_reads_a_prompt(tmp_path: Path) -> None:
    """Float steps against the real class, then a prior whose prompt changes what it draws."""
    from monai.networks.nets import DiffusionModelUNet
    from safetensors.torch import load_file

    source = monai_folder(tmp_path / "monai", with_conditioning=True, cross_attention_dim=16)
    model = load_latent_model(source, LEVELS)
    config = json.loads((source / "unet/config.json").read_text())
    unet = DiffusionModelUNet(**{k: v for k, v in config.items() if not k.startswith("_")})
    unet.load_state_dict(load_file(source / "unet/model.safetensors"))
    x = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(1)).double()
    level, tokens = 3, TOKENS[:4]
    step = torch.full((2,), round((level + 1) * 1000 / LEVELS) - 1)
    text = hidden(model, tokens).expand(2, -1, -1).float()
    with torch.no_grad():
        wanted = unet.eval()(x.float(), step, context=text).double()
    assert model.encoder is not None
    found = model.network.run(x, level, text=model.encoder.told(ids_of(model, tokens)))
    assert float((found - wanted).abs().max()) < 1e-4 * float(wanted.abs().max())
    made = import_latent(source, tmp_path / "out", name="m", levels=3, report=lambda line: None)
    assert made.told("head").prompt != made.told("chest").prompt


@pytest.mark.parametrize(
    "settings",
    [{"resblock_updown": True}, {"num_class_embeds": 3}, {"include_fc": False}, {"_tile": None}],
)
def test_monai_settings_that_are_not_followed_are_refused(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    own = {k: v for k, v in settings.items() if not k.startswith("_")}
    source = monai_folder(tmp_path / "monai", **own)
    if "_tile" in settings:
        source = edited(source, tmp_path / "copy", "unet/config.json", **settings)
    with pytest.raises(ParameterError) as caught:
        load_latent_model(source, LEVELS)
    assert caught.value.kind == "unsupported-network"


@pytest.mark.parametrize("part", ["unet", "vae", "scheduler", "text_encoder", "tokenizer"])
def test_missing_component_is_named(folder: Path, tmp_path: Path, part: str) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    shutil.rmtree(copy / part)
    with pytest.raises(ParameterError, match=part) as caught:
        load_latent_model(copy, LEVELS)
    assert caught.value.kind == "unsupported-network"


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_pickled_weights_are_refused_unopened(folder: Path, tmp_path: Path, part: str) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    (weights,) = (copy / part).glob("*.safetensors")
    weights.unlink()
    (copy / part / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch run'\ntR.")
    with pytest.raises(ParameterError, match="pickled") as caught:
        load_latent_model(copy, LEVELS)
    assert caught.value.kind == "pickled-weights"


def edited(folder: Path, target: Path, name: str, **values: object) -> Path:
    copy = Path(shutil.copytree(folder, target))
    config = json.loads((copy / name).read_text())
    (copy / name).write_text(json.dumps(config | values))
    return copy


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("unet/config.json", {"class_embed_type": "timestep"}),
        ("unet/config.json", {"_class_name": "os.system"}),
        ("unet/config.json", {"block_out_channels": [8, 32]}),
        ("unet/config.json", {"cross_attention_dim": 24}),
        ("vae/config.json", {"act_fn": "relu", "scaling_factor": -1}),
        ("text_encoder/config.json", {"hidden_act": "relu"}),
        ("text_encoder/config.json", {"num_hidden_layers": 3}),
        ("text_encoder/config.json", {"architectures": ["T5EncoderModel"]}),
        ("tokenizer/vocab.json", {"another": 7}),
        ("scheduler/scheduler_config.json", {"prediction_type": "sample"}),
        ("scheduler/scheduler_config.json", {"beta_schedule": "squaredcos_cap_v2"}),
    ],
)  # fmt: skip
def test_settings_that_are_not_followed_are_refused(
    folder: Path, tmp_path: Path, name: str, values: dict[str, object]
) -> None:
    with pytest.raises(ParameterError) as caught:
        load_latent_model(edited(folder, tmp_path / "copy", name, **values), LEVELS)
    assert caught.value.kind == "unsupported-network"


def test_latents_of_another_shape_are_refused(tmp_path: Path) -> None:
    source = diffusers_folder(tmp_path / "wide", in_channels=8, out_channels=8)
    with pytest.raises(ParameterError, match="8 channels of extent 8") as caught:
        import_latent(source, tmp_path / "out", name="x", levels=3, report=lambda line: None)
    assert caught.value.kind == "unsupported-network"
    assert not (tmp_path / "out").exists()


def files_of(name: str) -> dict[str, bytes]:
    info = load_prior(name)
    return info.files()


def changed(**identity: object) -> dict[str, bytes]:
    """The tiny prior with another identity, whose digest nobody checks."""
    files = files_of("test-tiny-latent")
    document = json.loads(files[METADATA])
    document["psc_prior"]["identity"] |= identity
    return files | {METADATA: json.dumps(document).encode()}


def test_a_bundle_whose_parts_do_not_fit_is_refused() -> None:
    good = json.loads(files_of("test-tiny-latent")[METADATA])["psc_prior"]["identity"]
    decoder, network = good["decoder"], good["network"]
    for wrong in (
        {"text": {"begin": 0, "end": 1}},
        {"text": {"begin": 0, "end": 1, "pad": 1 << 20}},
        {"text": {"begin": 0, "end": 1, "pad": True}},
        {"decoder": {**decoder, "levels": 2}},
        {"decoder": network},
        {"decoder": None},
        {"clip": [5]},
        {"network": {**network, "text": [16, 0]}},
        {"network": {**network, "text": [16, 17]}},
        {"network": {**network, "text": None}},
        {"kind": "denoiser"},
    ):
        with pytest.raises(FormatError) as caught:
            prior_from_files(changed(**wrong))
        assert caught.value.kind in ("bad-prior", "bad-program"), wrong
    assert prior_from_files(changed()).kind == "latent"


def test_an_analysis_that_does_not_fit_is_refused() -> None:
    files = files_of("test-tiny-latent")
    for described in (b"{}", b"[", json.dumps(load_prior("test-tiny").program.to_dict()).encode()):
        with pytest.raises(FormatError):
            prior_from_files(files | {ANALYSIS[0]: described, ANALYSIS[1]: files[WEIGHTS]})


def steps_and_tensors() -> tuple[list[Step], dict[str, np.ndarray]]:
    """q of pixels, k and v of text: a network of one look."""
    tensors: dict[str, np.ndarray] = {"falling": np.arange(4096, 0, -1).astype(np.int16)}
    for name in ("q", "k", "v"):
        tensors[f"{name}.weight"] = np.ones((4, 4, 1, 1), np.int8)
        tensors[f"{name}.shift"] = np.zeros(4, np.int8)
        tensors[f"{name}.bias"] = np.zeros((1, 4), np.int32)
    quant = (4, -500, 500)
    steps = [
        Step("conv", "q", ("x",), name="q", quant=quant, limit=1000),
        Step("conv", "k", ("text",), name="k", quant=quant, limit=1000),
        Step("conv", "v", ("text",), name="v", quant=quant),
        Step("attend", "out", ("q", "k", "v"), heads=2, shift=2, table="falling"),
    ]
    return steps, tensors


def program(steps: list[Step], tensors: dict[str, np.ndarray]) -> Program:
    return Program(tuple(steps), 4, 8, 1, 12, tensors, text=(4, 5))


def test_proof_of_networks_that_read_text() -> None:
    steps, tensors = steps_and_tensors()
    assert program(steps, tensors).has_tokens
    mixed = replace(steps[2], inputs=("x",))
    for wrong in (
        [*steps[:3], replace(steps[3], causal=True)],
        [*steps[:3], replace(steps[3], inputs=("k", "q", "q"))],
        [*steps[:3], replace(steps[3], heads=3)],
        [*steps[:2], mixed, steps[3]],
        [*steps, Step("multiply", "more", ("out", "v"))],
        [*steps, Step("multiply", "more", ("out", "q"), shift=31)],
        [*steps, Step("activate", "more", ("out",), table="falling")],
        [*steps, Step("concat", "more", ("out", "k"))],
    ):
        with pytest.raises(FormatError):
            program(wrong, tensors)
    loud = [replace(steps[0], limit=32767), replace(steps[1], limit=32767), *steps[2:]]
    with pytest.raises(NumericalError, match="2\\^23"):
        program(loud, tensors)


def test_a_denoiser_may_not_have_the_steps_of_text() -> None:
    files = files_of("test-tiny")
    document = json.loads(files[METADATA])
    network = document["psc_prior"]["identity"]["network"]
    last = network["steps"][-1]["out"]
    double = {"op": "multiply", "out": "twice", "inputs": [last, last], "shift": 12}
    network["steps"] = [*network["steps"], double]
    with pytest.raises(FormatError, match="reads text") as caught:
        prior_from_files(files | {METADATA: json.dumps(document).encode()})
    assert caught.value.kind == "bad-prior"


TOKENIZED = {
    PROMPT: TOKENS,
    "T1-weighted MRI (5 mm)": (339, 272, 268, 539, 514, 263, 276, 76, 332, 264),
    "naïve 日本 x²": (77, 64, 127, 107, 85, 324, 162, 245, 98, 162, 250, 361, 343, 126, 366),
    " \n": (),
}


def tokenizer(most: int = 60) -> Tokenizer:
    from pipelines.training.latents.words import MERGES

    return Tokenizer(list(vocabulary()), MERGES, most)


def test_tokens_are_those_of_clip() -> None:
    own = tokenizer()
    assert {text: own.encode(text) for text in TOKENIZED} == TOKENIZED
    assert own.decode(TOKENS) == PROMPT.lower()
    assert own.decode(TOKENIZED["naïve 日本 x²"]) == "naïve 日本 x ²"


def test_prompts_that_do_not_fit_are_refused() -> None:
    for text, own in (
        ("head " * 2000, tokenizer()),
        ("a b c d e f", tokenizer(most=5)),
        ("head", Tokenizer(["<|startoftext|>"], (), 60)),
    ):
        with pytest.raises(ParameterError) as caught:
            own.encode(text)
        assert caught.value.kind == "bad-prompt"


def test_names_of_priors_lead_to_them(prior: Prior) -> None:
    assert load_prior("test-tiny-latent").voxels == (1, 64, 64)
    assert prior.voxels == (1, 32, 32) and prior.tile_shape == (4, 8, 8)
    with pytest.raises(PriorMismatchError):
        load_prior("test-tiny-latent:head")
