"""A small vocabulary and a text encoder with random weights, in the files of CLIP.

A U-Net that is trained with it learns what its vectors mean, so it need not know a language.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from psc_volumetric.prior.tokenizer import byte_letters

__all__ = ["HEAD_MERGES", "MERGES", "PLACES", "WIDTH", "vocabulary", "write_json", "write_words"]

Tensor = torch.Tensor
WIDTH, PLACES = 16, 16
MERGES = (
    "c t</w>", "m r", "mr i</w>", "h e", "he a", "hea d</w>", "c h", "ch e", "che s", "ches t</w>",
    "t 1</w>", "t 2</w>", "s c", "sc a", "sca n</w>", "o f</w>", "t h", "th e</w>", "b o", "bo d",
    "bod y</w>", "w e", "we i", "wei g", "weig h", "weigh t", "weight e", "weighte d</w>",
)  # fmt: skip
HEAD_MERGES = (
    *MERGES, "f l", "fl a", "fla i", "flai r</w>", "b r", "br a", "bra i", "brai n</w>",
    "bo l", "bol d</w>", "d i", "di f", "dif f", "diff u", "diffu s", "diffus i", "diffusi o",
    "diffusio n</w>", "a x", "ax i", "axi a", "axia l</w>",
)  # fmt: skip


def vocabulary(merges: Sequence[str] = MERGES) -> dict[str, int]:
    """A piece for every byte, the same at the end of a word, merges, what is around a prompt."""
    letters = list(byte_letters().values())
    merged = ["".join(pair.split(" ")) for pair in merges]
    ends = ["<|startoftext|>", "<|endoftext|>"]
    pieces = [*letters, *(letter + "</w>" for letter in letters), *merged, *ends]
    return {piece: number for number, piece in enumerate(pieces)}


def write_words(folder: Path, *, layers: int, merges: Sequence[str] = MERGES) -> None:
    """Random weights of a ``CLIPTextModel`` as transformers saves it, and a tokenizer."""
    words = vocabulary(merges)
    config = {
        "architectures": ["CLIPTextModel"], "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH,
        "num_attention_heads": 2, "num_hidden_layers": layers, "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5, "max_position_embeddings": PLACES, "vocab_size": len(words),
    }  # fmt: skip
    generator = torch.Generator().manual_seed(5)

    def linear(name: str, out: int, into: int) -> dict[str, Tensor]:
        weight, bias = torch.randn((out, into), generator=generator), torch.zeros(out)
        return {f"{name}.weight": 0.3 * weight, f"{name}.bias": bias}

    def norm(name: str) -> dict[str, Tensor]:
        return {f"{name}.weight": torch.ones(WIDTH), f"{name}.bias": torch.zeros(WIDTH)}

    made = {
        "embeddings.token_embedding.weight": torch.randn((len(words), WIDTH), generator=generator),
        "embeddings.position_embedding.weight": 0.1
        * torch.randn((PLACES, WIDTH), generator=generator),
        **norm("final_layer_norm"),
    }
    for n in range(layers):
        at = f"encoder.layers.{n}"
        for part in ("q", "k", "v", "out"):
            made |= linear(f"{at}.self_attn.{part}_proj", WIDTH, WIDTH)
        made |= norm(f"{at}.layer_norm1") | norm(f"{at}.layer_norm2")
        made |= linear(f"{at}.mlp.fc1", 2 * WIDTH, WIDTH) | linear(
            f"{at}.mlp.fc2", WIDTH, 2 * WIDTH
        )
    write_json(folder / "text_encoder/config.json", config)
    weights = {f"text_model.{name}": tensor for name, tensor in made.items()}
    save_file(weights, folder / "text_encoder/model.safetensors")
    write_json(folder / "tokenizer/vocab.json", words)
    lines = "\n".join(["#version: 0.2", *merges]) + "\n"
    (folder / "tokenizer/merges.txt").write_text(lines, "utf-8")


def write_json(path: Path, value: Any) -> None:
    """A file and the folders to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), "utf-8")
