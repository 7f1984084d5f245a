"""Bases, ids and complements: the only module that knows an id.

Ids are ``A 0, C 1, G 2, T 3, N 4, [MASK] 5, [PAD] 6``; the one-hot order is A C G T.
Lower case means a repeat in genome files and is read as the same base. IUPAC ambiguity
letters (and U, read as T) become N. Anything else is an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

import numpy as np

from crossdna.errors import CrossDNAError

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from numpy.typing import NDArray

A, C, G, T, N, MASK, PAD = range(7)
BASES: Final = "ACGT"
LETTERS: Final = "ACGTN"
TOKENS: Final = ("A", "C", "G", "T", "N", "[MASK]", "[PAD]")
VOCAB_SIZE: Final = len(TOKENS)
NUM_BASES: Final = 4
COMPLEMENT: Final = (T, G, C, A, N, MASK, PAD)
IUPAC: Final = "RYSWKMBDHV"
Strand = Literal["+", "-", "both"]
"""What is read: a sequence, its reverse complement, or both to be averaged."""
STRANDS: Final[tuple[Strand, ...]] = ("+", "-", "both")
_ILLEGAL: Final = 255
_T = TypeVar("_T")


def require_strand(strand: str) -> None:
    """Refuse anything but a `Strand`.

    Raises
    ------
    CrossDNAError
        It is none.
    """
    if strand not in STRANDS:
        raise CrossDNAError(f"strand is +, - or both, got {strand!r}")


def of_strand(strand: Strand, ahead: Callable[[], _T], back: Callable[[], _T]) -> _T:
    """What a sequence gives, what its reverse complement does, or the mean of both.

    Only what is wanted is asked for.

    Raises
    ------
    CrossDNAError
        No such strand.
    """
    require_strand(strand)
    if strand == "+":
        return ahead()
    if strand == "-":
        return back()
    both: Any = (ahead(), back())
    mean: _T = (both[0] + both[1]) / 2
    return mean


def _encoding_table() -> NDArray[np.uint8]:
    table = np.full(256, _ILLEGAL, np.uint8)
    for letters, ids in (
        (LETTERS, range(5)),
        ("U", [T]),
        (IUPAC, [N] * len(IUPAC)),
    ):
        for letter, base in zip(letters, ids, strict=True):
            table[ord(letter)] = table[ord(letter.lower())] = base
    return table


_ENCODE = _encoding_table()
_DECODE = np.frombuffer(b"ACGTNN-", np.uint8)
_COMPLEMENT = np.array(COMPLEMENT, np.uint8)


def encode(sequence: str | bytes, *, name: str = "sequence") -> NDArray[np.uint8]:
    """Turn letters into ids.

    Parameters
    ----------
    sequence
        Letters A C G T U N or IUPAC ambiguity letters, any case.
    name
        What to call the sequence in an error.

    Returns
    -------
    ids : (length,) uint8

    Raises
    ------
    CrossDNAError
        A character that stands for no base; names it and its 1-based position.
    """
    raw = sequence if isinstance(sequence, bytes) else _to_bytes(sequence, name)
    ids = _ENCODE[np.frombuffer(raw, np.uint8)]
    illegal = ids == _ILLEGAL
    if illegal.any():
        position = int(illegal.argmax())
        raise CrossDNAError(_illegal_message(chr(raw[position]), position, name))
    return ids


def _to_bytes(sequence: str, name: str) -> bytes:
    try:
        return sequence.encode("ascii")
    except UnicodeEncodeError as error:
        message = _illegal_message(sequence[error.start], error.start, name)
        raise CrossDNAError(message) from None


def _illegal_message(character: str, position: int, name: str) -> str:
    return (
        f"{name}: character {character!r} at position {position + 1} is not a DNA base "
        "(A C G T N and IUPAC ambiguity letters are)"
    )


def decode(ids: NDArray[np.integer]) -> str:
    """Turn ids into upper-case letters; [MASK] reads N and [PAD] reads ``-``."""
    return _DECODE[np.asarray(ids)].tobytes().decode("ascii")


def reverse_complement(ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Reverse complement along the last axis; N, [MASK] and [PAD] stay themselves."""
    return _COMPLEMENT[ids][..., ::-1].copy()


def complement_ids(ids: torch.Tensor) -> torch.Tensor:
    """Complement a tensor of ids without moving it off its device.

    Parameters
    ----------
    ids : any shape, integer
    """
    # 3 - id for the bases; arithmetic, so that no table has to follow the device.
    return (3 - ids).where(ids < NUM_BASES, ids)
