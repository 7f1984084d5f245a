"""Motifs, Markov chains and hidden Markov models where a checkpoint would stand."""

import gzip
import math

import numpy as np
import polars as pl
import pytest

from crossdna import alphabet
from crossdna.analysis.classical.chains import HiddenChain, VisibleChain
from crossdna.analysis.classical.motifs import Motifs, best_sites
from crossdna.cli import main

MEME = """MEME version 4

ALPHABET= ACGT

MOTIF M1 first
letter-probability matrix: alength= 4 w= 6 nsites= 20
 0.97 0.01 0.01 0.01
 0.01 0.97 0.01 0.01
 0.01 0.01 0.97 0.01
 0.01 0.01 0.01 0.97
 0.97 0.01 0.01 0.01
 0.97 0.01 0.01 0.01

MOTIF M2 second
letter-probability matrix: alength= 4 w= 8 nsites= 20
 0.01 0.01 0.97 0.01
 0.01 0.01 0.97 0.01
 0.01 0.01 0.01 0.97
 0.01 0.01 0.01 0.97
 0.01 0.01 0.97 0.01
 0.01 0.01 0.01 0.97
 0.01 0.01 0.97 0.01
 0.01 0.01 0.97 0.01
"""


@pytest.fixture
def meme(tmp_path):
    path = tmp_path / "two.meme.gz"
    path.write_bytes(gzip.compress(MEME.encode()))
    return path


@pytest.fixture
def genome(tmp_path, cache_folder):
    """400 bases with ACGTAA at 100 and the reverse complement of GGTTGTGG at 200."""
    letters = np.random.default_rng(5).choice(list("ACGT"), 400)
    letters[100:106], letters[200:208] = list("ACGTAA"), list("CCACAACC")
    path = tmp_path / "genome.fa"
    path.write_text(">one\n" + "".join(letters) + "\n")
    return path


def by_hand(matrix, sequence):
    """Best log-odds in bits over both strands."""
    logs = np.log2(matrix + 1e-4) + 2
    ids = alphabet.encode(sequence)
    width = matrix.shape[1]
    return max(
        logs[strand[start : start + width], np.arange(width)].sum()
        for strand in (ids, alphabet.reverse_complement(ids))
        for start in range(len(ids) - width + 1)
    )


def scored(genome, model, variants, folder, *more):
    table = folder / "variants.tsv"
    table.write_text("chrom\tpos\tref\talt\n" + "".join(variants))
    output = folder / "out.parquet"
    words = ["score", "--model", model, "--genome", str(genome), "--variants"]
    words += [str(table), "--output", str(output), "--window", "128", *more]
    return main(words), output


def test_best_sites_are_those_found_by_hand(meme):
    motifs = Motifs.read(meme)
    texts = ["TTACGTAATTGGTTGTGGCC", "TTTTTTACGTAA", "CCACAACCNNNNTTACGT"]
    found, starts = best_sites(motifs, [alphabet.encode(text) for text in texts])
    for number, matrix in enumerate(motifs.matrices.values()):
        for row, text in enumerate(texts[:2]):
            best = by_hand(matrix, text)
            if best > 8:
                assert found[row, number] == pytest.approx(best, abs=1e-3)
            else:
                assert found[row, number] < 8
    assert found[2, 1] == pytest.approx(
        by_hand(motifs.matrices["M2 second"], "CCACAACC")
    )
    # TTACGT is ACGTAA on the other strand and comes first; GGTTGTGG on either.
    assert starts[:, 0].tolist() == [0, 4, 12]
    assert starts[[0, 2], 1].tolist() == [10, 0]
    assert ((starts == -1) == (found == 0)).all()


def test_motifs_in_score(meme, genome, tmp_path):
    letters = genome.read_text().split()[1]
    other = "ACGT".replace(letters[300], "")[0]
    variants = [
        f"one\t103\t{letters[102]}\tC\n",  # ACGTAA to ACCTAA
        f"one\t205\t{letters[204]}\tG\n",  # CCACAACC to CCACGACC
        f"one\t301\t{letters[300]}\t{other}\n",
        f"one\t101\t{letters[100]}\t{letters[100]}TTT\n",  # inside the first site
    ]
    code, output = scored(genome, f"pwm:{meme}", variants, tmp_path)
    assert code == 0
    table = pl.read_parquet(output)
    first, second = Motifs.read(meme).matrices.values()
    change = table["site_loss"].to_list()
    assert change[0] < -4
    assert change[0] >= -by_hand(first, "ACGTAA") - 1e-3
    assert change[1] < -4
    assert change[1] >= -by_hand(second, "CCACAACC") - 1e-3
    assert table["site_loss_motif"].to_list()[:2] == [1, 2]
    assert change[3] < -4
    # One motif alone has one column; it may be named by its identifier.
    code, output = scored(genome, f"pwm:{meme}:M1", variants, tmp_path)
    assert code == 0
    alone = pl.read_parquet(output)["site"].to_list()
    assert alone[0] == pytest.approx(change[0])
    assert abs(alone[1]) < abs(change[1])


