"""Small CrossDNA networks in all behaviours."""

from pathlib import Path

import pytest
import torch

from crossdna import CrossDNAConfig, CrossDNAForMaskedLM

GOLDEN = Path(__file__).resolve().parents[1] / "golden"

BEHAVIOURS = [
    ("locus", "recurrent", False),
    ("locus", "recurrent", True),
    ("locus", "independent", False),
    ("sequence", "recurrent", True),
    ("sequence", "independent", True),
]


def tiny_config(**changes):
    """A network of two layers whose window is shorter than its blocks."""
    settings = {
        "d_model": 32,
        "depth": 2,
        "num_heads": 2,
        "head_dim": 8,
        "attention_heads": 4,
        "window_size": 6,
        "block_size": 16,
    }
    return CrossDNAConfig(**{**settings, **changes})


def tiny_model(kind=CrossDNAForMaskedLM, **changes):
    """A seeded network in evaluation mode whose decays are slow enough to matter."""
    torch.manual_seed(0)
    model = kind(tiny_config(**changes)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("A_log"):
                # Freshly drawn heads forget within a base; then nothing carried counts.
                parameter.fill_(-1.0)
    return model


@pytest.fixture(params=BEHAVIOURS, ids=lambda b: "-".join(map(str, b)))
def behaviour(request):
    """Strand alignment, block context and whether the branches swap strands."""
    names = ("strand_alignment", "block_context", "swap_strands")
    return dict(zip(names, request.param, strict=True))
