"""FASTA files encoded once into memory-mapped cache files.

One cache file for each FASTA file: one byte a base (id, plus 8 where the letter is
lower case), all contigs in file order, then a JSON footer, its length, its digest and a
mark. The footer has a checksum for each MiB, tested when that MiB is first read, and
the stamp of the FASTA file (size, modification time, digest of its first and last
64 KiB): when any of these differs the cache is built again. It is written beside and
renamed, so that two processes may build at once: they write the same bytes and the last
one stays.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import sys
import zlib
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import numpy as np

from crossdna.data import fasta
from crossdna.errors import CrossDNAError
from crossdna.files import atomic_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

_MARK: Final = b"crossdna genome1"
_TAIL: Final = 8 + 32 + len(_MARK)
_BLOCK: Final = 1 << 20
_ENDS: Final = 1 << 16
_ELSEWHERE: Final = "the variable CROSSDNA_CACHE can name another folder for the cache"


class CachedFasta:
    """One FASTA file and its mapped cache.

    Attributes
    ----------
    source, file : Path
        The FASTA file and its cache.
    contigs : list of (str, int)
        Name and length of each contig, in file order.
    digest : str
        Hex digest of names, bases and lower case.
    """

    def __init__(self, source: Path, file: Path, footer: dict[str, Any]) -> None:
        self.source = source
        self.file = file
        self._adopt(footer)

    @classmethod
    def open(cls, source: Path, folder: Path) -> CachedFasta:
        """Map the cache of `source` in `folder`; build it when missing or outdated."""
        stamp = _stamp(source)
        file = _cache_file(source, folder)
        footer = _read_footer(file)
        if footer is None or footer["stamp"] != stamp:
            footer = _build(source, file, stamp)
        return cls(source, file, footer)

    def _adopt(self, footer: dict[str, Any]) -> None:
        self.contigs = [(name, int(length)) for name, length in footer["contigs"]]
        self.digest = str(footer["digest"])
        total = sum(length for _, length in self.contigs)
        self._codes = np.asarray(np.memmap(self.file, np.uint8, "r", shape=(total,)))
        self._checksums = footer["checksums"]
        self._tested = np.zeros(len(self._checksums), bool)

    def read(self, start: int, end: int) -> NDArray[np.uint8]:
        """Read codes `start` to `end`, counted over all contigs in file order."""
        self._test(np.arange(start // _BLOCK, -(-end // _BLOCK)))
        return self._codes[start:end]

    def gather(self, starts: NDArray[np.int64], length: int) -> NDArray[np.uint8]:
        """Read a (starts, length) array of codes, counted over all contigs."""
        if not starts.size or not length:
            return np.empty((len(starts), length), np.uint8)
        first, last = starts // _BLOCK, (starts + length - 1) // _BLOCK
        reach = np.arange(int((last - first).max()) + 1)
        self._test(np.minimum(first[:, None] + reach, last[:, None]).ravel())
        windows = np.lib.stride_tricks.sliding_window_view(self._codes, length)
        return windows[starts]

    def _test(self, blocks: NDArray[np.integer]) -> None:
        """Compare blocks that are read for the first time with their checksums."""
        if self._tested[blocks].all():
            return
        for block in np.unique(blocks[~self._tested[blocks]]):
            content = self._codes[block * _BLOCK : (block + 1) * _BLOCK]
            if zlib.crc32(content.tobytes()) != self._checksums[block]:
                self._adopt(self._rebuilt())
                return
            self._tested[block] = True

    def _rebuilt(self) -> dict[str, Any]:
        """Build a damaged cache again; the FASTA file must still be the same."""
        footer = _build(self.source, self.file, _stamp(self.source))
        if footer["digest"] != self.digest:
            raise CrossDNAError(
                f"{self.source} changed while it was in use; start again"
            )
        return footer


def default_cache() -> Path:
    """``$CROSSDNA_CACHE``, else ``~/.cache/crossdna``."""
    given = os.environ.get("CROSSDNA_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "crossdna"


def _cache_file(source: Path, folder: Path) -> Path:
    place = hashlib.blake2b(os.fsencode(source.resolve()), digest_size=8).hexdigest()
    return folder / f"{source.name}-{place}.genome"


def _stamp(source: Path) -> dict[str, Any]:
    """Tell cheaply whether a FASTA file is the one that was encoded."""
    with fasta.open_bytes(source) as (_, raw):
        status = os.fstat(raw.fileno())
        raw.seek(0)
        ends = hashlib.blake2b(raw.read(_ENDS), digest_size=16)
        raw.seek(max(0, status.st_size - _ENDS))
        ends.update(raw.read())
    return {
        "size": status.st_size,
        "modified_ns": status.st_mtime_ns,
        "ends": ends.hexdigest(),
    }


def _read_footer(file: Path) -> dict[str, Any] | None:
    """Read the footer; None when there is no cache or it is not whole."""
    try:
        with file.open("rb") as handle:
            size = handle.seek(0, os.SEEK_END)
            if size < _TAIL:
                return None
            handle.seek(size - _TAIL)
            tail = handle.read()
            length = int.from_bytes(tail[:8], "little")
            if tail[40:] != _MARK or length > size - _TAIL:
                return None
            handle.seek(size - _TAIL - length)
            text = handle.read(length)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if hashlib.blake2b(text, digest_size=32).digest() != tail[8:40]:
        return None
    footer = json.loads(text)
    bases = sum(length for _, length in footer["contigs"])
    return footer if bases + length + _TAIL == size else None


def _build(source: Path, file: Path, stamp: dict[str, Any]) -> dict[str, Any]:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CrossDNAError(
            f"cannot create the cache folder {file.parent}: {error.strerror}; "
            f"{_ELSEWHERE}"
        ) from error
    if not os.access(file.parent, os.W_OK):
        raise CrossDNAError(f"cannot write to {file.parent}; {_ELSEWHERE}")
    try:
        with atomic_path(file) as temporary, temporary.open("wb") as output:
            footer = _encode(source, output) | {"stamp": stamp}
            if _stamp(source) != stamp:
                raise CrossDNAError(f"{source} changed while it was read; start again")
            text = json.dumps(footer).encode()
            digest = hashlib.blake2b(text, digest_size=32).digest()
            output.write(text + len(text).to_bytes(8, "little") + digest + _MARK)
    except CrossDNAError as error:
        if isinstance(error.__cause__, OSError):
            raise CrossDNAError(f"{error}; {_ELSEWHERE}") from error
        raise
    return footer


def _encode(source: Path, output: IO[bytes]) -> dict[str, Any]:
    """Write the bases of a FASTA file; gives all of the footer but the stamp."""
    contigs: list[tuple[str, int]] = []
    seen: set[str] = set()
    digest, checksums = hashlib.blake2b(digest_size=16), _Checksums()
    with _progress(source) as progress:
        pieces = fasta.read_pieces(source, progress)
        for (_, name), record in itertools.groupby(pieces, key=lambda p: p[:2]):
            if name in seen:
                raise CrossDNAError(f"{source}: contig {name} is there twice")
            seen.add(name)
            length = 0
            for piece in record:
                output.write(piece.codes)
                digest.update(piece.codes)
                checksums.update(piece.codes)
                length += len(piece.codes)
            contigs.append((name, length))
            digest.update(f">{name} {length}\n".encode())
    return {
        "contigs": contigs,
        "digest": digest.hexdigest(),
        "checksums": checksums.finish(),
    }


class _Checksums:
    """CRC-32 of each block of a stream that comes in pieces of any size."""

    def __init__(self) -> None:
        self._done: list[int] = []
        self._current, self._filled = 0, 0

    def update(self, content: bytes) -> None:
        view = memoryview(content)
        while len(view):
            piece = view[: _BLOCK - self._filled]
            self._current = zlib.crc32(piece, self._current)
            self._filled += len(piece)
            view = view[len(piece) :]
            if self._filled == _BLOCK:
                self._done.append(self._current)
                self._current, self._filled = 0, 0

    def finish(self) -> list[int]:
        return self._done + ([self._current] if self._filled else [])


@contextlib.contextmanager
def _progress(source: Path) -> Iterator[Callable[[int], None] | None]:
    """Show how far a file has been read, on a terminal and from 50 MB only."""
    size = source.stat().st_size
    if size < 50e6 or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("encoding {task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(source.name, total=size)
        yield lambda done: bar.update(task, completed=done)
