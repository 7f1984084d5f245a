"""Mutagenesis against one-by-one scoring; the one-hot wrapper; the pictures."""

from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest
import torch
import torch.nn.functional as F

from crossdna import alphabet
from crossdna.analysis.inference import load_model, sequence_logits
from crossdna.analysis.mutagenesis.ism import mutagenesis, mutagenesis_scores, table
from crossdna.analysis.mutagenesis.onehot import OneHotModel, one_hot_to_ids
from crossdna.analysis.mutagenesis.report import mutagenesis_page
from crossdna.analysis.variants.score import ScoreSettings, score_alleles
from crossdna.cli import main
from crossdna.data.genome import Genome
from crossdna.data.regions import Region
from crossdna.data.variants import read_allele
from crossdna.errors import CrossDNAError

HEAD = "CrossDNAForSequenceClassification"


@pytest.fixture
def genome(tmp_path, rng, cache_folder):
    letters = "".join(rng.choice(list("ACGT"), 400)) + "NN" + "ACGTTTGACC"
    (tmp_path / "g.fa").write_text(f">c\n{letters}\n>short\nGATTACATTTGACA\n")
    return Genome.open(tmp_path / "g.fa")


@pytest.mark.parametrize("kind", ["CrossDNAForMaskedLM", HEAD])
@pytest.mark.parametrize("region", [Region("c", 190, 199), Region("c", 398, 412)])
def test_as_scored_one_by_one(tiny_checkpoint, genome, kind, region):
    task = "classification" if kind == HEAD else "masked-lm"
    model = load_model(tiny_checkpoint(kind), task, "cpu")
    scores = mutagenesis_scores(model, deletions=True)
    settings = ScoreSettings(scores=scores, window=64, mask_spacing=4)
    done = []
    result = mutagenesis(
        model, genome, region, settings, deletions=True, advance=done.append
    )
    assert sum(done) == len(region)
    bases = alphabet.decode(genome.fetch("c", region.start, region.end))
    one = ScoreSettings(scores=scores, window=64, mask_spacing=4, batch_size=1)
    for place, base in enumerate(bases):
        if base == "N":
            assert np.isnan(result.substitutions[place]).all()
            assert np.isnan(result.deletions[place]).all()
            continue
        for index, alt in enumerate([*"ACGT", ""]):
            if alt == base:
                assert (result.substitutions[place, index] == 0).all()
                continue
            position = region.start + place
            allele = read_allele(genome, "c", position, base, alt, 64)
            alone = score_alleles(model, genome, [allele], one)
            values = [v[0] for v in alone.values() if np.isfinite(v[0])]
            found = (
                result.substitutions[place, index] if alt else result.deletions[place]
            )
            np.testing.assert_allclose(found, values, atol=1e-5, rtol=1e-5)


def test_importance_and_table(tiny_checkpoint, genome):
    model = load_model(tiny_checkpoint(), "masked-lm", "cpu")
    settings = ScoreSettings(scores=("llr",), window=64)
    result = mutagenesis(model, genome, Region("short", 0, 14), settings)
    assert result.importance()[3] == pytest.approx(
        -result.substitutions[3, :, 0].sum() / 3
    )
    rows = table([result])
    assert len(rows["pos"]) == 14 * 3
    assert (rows["pos"][0], rows["ref"][0], rows["alt"][0]) == (1, "G", "A")
    with pytest.raises(CrossDNAError, match="takes the scores"):
        mutagenesis(
            model,
            genome,
            Region("c", 0, 5),
            ScoreSettings(scores=("llr", "entropy"), window=64),
        )


class _Page(HTMLParser):
    """Counts cells and refuses anything loaded from elsewhere."""

    def __init__(self):
        super().__init__()
        self.cells, self.open = 0, []

    def handle_starttag(self, tag, attrs):
        self.cells += tag == "rect"
        if tag not in ("meta", "link"):
            self.open.append(tag)
        assert not {"src", "href"} & {name for name, _ in attrs}

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_head_per_base_is_refused(tiny_checkpoint):
    path = tiny_checkpoint("CrossDNAForTokenClassification", num_labels=2)
    model = load_model(path, "per-base", "cpu")
    with pytest.raises(CrossDNAError, match="crossdna track"):
        mutagenesis_scores(model, deletions=False)


def test_page_stands_alone(tiny_checkpoint, genome):
    model = load_model(tiny_checkpoint(), "masked-lm", "cpu")
    settings = ScoreSettings(scores=("llr",), window=64)
    result = mutagenesis(model, genome, Region("c", 395, 410), settings)
    page = mutagenesis_page(result, title="a <b>", provenance={"command": "x > y"})
    parser = _Page()
    parser.feed(page)
    assert parser.open == []
    assert parser.cells == 13 * 4
    assert "<title>a &lt;b&gt;</title>" in page
    assert "c:396" in page
    assert "<td>command</td><td>x &gt; y</td>" in page
    tallest = np.abs(result.importance()[np.isfinite(result.importance())]).max()
    for value in (tallest, -tallest):
        assert f'text-anchor="end">{value:.3g}</text>' in page


