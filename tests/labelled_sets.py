"""Small labelled sets with something to learn, for tests."""

import numpy as np

from crossdna import alphabet

MOTIF = alphabet.encode("TGACTCA")


def rows_with_motif(rng, count=120, length=40, *, fixed=False):
    """Random sequences; every other one holds the motif on a random strand.

    With `fixed` the motif always stands at position 10, on the forward strand.
    """
    rows = []
    for number in range(count):
        ids = rng.integers(0, 4, length).astype(np.uint8)
        place = 10 if fixed else int(rng.integers(0, length - len(MOTIF)))
        if number % 2:
            ids[place : place + len(MOTIF)] = MOTIF
            if not fixed and rng.random() < 0.5:
                ids = alphabet.reverse_complement(ids)
        rows.append((alphabet.decode(ids), number % 2))
    return rows


def write_csv(path, header, rows):
    """A CSV file from rows of anything."""
    lines = [",".join(header), *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path
