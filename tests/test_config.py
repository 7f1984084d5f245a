"""Recipes."""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from crossdna.config import from_table, read_recipe, to_table, write_toml
from crossdna.errors import CrossDNAError


@dataclass(frozen=True, kw_only=True)
class Train:
    lr: float = 1e-3
    steps: int = 10
    schedule: Literal["cosine", "flat"] = "cosine"
    resume_from: Path | None = None

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError(f"steps must be positive, got {self.steps}")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    name: str
    train: Train = field(default_factory=Train)
    genomes: dict[str, Train] = field(default_factory=dict)
    lengths: tuple[int, ...] = ()
    stages: tuple[Train, ...] = ()


def read(tmp_path, text, *overrides):
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return read_recipe(path, Recipe, overrides)


def test_nested_values(tmp_path):
    recipe = read(
        tmp_path,
        'name = "x"\nlengths = [1, 2]\n[train]\nlr = 1\n[genomes.yeast]\nsteps = 3\n'
        "[[stages]]\nsteps = 4\n[[stages]]\nsteps = 5\n",
    )
    assert recipe.train.lr == 1.0
    assert isinstance(recipe.train.lr, float)
    assert recipe.genomes["yeast"].steps == 3
    assert recipe.lengths == (1, 2)
    assert [stage.steps for stage in recipe.stages] == [4, 5]


def test_written_and_read_again(tmp_path):
    recipe = Recipe(
        name='quoted "name" \\ with\nlines',
        train=Train(lr=3e-4, resume_from=Path("a/b")),
        genomes={"two words": Train(steps=7)},
        lengths=(128, 256),
        stages=(Train(steps=2), Train(schedule="flat")),
    )
    text = write_toml(to_table(recipe))
    assert from_table(tomllib.loads(text), Recipe) == recipe


def test_overrides(tmp_path):
    recipe = read(
        tmp_path,
        'name = "x"',
        "train.lr=3e-4",
        "train.schedule=flat",
        "name=other",
        "genomes.human.steps=5",
    )
    assert (recipe.train.lr, recipe.train.schedule) == (3e-4, "flat")
    assert recipe.name == "other"
    assert recipe.genomes["human"].steps == 5


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ('name = "x"\n[train]\nlearning = 1', (), r"train: unknown key 'learning'"),
        ('name = "x"\n[train]\nstep = 1', (), r"did you mean 'steps'\?"),
        ('nam = "x"', (), r"did you mean 'name'\?"),
        ("", (), "missing key 'name'"),
        ('name = "x"\n[train]\nsteps = "many"', (), "steps: expected int, got 'many'"),
        ('name = "x"\n[train]\nsteps = true', (), "expected int, got True"),
        ('name = "x"\n[train]\nsteps = -3', (), "steps must be positive, got -3"),
        ('name = "x"\n[train]\nschedule = "sine"', (), "not one of 'cosine', 'flat'"),
        ('name = "x"\nlengths = 3', (), "expected a list"),
        ('name = "x"\ntrain = 3', (), "expected a table"),
        ("name = ", (), "not a TOML file"),
        ('name = "x"', ("train.lr",), "write section.key=value"),
        ('name = "x"', ("name.first=1",), "name is not a section"),
        ('name = "x"', ("train.stepz=1",), r"did you mean 'steps'\?"),
    ],
)
def test_faults_are_named(tmp_path, text, overrides, message):
    with pytest.raises(CrossDNAError, match=message):
        read(tmp_path, text, *overrides)


def test_missing_recipe(tmp_path):
    with pytest.raises(CrossDNAError, match="no such recipe"):
        read_recipe(tmp_path / "absent.toml", Recipe)
