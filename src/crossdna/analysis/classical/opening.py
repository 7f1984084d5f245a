"""Opening a classical model by its name."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from crossdna.analysis.classical.chains import ChainScorer, HiddenChain, VisibleChain
from crossdna.analysis.classical.motifs import Motifs, MotifScorer, split_motif_name
from crossdna.data.genome import Genome
from crossdna.errors import CrossDNAError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from crossdna.alphabet import Strand
    from crossdna.data.variants import Allele, WindowPair

KINDS: Final = ("pwm", "markov", "hmm")
NAMES: Final = "pwm:FILE.meme[:MOTIF], markov:ORDER@GENOME.fa, hmm:STATES@GENOME.fa"


class ClassicalModel(Protocol):
    """Scores alleles by their windows.

    Attributes
    ----------
    scores : dict
        Name of each score to its description.
    fingerprint : str
        32 hex digits that change with anything the scores depend on.
    """

    scores: dict[str, str]
    fingerprint: str

    def differences(
        self, alleles: Sequence[Allele], pairs: Sequence[WindowPair], *, strand: Strand
    ) -> dict[str, NDArray[Any]]:
        """Alternate minus reference (alleles,) for each score.

        Parameters
        ----------
        strand
            What is read, where a score depends on the strand.
        """


def is_classical(name: str) -> bool:
    """Whether a name is that of a classical model, not of a checkpoint."""
    return name.split(":", 1)[0] in KINDS and ":" in name


@functools.lru_cache(maxsize=2)
def open_classical(name: str) -> ClassicalModel:
    """Open ``pwm:...``, or fit ``markov:...`` or ``hmm:...`` to its genome.

    Raises
    ------
    CrossDNAError
        A name that is put together wrongly, a missing file or motif, or a library that
        is not installed.
    """
    kind, rest = name.split(":", 1)
    if kind == "pwm":
        return MotifScorer(Motifs.read(*split_motif_name(rest)))
    size, at, file = rest.partition("@")
    if not at or not file or not size.isdigit():
        raise CrossDNAError(f"{name}: classical models are named {NAMES}")
    genome = Genome.open([Path(file)])
    sequences = (genome.fetch(name, 0, end) for name, end in genome.contigs.items())
    fit = VisibleChain.fit if kind == "markov" else HiddenChain.fit
    text = f"{kind} {size} {genome.fingerprint}"
    digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    return ChainScorer(fit(sequences, int(size)), digest)
