"""What constraints mean, said in another way than the code under test says it."""

import re

from crossdna import alphabet
from crossdna.analysis.generation.constraints import IUPAC_BASES


def meets(sequence, constraints):
    """Whether a sequence meets constraints, by regular expressions on both strands."""
    ids = alphabet.encode(sequence)
    both = sequence, alphabet.decode(alphabet.reverse_complement(ids))

    def shape(letters):
        return "".join(f"[{IUPAC_BASES[letter]}]" for letter in letters)

    def occurs(motif):
        return any(re.search(shape(motif), strand) for strand in both)

    low, high = constraints.gc or (0, 1)
    share = sum(base in "GC" for base in sequence) / len(sequence)
    return (
        re.fullmatch(shape(constraints.template), sequence) is not None
        and low - 1e-9 <= share <= high + 1e-9
        and all(occurs(motif) for motif in constraints.contain)
        and not any(occurs(motif) for motif in constraints.avoid)
    )
