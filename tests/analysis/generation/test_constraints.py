"""The plan knows exactly which sequences meet all constraints."""

import itertools

import numpy as np
import pytest
from tests.brute_force import meets

from crossdna import alphabet
from crossdna.analysis.generation.constraints import Constraints, Plan
from crossdna.analysis.generation.sampling import Truncation, draw_sequence
from crossdna.errors import CrossDNAError

CASES = [
    Constraints(template="NNNNNN"),
    Constraints(template="NNANRNN", gc=(0.4, 0.6)),
    Constraints(
        template="NNANRNNN", gc=(0.4, 0.6), contain=("TGA",), avoid=("GC", "AAWT")
    ),
    Constraints(template="NNNNNNNN", contain=("ATG", "TAR")),
    Constraints(template="NNNNNNN", contain=("AAAA",), avoid=("TTTTT", "ANA")),
    Constraints(template="NNCNNNN", avoid=("NNCNN", "GG")),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_possible_is_what_brute_force_finds(case):
    plan = Plan(case)
    words = np.arange(4)[:, None]
    every = [
        "".join(letters)
        for letters in itertools.product("ACGT", repeat=len(case.template))
    ]
    wanted = {sequence for sequence in every if meets(sequence, case)}
    found = set()
    ways = [("", 0, 0)] if plan.reach[0, 0, 0] else []
    while ways:
        begun, state, count = ways.pop()
        if len(begun) == plan.length:
            found.add(begun)
            continue
        open_ = plan.lead_on(words, len(begun), state, count)
        # No dead end: from every state that is reached something leads on.
        assert open_.any()
        ways += [
            (begun + "ACGT"[base], *plan.after(words[base], state, count))
            for base in np.flatnonzero(open_)
        ]
    assert found == wanted


def test_longer_words_lead_on_as_their_bases_do(rng):
    plan = Plan(CASES[2])
    words = np.array([[0, 1, -1], [3, 2, 0], [2, -1, -1], [0, 0, 0]])
    for word, open_ in zip(words, plan.lead_on(words, 0, 0, 0), strict=True):
        begun = "".join("ACGT"[base] for base in word if base >= 0)
        rest = len(CASES[2].template) - len(begun)
        ends = ("".join(e) for e in itertools.product("ACGT", repeat=rest))
        assert open_ == any(meets(begun + end, CASES[2]) for end in ends)


def test_draws_follow_the_weights_given_the_constraints(rng):
    case = CASES[2]
    plan, weights = Plan(case), rng.random((8, 4))
    valid = [
        "".join(letters)
        for letters in itertools.product("ACGT", repeat=8)
        if meets("".join(letters), case)
    ]
    exact = np.array(
        [np.prod([weights[i, "ACGT".index(b)] for i, b in enumerate(s)]) for s in valid]
    )
    draws = 4000
    seen = [alphabet.decode(draw_sequence(plan, weights, rng)) for _ in range(draws)]
    assert set(seen) <= set(valid)
    counts = np.array([seen.count(sequence) for sequence in valid])
    expected = draws * exact / exact.sum()
    distance = ((counts - expected) ** 2 / expected).sum()
    # Chi-squared with 313 degrees of freedom: mean 313, deviation 25.
    assert distance < 313 + 5 * 25


def test_constraints_outrank_the_smallest_probabilities(rng):
    case = Constraints(template="N" * 400, gc=(1, 1), avoid=("CCC",))
    weights = np.tile([1.0, 1e-300, 1e-300, 1.0], (400, 1))
    drawn = alphabet.decode(draw_sequence(Plan(case), weights, rng))
    assert meets(drawn, case)


def test_the_other_strand(rng):
    case = CASES[2]
    plan = Plan(case.reverse_complement())
    for _ in range(50):
        ids = draw_sequence(plan, np.ones((8, 4)), rng)
        assert meets(alphabet.decode(alphabet.reverse_complement(ids)), case)


def test_motifs_get_a_place_of_their_own(rng):
    case = Constraints(template="N" * 60, contain=("TATAWAW", "GAATTC"))
    plan = Plan(case)
    templates = {plan.place_motifs(rng).constraints.template for _ in range(20)}
    assert len(templates) == 20
    assert all(60 - template.count("N") >= 7 for template in templates)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ({"template": "AAAA", "gc": (0.5, 1)}, "it would go without gc"),
        ({"template": "NNN", "contain": ("ACGT",)}, "would go without contain"),
        ({"template": "NGAATTCN", "avoid": ("GAATTC",)}, "would go without avoid"),
        (
            {"template": "NNNN", "contain": ("GAAT",), "avoid": ("AAT",)},
            "without contain or without avoid",
        ),
        ({"template": "NNN", "gc": (0.4, 0.6)}, "no number of G and C in 3 bases"),
        ({"template": "NNN", "gc": (0.6, 0.4)}, "the smaller one first"),
        ({"template": "NXN"}, "'X' at position 2"),
        ({"template": ""}, "template is empty"),
        ({"template": "NN", "avoid": ("",)}, "empty"),
        ({"template": "N" * 60_000, "gc": (0.4, 0.5)}, "table of"),
        ({"template": "NN", "avoid": ("NNNNNNNNNNNNNNNNNA", "RRRRRRRRYRRRRRR",
                                      "ANNNNNNNNNNNNNNC")}, "too many ways"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(case, message):
    with pytest.raises(CrossDNAError, match=message):
        Plan(Constraints(**case)).require_possible()


def test_truncation():
    logs = np.log([[0.5, 0.3, 0.15, 0.05]])
    assert (Truncation(top_k=2).weights(logs)[0] > 1e-9).tolist() == [1, 1, 0, 0]
    assert (Truncation(top_p=0.6).weights(logs)[0] > 1e-9).tolist() == [1, 1, 0, 0]
    assert (Truncation(top_p=0.5).weights(logs)[0] > 1e-9).tolist() == [1, 0, 0, 0]
    sharp = Truncation(temperature=0.5).weights(logs)[0]
    assert sharp[0] / sharp[1] == pytest.approx((0.5 / 0.3) ** 2)
    np.testing.assert_allclose(Truncation().weights(logs)[0].sum(), 1)
    for wrong in ({"temperature": 0}, {"top_k": -1}, {"top_p": 0}, {"top_p": 1.1}):
        with pytest.raises(CrossDNAError):
            Truncation(**wrong)