def test_chains_in_score(genome, tmp_path):
    """Of order 0, and with one state, the ratio is that of two bases' shares."""
    letters = genome.read_text().split()[1]
    alternate = "ACGT".replace(letters[149], "").replace(
        "ACGT"[3 - "ACGT".index(letters[149])], ""
    )[0]
    variants = [f"one\t150\t{letters[149]}\t{alternate}\n"]
    for model in (f"markov:0@{genome}", f"hmm:1@{genome}"):
        code, output = scored(genome, model, variants, tmp_path)
        assert code == 0
        (value,) = pl.read_parquet(output)["ll"].to_list()
        gc = sum(base in "GC" for base in letters) / 400
        expected = math.log(gc / (1 - gc)) * (1 if alternate in "CG" else -1)
        assert value == pytest.approx(expected, abs=0.15)


def test_a_chain_of_higher_order_knows_its_genome(rng):
    ids = np.tile(alphabet.encode("ACGTTGCA"), 500)
    strange = rng.integers(0, 4, 400).astype(np.uint8)
    for chain in (VisibleChain.fit([ids], 3), HiddenChain.fit([ids], 8)):
        own, other = chain.log_likelihoods([ids[:400], strange])
        assert own > other + 100
        # N is no evidence: what is beside it counts as it does alone.
        gap = np.concatenate([ids[:50], np.full(5, alphabet.N, np.uint8), ids[:50]])
        twice = chain.log_likelihoods([gap])[0]
        assert twice == pytest.approx(2 * chain.log_likelihoods([ids[:50]])[0])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("pwm:none.txt", "write pwm:FILE.meme"),
        ("pwm:none.meme", "cannot be read as MEME"),
        ("pwm:{meme}:M9", "no motif 'M9'"),
        ("markov:3", "markov:ORDER@GENOME.fa"),
        ("markov:x@{genome}", "markov:ORDER@GENOME.fa"),
        ("markov:99@{genome}", "order of 0 to 10"),
        ("hmm:99@{genome}", "states are 1 to 32"),
    ],
)
def test_wrong_names(meme, genome, tmp_path, capsys, model, message):
    model = model.format(meme=meme, genome=genome)
    assert scored(genome, model, ["one\t1\tA\tC\n"], tmp_path)[0] == 2
    assert message in capsys.readouterr().err


def test_scores_cannot_be_chosen(meme, genome, tmp_path, capsys):
    variants = ["one\t1\tA\tC\n"]
    model = f"markov:1@{genome}"
    assert scored(genome, model, variants, tmp_path, "--scores", "llr")[0] == 2
    assert "gives ll" in capsys.readouterr().err


def test_a_repeat_that_keeps_its_site_has_no_change(tmp_path, cache_folder):
    """Deletions and insertions in a run of T, which nobody can place."""
    motif = ["0.01 0.01 0.01 0.97"] * 8
    meme = tmp_path / "t.meme"
    meme.write_text(
        "MEME version 4\n\nALPHABET= ACGT\n\nMOTIF T8\n"
        "letter-probability matrix: alength= 4 w= 8\n" + "\n".join(motif) + "\n"
    )
    letters = np.random.default_rng(5).choice(list("ACG"), 400)
    letters[200:217] = "T"
    letters[300:308] = "T"
    text = "".join(letters)
    (tmp_path / "g.fa").write_text(f">one\n{text}\n")
    variants = [
        f"one\t{at + 1}\t{text[at : at + size + 1]}\t{text[at]}\n"
        for at, size in ((199, 1), (206, 1), (215, 1), (203, 3))
    ]
    variants.append(f"one\t210\t{text[209]}\t{text[209]}TTT\n")
    # Nine of the run are needed: eight are left, then seven.
    variants.append(f"one\t200\t{text[199:209]}\t{text[199]}\n")
    variants.append(f"one\t200\t{text[199:210]}\t{text[199]}\n")
    # A run of eight loses its site with one of its bases, and gets one of seven back.
    variants.append(f"one\t303\t{text[302:304]}\t{text[302]}\n")
    code, output = scored(tmp_path / "g.fa", f"pwm:{meme}", variants, tmp_path)
    assert code == 0
    change = pl.read_parquet(output)["site"].to_list()
    assert change[:6] == [0] * 6
    assert change[6] < -4
    assert change[7] < -4
