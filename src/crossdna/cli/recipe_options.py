"""Options of verbs that follow a recipe: change its values, list its keys."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def add_set_option(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup,
    metavar: str,
    text: str,
    keys: Callable[[], str],
) -> None:
    """Declare --set, and --keys, which prints what `keys` gives and ends.

    Parameters
    ----------
    metavar, text
        Of --set: how a setting is written, and what it is for.
    keys
        Called when it is asked for, so that it may import what takes time.
    """
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar=metavar,
        dest="overrides",
        help=f"{text}; may be repeated, --keys lists what there is",
    )
    parser.add_argument(
        "--keys",
        action=_PrintKeys,
        keys=keys,
        help="list all keys of the recipe with their defaults, and exit",
    )


def pretraining_keys() -> str:
    """All keys of a pretraining recipe, as Markdown."""
    from crossdna.data.masking import MaskingConfig
    from crossdna.models.building import config_class
    from crossdna.recipe_keys import config_keys, markdown_list, recipe_keys
    from crossdna.training.pretraining_data import GenomeSettings, WindowSettings
    from crossdna.training.pretraining_objectives import ObjectiveSettings
    from crossdna.training.pretraining_recipe import TokenizerSettings, TrainSettings
    from crossdna.zoo.families import NATIVE

    parts = [
        "# Keys of a pretraining recipe",
        "`crossdna pretrain --keys` prints this page. Sections are written as in TOML; "
        "the guide is\ndocs/pretrain.md.",
    ]
    sections: dict[str, type] = {
        "[genome.NAME]": GenomeSettings,
        "[windows]": WindowSettings,
        "[masking]": MaskingConfig,
        "[objective]": ObjectiveSettings,
        "[tokenizer]": TokenizerSettings,
        "[train]": TrainSettings,
    }
    for name, kind in sections.items():
        parts += [f"## {name}", markdown_list(recipe_keys(kind))]
    parts += [
        "## [model]",
        "`type` is the family; the other keys are fields of its configuration. Of "
        "families that are in\ntransformers, its documentation lists the fields.",
    ]
    for name in sorted(NATIVE):
        keys = tuple(
            key for key in config_keys(config_class(name)) if key.name not in _OF_HEADS
        )
        parts += [f'### type = "{name}"', markdown_list(keys)]
    return "\n\n".join(parts)


_OF_HEADS = {
    f"head_{part}"
    for part in ("pooling", "length", "dropout", "motifs", "width", "standard")
}


def finetuning_keys() -> str:
    """All keys of a fine-tuning recipe, as Markdown."""
    from crossdna.recipe_keys import markdown_list, recipe_keys
    from crossdna.training.finetune_recipe import FinetuneRecipe

    return "\n\n".join(
        [
            "# Keys of a fine-tuning recipe",
            "`crossdna finetune --keys` prints this page. Options of the verb set most "
            "of them, `--set\nKEY=VALUE` each; the guide is docs/finetune.md.",
            markdown_list(recipe_keys(FinetuneRecipe)),
        ]
    )


class _PrintKeys(argparse.Action):
    """Like --help, which other arguments need not be right for."""

    def __init__(
        self, option_strings: list[str], dest: str, keys: Callable[[], str], help: str
    ) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help=help)
        self.keys = keys

    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        print(self.keys())
        parser.exit()
