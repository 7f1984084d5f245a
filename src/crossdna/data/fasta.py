"""Reading FASTA as a stream of encoded pieces, whatever the size of the file."""

from __future__ import annotations

import codecs
import contextlib
import gzip
import os
import zlib
from typing import IO, TYPE_CHECKING, Final, NamedTuple

import numpy as np

from crossdna import alphabet
from crossdna.errors import CrossDNAError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

SOFT_MASK: Final = 8
"""Bit that is set beside the id of a lower-case base."""
ID_BITS: Final = np.uint8(7)
"""Mask that leaves the id."""

_CHUNK: Final = 1 << 22
_GZIP_MAGIC: Final = b"\x1f\x8b"
# The empty block that ends every BGZF file (SAM specification, section 4.1.2).
_BGZF_END: Final = bytes.fromhex(
    "1f8b08040000000000ff0600424302001b0003000000000000000000"
)
_ILLEGAL: Final = 255
_MAX_HEADER: Final = 1 << 20


class Piece(NamedTuple):
    """A stretch of one record, encoded; the pieces of a record follow each other."""

    record: int
    """Number of the record in the file, from 0."""
    contig: str
    codes: bytes
    """One byte a base: its id, plus `SOFT_MASK` where the letter is lower case."""


def _code_table() -> bytes:
    table = np.full(256, _ILLEGAL, np.uint8)
    for letter in alphabet.LETTERS + alphabet.IUPAC + "U":
        code = alphabet.encode(letter)[0]
        table[ord(letter)] = code
        table[ord(letter.lower())] = code | SOFT_MASK
    return table.tobytes()


_CODES: Final = _code_table()


def read_pieces(
    path: Path, progress: Callable[[int], None] | None = None
) -> Iterator[Piece]:
    """Read a FASTA file, plain, gzip or BGZF, without holding more than a few MB.

    Parameters
    ----------
    path
        Compression is told from the content, not from the name.
    progress
        Called with the number of bytes of the file read so far.

    Raises
    ------
    CrossDNAError
        No such file, a folder, truncated or damaged gzip, no records, a record without
        bases, a letter that stands for no base (with line and record).
    """
    with open_bytes(path) as (stream, raw):

        def chunks() -> Iterator[bytes]:
            for chunk in _chunks(stream, path):
                if progress:
                    progress(raw.tell())
                yield chunk

        yield from _parse(chunks(), path)


