"""Weights that come with the package: found by name, offline, in every verb."""

import json

import pytest
import torch

from crossdna.analysis.inference import base_log_probabilities, load_model
from crossdna.cli import main
from crossdna.errors import CrossDNAError
from crossdna.models.crossdna import CrossDNAConfig, CrossDNAForMaskedLM
from crossdna.tokenizers.nucleotide import CrossDNATokenizer
from crossdna.zoo import shipped as module
from crossdna.zoo.cards import cards
from crossdna.zoo.shipped import resolve, shipped, weights_folder


@pytest.mark.parametrize("name", shipped())
def test_what_is_shipped_is_whole(name):
    folder = shipped()[name]
    model = load_model(name)
    card = json.loads((folder / "card.json").read_text())
    assert sum(p.numel() for p in model.parameters()) == card["parameters"]
    # Half precision is for the file alone.
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    ids = torch.randint(0, 4, (2, 300), generator=torch.Generator().manual_seed(0))
    assert base_log_probabilities(model, ids).exp().sum(-1).allclose(torch.ones(2, 300))
    for part in ("README.md", "recipe.toml", "training_log.csv", "provenance.json"):
        assert (folder / part).is_file()


def test_all_that_is_shipped_fits_into_the_wheel():
    files = [path for path in weights_folder().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 40e6


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with one model."""
    folder = tmp_path / "package" / "weights" / "crossdna-test"
    torch.manual_seed(0)
    config = CrossDNAConfig(
        d_model=16, depth=1, num_heads=2, head_dim=8, attention_heads=2,
        window_size=8, block_size=16,
    )  # fmt: skip
    CrossDNAForMaskedLM(config).save_pretrained(folder)
    CrossDNATokenizer().save_pretrained(folder)
    card = {"tested": "shipped", "parameters": 1234, "pretraining": "nothing"}
    (folder / "card.json").write_text(json.dumps(card))
    monkeypatch.setattr(module, "_PACKAGE", tmp_path / "package")
    monkeypatch.chdir(tmp_path)
    cards.cache_clear()
    yield folder
    cards.cache_clear()


def test_a_name_stands_for_its_directory(package):
    assert shipped() == {"crossdna-test": package}
    assert resolve("crossdna-test") == str(package)
    loaded, same = load_model("crossdna-test"), load_model(package)
    for name, tensor in same.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_other_names_are_left_alone(package):
    for name in ("runs/crossdna-test", "someone/crossdna-test", "model"):
        assert resolve(name) == name


def test_a_directory_of_the_users_goes_first(package, tmp_path):
    (tmp_path / "crossdna-test").mkdir()
    assert resolve("crossdna-test") == "crossdna-test"


def test_unknown_names_are_errors_that_list_the_known(package, capsys):
    with pytest.raises(
        CrossDNAError, match=r"did you mean crossdna-test\? \(shipped: crossdna-test\)"
    ):
        resolve("crossdna-tests")
    arguments = ["--genome", "g.fa", "--variants", "v.vcf", "--output", "o.vcf"]
    assert main(["score", "--model", "crossdna-tset", *arguments]) == 2
    assert "shipped: crossdna-test" in capsys.readouterr().err


def test_verbs_take_a_name(package, tmp_path):
    fasta = tmp_path / "x.fa"
    fasta.write_text(">a\nACGTACGTAC\n>b\nACGTTTTTAC\n")
    output = tmp_path / "vectors.parquet"
    arguments = ["embed", str(fasta), "--model", "crossdna-test"]
    assert main([*arguments, "--output", str(output)]) == 0
    assert output.is_file()


def test_the_table_of_models_shows_it(package, capsys):
    assert main(["models"]) == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert line.split()[:3] == ["crossdna-test", "crossdna", "1,234"]
    assert line.endswith("shipped")


def test_without_an_installed_copy_the_source_tree_is_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PACKAGE", tmp_path / "src" / "crossdna")
    assert weights_folder() == tmp_path / "weights"
    assert shipped() == {}
