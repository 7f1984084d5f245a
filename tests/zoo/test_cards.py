"""Cards of known checkpoints, and the choice of what runs a checkpoint at hand."""

import json
from pathlib import Path

import pytest
from transformers import CONFIG_MAPPING

from crossdna.cli import main
from crossdna.errors import CrossDNAError
from crossdna.zoo.cards import (
    NATIVE_TYPES,
    card,
    cards,
    cards_with,
    describe_directory,
)

GOLDEN = Path(__file__).parents[1] / "golden"


def test_every_card_is_consistent():
    names = [each.name for each in cards()]
    assert len(set(names)) == len(names) >= 30
    for each in cards():
        assert (each.runs == "native") == (each.model_type in NATIVE_TYPES)
        if each.runs in ("native", "transformers"):
            assert each.model_type in CONFIG_MAPPING
        for value in (each.parameters, each.window):
            assert value is None or value > 0
        assert each.context in (None, "any length") or each.context > 0
        assert each.pretraining, each.name
        assert all([each.layer, each.pooling, each.padding, each.hardware]), each.name


def test_what_has_no_limit_says_so():
    assert card("CrossDNA 8.1M").context == "any length"
    other = card("kuleshov-group/caduceus-ph_seqlen-131k_d_model-256_n_layer-16")
    assert other.context == 131_072


def test_native_families_are_registered():
    for name in NATIVE_TYPES:
        assert CONFIG_MAPPING[name].__module__.startswith("crossdna.")


def test_cards_are_found_by_whole_names_only():
    assert card("LongSafari/hyenadna-large-1m-seqlen-hf").context == 1_000_000
    with pytest.raises(CrossDNAError, match=r"did you mean .*hyenadna-large-1m"):
        card("hyenadna-large-1m")


def test_parts_of_names_find_every_card_that_has_them():
    found = {card.name for card in cards_with("dnabert2")}
    assert found == {"zhihan1996/DNABERT-2-117M"}
    assert len(cards_with("DNA_bert")) > 4
    assert {card.model_type for card in cards_with("caduceus")} == {"caduceus"}
    assert not cards_with("-")
    with pytest.raises(CrossDNAError, match=r"did you mean zhihan1996/DNA_bert_3 or"):
        card("dnabert")


@pytest.mark.parametrize(
    ("name", "family"), [("hyenadna", "hyenadna"), ("caduceus_ps", "caduceus")]
)
def test_directories_are_judged_by_their_model_type(tmp_path, name, family):
    misleading = tmp_path / "nucleotide-transformer-namespace"
    misleading.mkdir()
    text = (GOLDEN / name / "config.json").read_text()
    (misleading / "config.json").write_text(text)
    found = describe_directory(misleading)
    assert (found.model_type, found.runs) == (family, "native")


@pytest.mark.parametrize(
    ("config", "runs"),
    [
        ({"model_type": "bert"}, "transformers"),
        ({"model_type": "mamba2"}, "transformers"),
        ({"model_type": "unheard", "auto_map": {"AutoModel": "a.B"}}, "remote code"),
        ({"model_type": "unheard"}, "nothing"),
        ({"model_type": "bert", "auto_map": {"AutoModel": "a.B"}}, "remote code"),
        (
            {"model_type": "mamba", "auto_map": {"AutoModel": "modeling_mamba.Mamba"}},
            "transformers",
        ),
    ],
)
def test_what_runs_other_families(tmp_path, config, runs):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert describe_directory(tmp_path).runs == runs


def test_directories_without_a_model_are_refused(tmp_path):
    with pytest.raises(CrossDNAError, match=r"no config\.json"):
        describe_directory(tmp_path)
    path = tmp_path / "config.json"
    path.write_text("{")
    with pytest.raises(CrossDNAError, match=r"config\.json: cannot be read"):
        describe_directory(tmp_path)
    path.write_text("{}")
    with pytest.raises(CrossDNAError, match="names no model_type"):
        describe_directory(tmp_path)


def test_command_line(capsys):
    assert main(["models"]) == 0
    table, _, legend = capsys.readouterr().out.partition("\n\n")
    lines = table.splitlines()
    assert len(lines) == len(cards()) + 1
    # Every word that stands under "runs" and "tested" is explained below the table.
    assert all(card.runs in legend and card.tested in legend for card in cards())
    assert lines[0].split() == [
        "name", "model_type", "parameters", "context", "runs", "tested",
    ]  # fmt: skip
    name = "kuleshov-group/caduceus-ps_seqlen-131k_d_model-256_n_layer-16"
    assert main(["models", name]) == 0
    assert "7,725,312" in capsys.readouterr().out
    assert main(["models", name, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["context"] == 131_072
    assert main(["models", str(GOLDEN / "hyenadna"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"] == "native"
    assert main(["models", "PoetschLab/GROVER"]) == 0
    assert "licence       none stated" in capsys.readouterr().out
    assert main(["models", "CrossDNA 8.1M"]) == 0
    assert "licence       not checked" in capsys.readouterr().out
    assert card("crossdna-small").licence == "Apache-2.0"
    assert main(["models", "no/such-model"]) == 2
    assert "no card for" in capsys.readouterr().err
