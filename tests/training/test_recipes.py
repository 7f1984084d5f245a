"""Recipes: every shipped one is valid, and mistakes are named."""

from pathlib import Path

import pytest

from crossdna.config import from_table, read_recipe
from crossdna.errors import CrossDNAError
from crossdna.training.pretraining_recipe import PretrainRecipe, model_config

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
SHIPPED = sorted((RECIPES / "pretrain").glob("*.toml"))


def test_recipes_are_shipped():
    assert {path.stem for path in SHIPPED} >= {"yeast-demo", "human-8m"}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipes_are_valid(path):
    recipe = read_recipe(path, PretrainRecipe)
    config = model_config(recipe.model)
    # Both branches must see both strands within a window.
    assert config.block_size < recipe.windows.length
    for part in recipe.genome.values():
        assert part.heldout is not None or (part.valid and part.test)
    assert recipe.objective.gate_freeze_steps < recipe.train.steps


def test_paper_size_recipe_is_the_papers_model():
    recipe = read_recipe(RECIPES / "pretrain" / "human-8m.toml", PretrainRecipe)
    config = model_config(recipe.model)
    assert (config.d_model, config.depth, config.num_heads, config.head_dim) == (
        128,
        6,
        8,
        64,
    )


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("train", {"step": 3}, "unknown key 'step'; did you mean 'steps'"),
        ("model", {"d_modl": 3}, "unknown key 'd_modl'; did you mean 'd_model'"),
        ("model", {"depth": "two"}, "depth: expected int, got 'two'"),
        ("model", {"depth": 0}, "depth must be positive"),
        ("model", {"type": "brt"}, "'brt'; did you mean 'bert'"),
        ("windows", {"length": -5}, "length must be at least 1, got -5"),
        ("train", {"seed": 2**32}, r"seed must be from 0 to 2\*\*32 - 1"),
        ("train", {"steps": 0}, "steps must be at least 1"),
        ("train", {"lr": -1.0}, "lr must be above 0"),
        ("train", {"max_minutes": 0.0}, r"max_minutes must be above 0, got 0\.0"),
        ("train", {"warmup": 2.0}, r"warmup 2\.0 is not in \[0, 1\]"),
        ("train", {"workers": -1}, "workers must not be negative"),
        ("train", {"micro_batch": 0}, "micro_batch must be positive"),
        ("train", {"precision": "fp8"}, "'fp8' is not one of"),
        ("masking", {"share": 1.5}, "share must be between 0 and 1"),
        ("objective", {"gate_weight": -1.0}, "gate_weight must not be negative"),
    ],
)
def test_mistakes_are_named(table, section, changes, message):
    table[section] = table.get(section, {}) | changes
    with pytest.raises(CrossDNAError, match=message):
        from_table(table, PretrainRecipe)


def test_overrides_reach_a_genome_by_name(tmp_path, table, toy_genome):
    demo = RECIPES / "pretrain" / "yeast-demo.toml"
    overrides = ["genome.yeast.fasta=other.fa.gz", "train.lr=3e-4", "model.depth=3"]
    recipe = read_recipe(demo, PretrainRecipe, overrides)
    assert recipe.genome["yeast"].fasta == Path("other.fa.gz")
    assert recipe.train.lr == 3e-4
    assert model_config(recipe.model).depth == 3
