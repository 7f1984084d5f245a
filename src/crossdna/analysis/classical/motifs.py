"""Position weight matrices of transcription factors, scanned by memelite (FIMO)."""

from __future__ import annotations

import gzip
import hashlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from crossdna import alphabet
from crossdna.errors import CrossDNAError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from crossdna.alphabet import Strand
    from crossdna.data.variants import Allele, WindowPair

# A stretch this likely by chance is no site: its score counts as 0.
_THRESHOLD: Final = 0.05
_FEATURE_THRESHOLD: Final = 1e-3
_BASES_AT_ONCE: Final = 1 << 20
_SUFFIXES: Final = (".meme", ".meme.gz")


def split_motif_name(text: str) -> tuple[Path, str | None]:
    """Take ``FILE.meme`` or ``FILE.meme:MOTIF`` apart.

    Raises
    ------
    CrossDNAError
        No MEME file in it.
    """
    for suffix in reversed(_SUFFIXES):
        file, found, motif = text.partition(suffix)
        if found and (not motif or motif.startswith(":")):
            return Path(file + found), motif.removeprefix(":") or None
    raise CrossDNAError(
        f"pwm:{text}: write pwm:FILE.meme or pwm:FILE.meme:MOTIF (.meme or .meme.gz)"
    )


class Motifs(NamedTuple):
    """Matrices of probabilities.

    Attributes
    ----------
    matrices : dict
        Name to (4, width), in the file's order.
    fingerprint : str
        Of names and numbers.
    """

    matrices: dict[str, NDArray[np.float64]]
    fingerprint: str

    @classmethod
    def read(cls, path: Path, motif: str | None = None) -> Motifs:
        """Read a MEME file, all of it or one motif by its name or identifier.

        Raises
        ------
        CrossDNAError
            No such file or motif, no motif at all, or memelite is not installed.
        """
        found = _read_meme(path)
        if not found:
            raise CrossDNAError(f"{path}: no motif in it; is it a MEME file?")
        if motif is not None:
            found = {
                name: matrix
                for name, matrix in found.items()
                if motif in (name, *name.split())
            }
            if not found:
                raise CrossDNAError(f"{path}: no motif {motif!r} in it")
        digest = hashlib.blake2b(digest_size=16)
        for name, matrix in found.items():
            digest.update(name.encode() + matrix.tobytes())
        return cls(found, digest.hexdigest())

    @property
    def widest(self) -> int:
        """Bases of the widest motif."""
        return max(matrix.shape[1] for matrix in self.matrices.values())


class Sites(NamedTuple):
    """The best site of each motif in each sequence, on either strand.

    Attributes
    ----------
    scores : (sequences, motifs)
        Log-odds in bits; 0 where there is no site.
    starts : (sequences, motifs) int64
        0-based, forward strand; -1 where there is no site.
    """

    scores: NDArray[np.float64]
    starts: NDArray[np.int64]


