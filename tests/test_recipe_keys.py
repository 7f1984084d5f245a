"""The list of a recipe's keys, and the pages made from it."""

import tomllib
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Literal

import pytest

from crossdna.cli import main
from crossdna.config import from_table
from crossdna.data.masking import MaskingConfig
from crossdna.models.building import config_class
from crossdna.recipe_keys import config_keys, markdown_list, recipe_keys
from crossdna.training.finetune_recipe import FinetuneRecipe
from crossdna.training.pretraining_data import GenomeSettings, WindowSettings
from crossdna.training.pretraining_objectives import ObjectiveSettings
from crossdna.training.pretraining_recipe import TokenizerSettings, TrainSettings

DOCS = Path(__file__).parents[1] / "docs"
SECTIONS = (
    GenomeSettings,
    WindowSettings,
    MaskingConfig,
    ObjectiveSettings,
    TokenizerSettings,
    TrainSettings,
    FinetuneRecipe,
)


@pytest.mark.parametrize("kind", SECTIONS)
def test_every_key_says_what_it_does(kind):
    keys = recipe_keys(kind)
    assert [key.name for key in keys] == [field.name for field in fields(kind)]
    assert not [key.name for key in keys if not key.text]


@pytest.mark.parametrize("kind", SECTIONS)
def test_defaults_are_toml_that_the_recipe_reads_back(kind):
    listed = {key.name: key.default for key in recipe_keys(kind)}
    must = {name for name, default in listed.items() if default is None}
    assert must == {
        field.name
        for field in fields(kind)
        if field.default is MISSING and field.default_factory is MISSING
    }
    given = {"steps": 7, "path": "here", "fasta": "a.fa", "model": "m"}
    required = {name: given[name] for name in must}
    text = "\n".join(f"{name} = {value}" for name, value in listed.items() if value)
    table = tomllib.loads(text)
    assert from_table(required | table, kind) == from_table(required, kind)


@pytest.mark.parametrize("name", ["crossdna", "caduceus", "hyenadna"])
def test_fields_of_configurations(name):
    keys = config_keys(config_class(name))
    assert len(keys) > 10
    assert not [key.name for key in keys if not key.text]


def test_neighbours_with_one_text_share_an_item():
    @dataclass(frozen=True)
    class Kind:
        """A section."""

        first: int
        """Counts ``this``; None: nothing."""
        second: float | None = None
        third: Literal["a", "b"] = "b"
        """Which one."""

    assert markdown_list(recipe_keys(Kind)) == (
        "- `first` (whole number; must be given): Counts `this`; not set: nothing."
        "\n- `second` (number; optional)"
        '\n- `third` (`"a"` or `"b"`; default `"b"`): Which one.'
    )


@pytest.mark.parametrize(
    ("verb", "page"),
    [("pretrain", "pretrain-keys.md"), ("finetune", "finetune-keys.md")],
)
def test_the_pages_are_what_the_verbs_print(verb, page, capsys):
    with pytest.raises(SystemExit) as end:
        main([verb, "--keys"])
    assert end.value.code == 0
    hint = f"run: crossdna {verb} --keys > docs/{page}"
    assert (DOCS / page).read_text() == capsys.readouterr().out, hint
