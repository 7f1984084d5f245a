"""The recipes of the architecture comparison differ in nothing but the architecture."""

from pathlib import Path

import pytest
import torch

from crossdna.config import read_recipe, to_table
from crossdna.models.building import default_tokenizer, new_language_model
from crossdna.training.pretraining_recipe import PretrainRecipe, model_config
from crossdna.zoo.families import FAMILIES, NATIVE

FOLDER = Path(__file__).resolve().parents[2] / "recipes" / "pretrain" / "compare"
PATHS = sorted(FOLDER.glob("*.toml"))


def test_every_family_that_can_be_trained_is_compared():
    # Gemma 2 is Gemma for this purpose; experts of Mixtral are no matter of 0.4M.
    left_out = {"gemma2", "mixtral"}
    assert {path.stem for path in PATHS} == {*NATIVE, *FAMILIES} - left_out


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_equal_size_and_budget(path):
    recipe = read_recipe(path, PretrainRecipe)
    assert recipe.model["type"] == path.stem
    first = read_recipe(PATHS[0], PretrainRecipe)
    own, other = to_table(recipe), to_table(first)
    for section in ("genome", "windows", "masking", "train"):
        assert own[section] == other[section]
    config = model_config(recipe.model, default_tokenizer(path.stem))
    with torch.device("meta"):
        model = new_language_model(config)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(4e5, rel=0.04)