def best_sites(
    motifs: Motifs,
    sequences: Sequence[NDArray[np.uint8]],
    *,
    threshold: float = _FEATURE_THRESHOLD,
    spans: Sequence[tuple[int, int]] | None = None,
) -> Sites:
    """Find the best site of each motif in each sequence.

    Parameters
    ----------
    threshold
        Stretches that fit as well with a higher probability by chance are no sites.
    spans
        Only sites that overlap these 0-based half-open intervals, or span an empty one.
    """
    from memelite import fimo

    shape = len(sequences), len(motifs.matrices)
    best = Sites(np.zeros(shape), np.full(shape, -1))
    longest = max(max(map(len, sequences)), motifs.widest)
    step = max(1, _BASES_AT_ONCE // longest)
    for first in range(0, len(sequences), step):
        batch = sequences[first : first + step]
        one_hot = np.zeros((len(batch), alphabet.NUM_BASES, longest), np.int8)
        for row, ids in enumerate(batch):
            known = np.flatnonzero(ids < alphabet.NUM_BASES)
            one_hot[row, ids[known], known] = 1
        hits = fimo(motifs.matrices, one_hot, threshold=threshold)
        for number, table in enumerate(hits):
            rows = table["sequence_name"].to_numpy().astype(np.int64) + first
            starts, ends = table["start"].to_numpy(), table["end"].to_numpy()
            scores = table["score"].to_numpy().astype(np.float64)
            kept = scores > 0
            if spans is not None:
                low, high = np.array(spans).reshape(-1, 2)[rows].T
                empty = low == high
                kept &= (starts < np.where(empty, low, high)) & (ends > low)
            # The last of several hits in a row stays: the best, of equals the first.
            order = np.lexsort((-starts, scores))
            order = order[kept[order]]
            best.scores[rows[order], number] = scores[order]
            best.starts[rows[order], number] = starts[order]
    return best


class MotifScorer:
    """Scores alleles by the sites that they make or break; see `opening`."""

    def __init__(self, motifs: Motifs) -> None:
        self.motifs, self.fingerprint = motifs, motifs.fingerprint
        site = (
            "log-odds in bits of the best site over the variant (memelite, either "
            f"strand, 0 where nothing fits with p < {_THRESHOLD:g}), alternate minus "
            "reference"
        )
        if len(motifs.matrices) == 1:
            (name,) = motifs.matrices
            self.scores = {"site": f"Motif {name}: {site}"}
            return
        number = "its number in the file, the first is 1"
        self.scores = {
            "site_gain": f"Of {len(motifs.matrices)} motifs the largest rise: {site}",
            "site_gain_motif": f"The motif of the largest rise: {number}",
            "site_loss": f"Of {len(motifs.matrices)} motifs the largest fall: {site}",
            "site_loss_motif": f"The motif of the largest fall: {number}",
        }

    def differences(
        self, alleles: Sequence[Allele], pairs: Sequence[WindowPair], *, strand: Strand
    ) -> dict[str, NDArray[np.float64]]:
        """Alternate minus reference, over sites that touch the allele."""
        if not pairs:
            return {name: np.zeros(0) for name in self.scores}
        free = [_free(*both) for both in zip(alleles, pairs, strict=True)]
        change = self._best(alleles, pairs, free, alternate=True)
        change -= self._best(alleles, pairs, free, alternate=False)
        if change.shape[1] == 1:
            return {"site": change[:, 0]}
        rise, fall = change.max(1), change.min(1)
        return {
            "site_gain": rise,
            "site_gain_motif": np.where(rise > 0, change.argmax(1) + 1.0, np.nan),
            "site_loss": fall,
            "site_loss_motif": np.where(fall < 0, change.argmin(1) + 1.0, np.nan),
        }

    def _best(
        self,
        alleles: Sequence[Allele],
        pairs: Sequence[WindowPair],
        free: Sequence[int],
        *,
        alternate: bool,
    ) -> NDArray[np.float64]:
        reach = self.motifs.widest - 1
        pieces, spans = [], []
        for allele, pair, more in zip(alleles, pairs, free, strict=True):
            window = pair.alternate if alternate else pair.reference
            size = len(allele.alternate if alternate else allele.reference)
            # Windows at the end of a contig may start at different places.
            at = int((window.loci < allele.position).sum())
            size += more
            start = max(0, at - reach)
            pieces.append(window.ids[start : at + size + reach])
            spans.append((at - start, at - start + size))
        return best_sites(self.motifs, pieces, threshold=_THRESHOLD, spans=spans).scores


def _free(allele: Allele, pair: WindowPair) -> int:
    """How far right an insertion or deletion could as well stand.

    In a repeat nobody can tell which copy was inserted or is gone: a site that is there
    before and after, a copy further on, is no change.
    """
    if allele.reference and allele.alternate:
        return 0
    window = pair.reference if allele.reference else pair.alternate
    moved = len(allele.reference or allele.alternate)
    ids = window.ids[int((window.loci < allele.position).sum()) :]
    same = ids[:-moved] == ids[moved:]
    return len(same) if same.all() else int(same.argmin())


def _read_meme(path: Path) -> dict[str, Any]:
    try:
        from memelite.io import read_meme
    except ImportError:
        raise CrossDNAError(
            "position weight matrices need memelite: pip install 'crossdna[classical]'"
        ) from None
    try:
        if path.suffix != ".gz":
            return read_meme(str(path))
        with tempfile.NamedTemporaryFile(suffix=".meme") as plain:
            plain.write(gzip.decompress(path.read_bytes()))
            plain.flush()
            return read_meme(plain.name)
    except (OSError, ValueError, AttributeError, IndexError, EOFError) as error:
        raise CrossDNAError(f"{path}: cannot be read as MEME: {error}") from None
