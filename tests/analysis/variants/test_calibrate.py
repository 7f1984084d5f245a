"""Percentiles among random substitutions of the same kind."""

import numpy as np
import polars as pl
import pytest

from crossdna import alphabet
from crossdna.analysis.variants.calibrate import (
    Calibration,
    CalibrationSettings,
    Place,
    Surroundings,
    draw_places,
    substituted,
)
from crossdna.analysis.variants.file import AlleleText
from crossdna.cli import main
from crossdna.data.genome import Genome
from crossdna.errors import CrossDNAError


@pytest.fixture
def letters(rng):
    bases = rng.choice(list("ACGT"), 6000)
    bases[:3000] = np.char.lower(bases[:3000])
    bases[100:120] = "N"
    return "".join(bases)


@pytest.fixture
def genome(tmp_path, letters, cache_folder):
    (tmp_path / "g.fa").write_text(f">one\n{letters[:2500]}\n>two\n{letters[2500:]}\n")
    return Genome.open(tmp_path / "g.fa")


def test_kinds_are_of_both_strands(genome, letters):
    surroundings = Surroundings(genome, None, 64)
    kinds = set()
    for position in range(1, 2499):
        kind = surroundings.kind(Place("one", position))
        three = letters[position - 1 : position + 2].upper()
        if "N" in three:
            assert kind is None
            continue
        turned = alphabet.decode(alphabet.reverse_complement(alphabet.encode(three)))
        assert kind.trinucleotide in (three, turned)
        assert kind.trinucleotide[1] in "CT"
        assert kind.region == 1
        kinds.add(kind)
    assert len(kinds) == 32
    assert surroundings.kind(Place("one", 0)) is None
    assert surroundings.kind(Place("two", 3499)) is None
    assert surroundings.kind(Place("two", 3000)).region == 0
    place = Place("one", 5)
    change = surroundings.change(place, "A")
    assert change == ("A" if letters[5].upper() in "CT" else "T")
    ids = genome.fetch("one", 968, 1032)
    assert surroundings.gc(Place("one", 1000)) == np.isin(ids, (1, 2)).mean()


def test_places_are_of_the_wanted_kinds(genome):
    surroundings = Surroundings(genome, None, 64)
    wanted = {
        surroundings.kind(Place("one", 50)),
        surroundings.kind(Place("two", 2000)),
    }
    settings = CalibrationSettings(places=25, seed=3)
    places = draw_places(surroundings, wanted, settings)
    assert places == draw_places(surroundings, wanted, settings)
    assert set(places) == wanted
    for kind, drawn in places.items():
        assert len(drawn) == 25
        assert {surroundings.kind(place) for place in drawn} == {kind}


def test_a_place_is_drawn_once(tmp_path, cache_folder):
    (tmp_path / "rare.fa").write_text(f">one\n{'AT' * 150}ACG{'AT' * 150}\n")
    surroundings = Surroundings(Genome.open(tmp_path / "rare.fa"), None, 64)
    kind = surroundings.kind(Place("one", 301))
    drawn = draw_places(surroundings, {kind}, CalibrationSettings(places=20))
    assert drawn == {kind: [Place("one", 301)]}


def test_percentiles_by_hand(genome):
    """Half of the nulls, the nearest in GC, count."""
    surroundings = Surroundings(genome, None, 64)
    target = Place("one", 50)
    kind = surroundings.kind(target)
    places = draw_places(surroundings, {kind}, CalibrationSettings(places=60))[kind]
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(60, 3))
    calibration = Calibration(surroundings)
    calibration.add(kind, places, scores)
    old = alphabet.decode(genome.fetch("one", 50, 51))
    alt = "A" if old != "A" else "C"
    change = surroundings.change(target, alt)
    same = []
    for place, row in zip(places, scores, strict=True):
        base = alphabet.decode(genome.fetch(place.contig, place.position, place[1] + 1))
        others = [b for b in "ACGT" if b != base]
        column = [surroundings.change(place, b) for b in others].index(change)
        same.append(
            (abs(surroundings.gc(place) - surroundings.gc(target)), row[column])
        )
    nearest = sorted(range(60), key=lambda i: same[i][0])[:30]
    company = np.array([same[i][1] for i in nearest])
    alleles = [
        AlleleText("one", 50, old, alt),
        AlleleText("one", 49, "N" + old, "N" + alt),
        AlleleText("one", 50, old, old + "A"),
        AlleleText("one", 110, "N", "A"),
    ]
    found = calibration.percentiles(alleles, np.array([0.3, np.nan, 0.1, 0.1]))
    assert found[0] == pytest.approx(100 * (company < 0.3).mean())
    assert np.isnan(found[1:]).all()
    assert calibration.percentiles(alleles[:1], np.array([-99.0]))[0] == 0


def test_the_one_base_that_changes():
    assert substituted(AlleleText("c", 10, "ACG", "ATG")) == (Place("c", 11), "T")
    assert substituted(AlleleText("c", 10, "ACG", "TTG")) is None
    assert substituted(AlleleText("c", 10, "A", "*")) is None
    assert substituted(AlleleText(None, 10, "A", "C")) is None


def test_command(tiny_checkpoint, genome, letters, tmp_path, capsys):
    table = tmp_path / "v.tsv"
    rows = [
        f"one\t{p + 1}\t{letters[p].upper()}\t{'A' if letters[p] not in 'aA' else 'C'}"
        for p in (500, 1200, 1300)
    ]
    table.write_text("\n".join([*rows, f"one\t1401\t{letters[1400]}\tACGT"]) + "\n")
    words = ["score", "--model", tiny_checkpoint(), "--genome", genome.paths[0]]
    words += ["--variants", table, "--window", 48, "--device", "cpu"]
    output = tmp_path / "o.parquet"
    words = list(map(str, [*words, "--output", output, "--calibrate", 20]))
    assert main(words) == 0
    found = pl.read_parquet(output)
    assert found["percentile"].is_between(0, 100).to_list() == [True] * 3 + [None]
    assert main([*words, "--scores", "entropy"]) == 2
    assert "percentiles are those of llr" in capsys.readouterr().err
    assert main([*words[:-1], "3"]) == 2
    broken = tmp_path / "dir.parquet"
    broken.mkdir()
    words[words.index(str(output))] = str(broken)
    work = ["--work", str(tmp_path / "w"), "--annotation"]
    for name, kind in (("a", "exon"), ("b", "CDS")):
        row = f"one\tx\t{kind}\t400\t1250\t.\t+\t0\tParent={name}\n"
        (tmp_path / f"{name}.gff").write_text(row)
        assert main([*words, *work, str(tmp_path / f"{name}.gff")]) == 2
        found = capsys.readouterr().err
        assert ("with another drawn" if name == "b" else "cannot write") in found
    words[words.index(str(broken))] = str(tmp_path / "few.parquet")
    (tmp_path / "c.gff").write_text("one\tx\tCDS\t490\t510\t.\t+\t0\tParent=c\n")
    assert main([*words, "--annotation", str(tmp_path / "c.gff")]) == 0
    assert "fewer than 20 places drawn: " in (found := capsys.readouterr().err)
    assert " in CDS (" in found
    table = pl.read_parquet(tmp_path / "few.parquet")
    assert table["percentile"].is_null().to_list() == [True, False, False, True]
    with pytest.raises(CrossDNAError, match="at least 20"):
        CalibrationSettings(places=19)
