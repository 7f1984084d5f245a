"""Rewrite a checkpoint in its authors' layout as one of ours."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from safetensors.torch import save_file

from crossdna.errors import CrossDNAError
from crossdna.files import atomic_directory, claim_output_directory
from crossdna.models.crossdna import CrossDNAConfig, CrossDNAForMaskedLM, published
from crossdna.models.loading import read_weights
from crossdna.models.record import write_record
from crossdna.tokenizers.nucleotide import CrossDNATokenizer

EXTRAS_FILE = "published_extras.safetensors"


class ConversionReport(NamedTuple):
    """What a conversion wrote.

    Attributes
    ----------
    family : str
    parameters : int
        Trainable parameters of the network.
    extras : int
        Published tensors (EMA copies, buffers) that the network has no place for.
    extras_file : str
    """

    family: str
    parameters: int
    extras: int
    extras_file: str


def convert_checkpoint(source: str | Path, destination: str | Path) -> ConversionReport:
    """Read a published CrossDNA checkpoint and write it in our layout.

    EMA copies and buffers are kept beside the weights under their published names.

    Raises
    ------
    CrossDNAError
        No checkpoint at `source`, one that is not in the published layout, a missing,
        extra or misshaped key, or a `destination` that is not empty.
    """
    source, destination = Path(source), Path(destination)
    if not (source / "config.json").is_file():
        raise CrossDNAError(f"{source}: no config.json, so no checkpoint of a model")
    raw, _ = CrossDNAConfig.get_config_dict(source)
    if not published.is_published_config(raw):
        raise CrossDNAError(
            f"{source}: not in the published layout; nothing to convert"
        )
    model = CrossDNAForMaskedLM.from_pretrained(source)
    weights, where = read_weights(source, {})
    extras = published.convert_state_dict(weights, model.config, where).extras
    claim_output_directory(destination)
    with atomic_directory(destination) as staging:
        model.save_pretrained(staging)
        CrossDNATokenizer().save_pretrained(staging)
        if extras:
            save_file(extras, staging / EXTRAS_FILE)
        write_record(staging)
    return ConversionReport(
        model.config.model_type, model.num_parameters(), len(extras), EXTRAS_FILE
    )