def test_command(tiny_checkpoint, genome, tmp_path, capsys):
    words = ["ism", "--model", tiny_checkpoint(HEAD, num_labels=2), "--window", 64]
    words += ["--genome", genome.paths[0], "--device", "cpu"]
    output = tmp_path / "out"
    words = list(map(str, [*words, "--output", output]))
    chosen = [*words, "--region", "c:1-6", "c:200-203", "--deletions"]
    assert main(chosen) == 0
    assert sorted(path.name for path in output.iterdir()) == sorted(
        ["ism.parquet"]
        + [
            f"c_{place}.{suffix}"
            for place in ("1-6", "200-203")
            for suffix in ("png", "html")
        ]
    )
    rows = pl.read_parquet(output / "ism.parquet")
    assert rows.height == 10 * 4
    assert rows.filter(pl.col("alt") == "-").height == 10
    page = (output / "c_1-6.html").read_text()
    assert "change of the log-odds of LABEL_1" in page
    assert main(chosen) == 2
    assert "not empty" in capsys.readouterr().err
    assert main([*words[:-1], str(tmp_path / "o"), "--region", "c:0-6"]) == 2
    (tmp_path / "reads.fa").write_text(">read/1\nACGTACGTACGT\n")
    words[words.index(str(genome.paths[0]))] = str(tmp_path / "reads.fa")
    assert main([*words[:-1], str(tmp_path / "r"), "--region", "read/1:2-4"]) == 0
    assert (tmp_path / "r" / "read_1_2-4.png").exists()
    (tmp_path / "reads.fa").write_text(">read/1\nACGTACGT\n>read_1\nTTTTACGT\n")
    regions = ["--region", "read/1:2-4", "read_1:2-4", "read/1:2-5"]
    assert main([*words[:-1], str(tmp_path / "s"), *regions]) == 0
    for stem, region in (
        ("read_1_2-4", "read/1:2-4"), ("read_1_2-4_2", "read_1:2-4"),
        ("read_1_2-5", "read/1:2-5"),
    ):  # fmt: skip
        page = (tmp_path / "s" / f"{stem}.html").read_text()
        assert f"<title>{region}: " in page


def one_hot(ids):
    return F.one_hot(ids, 5)[..., :4].transpose(1, 2).float()


@pytest.mark.parametrize("strand", alphabet.STRANDS)
@pytest.mark.parametrize("motifs", [0, 4])
def test_one_hot_gives_what_letters_give(tiny_checkpoint, motifs, strand, rng):
    path = tiny_checkpoint(HEAD, num_labels=2, head_motifs=motifs)
    model = load_model(path, "classification", "cpu")
    ids = torch.from_numpy(rng.integers(0, 5, (3, 150)))
    wrapped = OneHotModel(model, strand=strand)
    x = one_hot(ids)
    torch.testing.assert_close(one_hot_to_ids(x), ids)
    logits = sequence_logits(model, ids, strand=strand)
    expected = logits[:, 1:] - logits[:, :1]
    torch.testing.assert_close(wrapped(x), expected)
    x.requires_grad_()
    soft = wrapped(x)
    torch.testing.assert_close(soft, expected, atol=1e-5, rtol=1e-5)
    (gradient,) = torch.autograd.grad(soft[:, 0].sum(), x)
    assert gradient.abs().sum() > 0
    # The gradient is the slope of the output towards another base.
    wrapped, x = wrapped.double(), x.detach().double()
    step = torch.zeros_like(x)
    step[0, 1, 70], step[0, 2, 70] = 1e-4, -1e-4
    outputs = [
        wrapped((x + way * step).requires_grad_())[0, 0].item() for way in (1, -1)
    ]
    slope = (outputs[0] - outputs[1]) / 2e-4
    expected = float(gradient[0, 1, 70] - gradient[0, 2, 70])
    assert slope == pytest.approx(expected, abs=1e-4)


def test_one_hot_of_a_masked_model(tiny_checkpoint, rng):
    wrapped = OneHotModel(load_model(tiny_checkpoint(), "masked-lm", "cpu"))
    x = one_hot(torch.from_numpy(rng.integers(0, 4, (2, 40))))
    scores = wrapped(x)
    assert scores.shape == (2, 1)
    assert (scores < 0).all()
    torch.testing.assert_close(wrapped(x.flip(1, 2)), scores, atol=1e-4, rtol=0)
    with pytest.raises(CrossDNAError, match="gradients"):
        wrapped(x.clone().requires_grad_())
    with pytest.raises(CrossDNAError, match="single 1"):
        wrapped(x * 0.5)
    with pytest.raises(CrossDNAError, match="batch, 4, length"):
        wrapped(x.transpose(1, 2))


def test_tangermeme_takes_the_wrapper(tiny_checkpoint, genome):
    pytest.importorskip("tangermeme", reason="tangermeme is not installed")
    from tangermeme.predict import predict
    from tangermeme.saturation_mutagenesis import saturation_mutagenesis
    from tangermeme.variant_effect import substitution_effect

    path = tiny_checkpoint(HEAD, num_labels=1, head_motifs=4)
    model = load_model(path, "classification", "cpu")
    wrapped = OneHotModel(model)
    # A contig that is shorter than a window is read whole, as tangermeme reads it.
    region = Region("short", 0, 14)
    ids = torch.from_numpy(genome.fetch("short", 0, 14)).long()
    x = one_hot(ids[None])
    torch.testing.assert_close(predict(wrapped, x, device="cpu"), wrapped(x))
    other = (int(ids[7]) + 1) % 4
    before, after = substitution_effect(
        wrapped, x, torch.tensor([[0, 7, other]]), device="cpu"
    )
    raw = saturation_mutagenesis(wrapped, x, device="cpu", raw_outputs=True)
    changes = (raw.y_hat - raw.y0[:, None, None])[0].transpose(0, 1)
    settings = ScoreSettings(scores=("head",), window=64)
    ours = mutagenesis(model, genome, region, settings).substitutions
    np.testing.assert_allclose(changes.numpy(), ours, atol=1e-5)
    assert float(after - before) == pytest.approx(ours[7, other, 0], abs=1e-5)
    attributed = saturation_mutagenesis(wrapped, x, device="cpu", hypothetical=True)[0]
    centred = ours[..., 0] - ours[..., 0].mean(1, keepdims=True)
    np.testing.assert_allclose(attributed.T.numpy(), centred, atol=1e-5)
