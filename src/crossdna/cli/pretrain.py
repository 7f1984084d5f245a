"""``crossdna pretrain``: train a model on genomes from a recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossdna.cli.recipe_options import add_set_option, pretraining_keys

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("recipe", type=Path, help="recipe file (TOML)")
    parser.add_argument(
        "--output", type=Path, required=True, help="directory for the model and its log"
    )
    add_set_option(
        parser,
        "SECTION.KEY=VALUE",
        "change a value of the recipe, such as train.lr=3e-4",
        pretraining_keys,
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
    from crossdna.training.pretrain import PROVENANCE_NAME, pretrain
    from crossdna.training.pretraining_recipe import PretrainRecipe

    # Its bar for each saved model would break up ours for the run.
    disable_progress_bar()
    recipe = read_recipe(arguments.recipe, PretrainRecipe, arguments.overrides)
    try:
        output = pretrain(recipe, arguments.output, resume=arguments.resume)
        if not distributed.is_initialized() or distributed.get_rank() == 0:
            facts = json.loads((output / PROVENANCE_NAME).read_text())
            print(_summary(output, facts))
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
    return 0


def _summary(output: Path, facts: dict[str, Any]) -> str:
    loss = facts["best_held_out_loss"]
    held_out = "" if loss is None else f", best held-out loss {loss:.4f} nats a base"
    return f"{output}: model of step {facts['weights_of_step']}{held_out}"