@contextlib.contextmanager
def open_bytes(path: Path) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Open a plain or gzip-compressed file; gives the content and the file under it."""
    if path.is_dir():
        raise CrossDNAError(f"{path} is a folder; give the file itself")
    try:
        raw = path.open("rb")
    except FileNotFoundError:
        raise CrossDNAError(f"{path}: no such file") from None
    except OSError as error:
        raise CrossDNAError(f"{path}: cannot be read: {error.strerror}") from None
    with raw:
        if not raw.seekable():
            raise CrossDNAError(
                f"{path} is a pipe, which can be read only once; write it to a file "
                "and give that"
            )
        head = raw.read(18)
        if head[:2] != _GZIP_MAGIC:
            raw.seek(0)
            yield raw, raw
            return
        if head[3:4] == b"\x04" and head[12:14] == b"BC":
            _require_bgzf_end(raw, path)
        raw.seek(0)
        with gzip.GzipFile(fileobj=raw) as stream:
            yield stream, raw  # type: ignore[misc]


def open_lines(path: Path) -> Iterator[str]:
    """Read the lines of a text file, plain, gzip or BGZF.

    Raises
    ------
    CrossDNAError
        No such file, a folder, truncated or damaged gzip, not text.
    """
    rest = b""
    with open_bytes(path) as (stream, _):
        for chunk in _chunks(stream, path):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from _decoded(lines, path)
        yield from _decoded([rest] if rest else [], path)


def _decoded(lines: list[bytes], path: Path) -> Iterator[str]:
    try:
        yield from (line.decode() for line in lines)
    except UnicodeDecodeError:
        raise CrossDNAError(f"{path}: not a text file in UTF-8") from None


def _require_bgzf_end(raw: IO[bytes], path: Path) -> None:
    """A BGZF file cut between two blocks is whole for gzip: only this mark tells."""
    size = raw.seek(0, os.SEEK_END)
    raw.seek(max(0, size - len(_BGZF_END)))
    if raw.read() != _BGZF_END:
        raise CrossDNAError(
            f"{path}: BGZF without its end-of-file block: truncated; copy it again"
        )


def _chunks(stream: IO[bytes], path: Path) -> Iterator[bytes]:
    """Read a text file, without the mark that some editors put in front."""
    chunk = _read(stream, path).removeprefix(codecs.BOM_UTF8)
    while chunk:
        yield chunk
        chunk = _read(stream, path)


def _read(stream: IO[bytes], path: Path) -> bytes:
    try:
        return stream.read(_CHUNK)
    except EOFError:
        raise CrossDNAError(f"{path}: truncated gzip file; copy it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise CrossDNAError(f"{path}: damaged gzip file: {error}") from None
    except OSError as error:
        raise CrossDNAError(f"{path}: cannot be read: {error.strerror}") from None


def _parse(chunks: Iterable[bytes], path: Path) -> Iterator[Piece]:
    name, record, bases, line = "", -1, 0, 1
    header: bytes | None = None
    line_start = True
    for chunk in chunks:
        at = 0
        while at < len(chunk):
            if header is not None:
                end = chunk.find(b"\n", at)
                header += chunk[at : end if end >= 0 else None]
                if len(header) > _MAX_HEADER:
                    raise CrossDNAError(f"{path}:{line}: header longer than 1 MiB")
                if end < 0:
                    break
                name, record, bases = _contig_name(header, path, line), record + 1, 0
                header, line_start, at, line = None, True, end + 1, line + 1
            elif line_start and chunk.startswith(b">", at):
                _require_bases(name, bases, path, line)
                header, at = b"", at + 1
            else:
                end = chunk.find(b"\n>", at) + 1 or len(chunk)
                text = chunk[at:end]
                codes = text.translate(_CODES, b"\r\n")
                if not name and text.strip():
                    raise CrossDNAError(_not_fasta(path, line, text))
                if _ILLEGAL in codes:
                    raise CrossDNAError(_illegal(path, line, name, bases, text))
                if codes:
                    yield Piece(record, name, codes)
                bases += len(codes)
                line_start, at = text.endswith(b"\n"), end
                line += text.count(b"\n")
    if header is not None:
        name, bases = _contig_name(header, path, line), 0
    if not name:
        raise CrossDNAError(f"{path}: no records; a FASTA file has lines like >chr1")
    _require_bases(name, bases, path, line)


def _contig_name(header: bytes, path: Path, line: int) -> str:
    words = header.decode("utf-8", "replace").split(maxsplit=1)
    if not words or header[:1].isspace():
        raise CrossDNAError(f"{path}:{line}: record without a name after >")
    return words[0]


def _require_bases(name: str, bases: int, path: Path, line: int) -> None:
    if name and not bases:
        raise CrossDNAError(f"{path}:{line}: record {name} has no bases")


def _not_fasta(path: Path, line: int, text: bytes) -> str:
    content = text.lstrip()
    line += text[: -len(content)].count(b"\n")
    first = content[:1].decode("latin-1")
    kind = " (FASTQ?)" if first == "@" else ""
    return (
        f"{path}:{line}: not a FASTA file: expected a line that starts with >, "
        f"found {first!r}{kind}"
    )


def _illegal(path: Path, line: int, name: str, bases: int, text: bytes) -> str:
    raw = np.frombuffer(text, np.uint8)
    ends = (raw == ord("\n")) | (raw == ord("\r"))
    codes = np.frombuffer(_CODES, np.uint8)[raw]
    at = int(((codes == _ILLEGAL) & ~ends).argmax())
    position = bases + int((~ends[:at]).sum()) + 1
    letter = chr(text[at])
    protein = letter.upper() in "EFILPQZXJO*"
    line += text[:at].count(b"\n")
    return (
        f"{path}:{line}: record {name}: {letter!r} at base {position} is not a DNA base"
        + ("; is this a protein file?" if protein else "")
    )
