"""``crossdna pretrain``: train a model on genomes from a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("recipe", type=Path, help="recipe file (TOML)")
    parser.add_argument(
        "--output", type=Path, required=True, help="directory for the model and its log"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        dest="overrides",
        help="change a value of the recipe, such as train.lr=3e-4; may be repeated",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in the output directory from its newest checkpoint",
    )


def run(arguments: argparse.Namespace) -> int:
    """Train; several processes when torchrun started them."""
    from torch import distributed
    from transformers.utils.logging import disable_progress_bar

    from crossdna.config import read_recipe
    from crossdna.training.pretrain import pretrain
    from crossdna.training.pretraining_recipe import PretrainRecipe

    # Its bar for each saved model would break up ours for the run.
    disable_progress_bar()
    recipe = read_recipe(arguments.recipe, PretrainRecipe, arguments.overrides)
    try:
        pretrain(recipe, arguments.output, resume=arguments.resume)
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
    return 0
