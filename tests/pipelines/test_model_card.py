"""The cards that ship with the priors are what `psc-archive prior train` writes."""

from __future__ import annotations

import pytest

from pipelines.training.model_card import model_card
from pipelines.training.recipe import Recipe
from psc_volumetric.prior import installed_priors, load_prior


@pytest.mark.parametrize("name", sorted(installed_priors()))
def test_shipped_card_says_what_the_metadata_say(name: str) -> None:
    prior = load_prior(name)
    training = prior.metadata["training"]
    losses = training["held_out_mse"]
    card = model_card(
        Recipe.load(name),
        prior,
        {level: losses[level] for level in sorted(losses, key=float, reverse=True)},
        training["training_volumes"],
        training["held_out_volumes"],
    )
    folder = installed_priors()[name].folder
    assert card == (folder / "docs" / "README.md").read_text("utf-8")


def test_card_asks_for_data_only_where_the_recipe_makes_none() -> None:
    prior = load_prior("test-tiny")
    losses = prior.metadata["training"]["held_out_mse"]
    tiny = model_card(Recipe.load("test-tiny"), prior, losses, ["a"], ["b"])
    head = model_card(Recipe.load("mr-head"), prior, losses, ["a"], ["b"])
    assert "`psc-archive prior train test-tiny --out NEW_FOLDER`" in tiny
    assert "`psc-archive prior train mr-head DATA --out NEW_FOLDER`" in head
