"""Writing files so that a killed run leaves either the whole file or none."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from crossdna.errors import CrossDNAError

if TYPE_CHECKING:
    from collections.abc import Iterator

# There is no way to read it but to set it.
_UMASK: Final = os.umask(0)
os.umask(_UMASK)


def split_named(text: str) -> tuple[str | None, Path]:
    """Name and path of ``NAME=FILE``; no name where `text` is a file as it stands."""
    name, equals, rest = text.partition("=")
    if equals and rest and not Path(text).exists():
        return name, Path(rest)
    return None, Path(text)


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path` that becomes `path` on success.

    The temporary file keeps the suffix of `path`, is flushed to the disk and renamed;
    on an error it is removed and `path` is left as it was.

    Raises
    ------
    CrossDNAError
        The folder is missing, read-only or full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.tmp-{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield temporary
        settle(temporary)
        temporary.replace(path)
    except OSError as error:
        _discard(temporary)
        raise CrossDNAError(
            f"cannot write {path}: {error.strerror or error}"
        ) from error
    except BaseException:
        _discard(temporary)
        raise


@contextlib.contextmanager
def atomic_open(path: str | Path, mode: str = "w", **options: Any) -> Iterator[IO[Any]]:
    """Open a file for writing that appears under its name only when it is complete."""
    with atomic_path(path) as temporary, temporary.open(mode, **options) as handle:
        yield handle


@contextlib.contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """Give a temporary directory beside `path` that becomes `path` on success.

    `path` may exist when it is empty. On an error the temporary directory is removed.

    Raises
    ------
    CrossDNAError
        The parent is missing, read-only or full, or `path` holds something.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp-{uuid.uuid4().hex[:8]}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for file in temporary.rglob("*"):
            settle(file)
        temporary.replace(path)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CrossDNAError(
            f"cannot write {path}: {error.strerror or error}"
        ) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _discard(path: Path) -> None:
    # On a read-only file system even this fails, and must not hide the first error.
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def settle(path: Path) -> None:
    """Flush a file or folder to the disk, a file as readable as any new one.

    Some libraries (safetensors) write files that nobody else of a group may read.
    """
    mode, wanted = path.stat().st_mode, 0o666 & ~_UMASK
    if path.is_file() and wanted & ~mode:
        # Some file systems have no modes to set.
        with contextlib.suppress(PermissionError):
            path.chmod(mode | wanted)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def claim_output_directory(path: str | Path, *, resume: bool | None = None) -> Path:
    """Create an output directory, refusing to mix with what another run left there.

    Parameters
    ----------
    resume
        Whether a run there is to go on; None where runs cannot.

    Raises
    ------
    CrossDNAError
        The directory holds files and `resume` is off, or it cannot be created.
    """
    path = Path(path)
    if path.is_dir() and any(path.iterdir()) and not resume:
        advice = "" if resume is None else "continue the run in it with --resume, or "
        raise CrossDNAError(f"{path} is not empty; {advice}choose another directory")
    return create_directory(path)


def create_directory(path: Path) -> Path:
    """Create a directory, with those above it, unless it is there.

    Raises
    ------
    CrossDNAError
        A file is in the way, or the disk is read-only or full.
    """
    if path.exists() and not path.is_dir():
        raise CrossDNAError(f"{path} is a file; give a directory for the output")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CrossDNAError(f"cannot create {path}: {error.strerror}") from error
    return path


def refuse_overwriting(source: str | Path, output: Path) -> None:
    """Raise a `CrossDNAError` where a result would take its input's place.

    The input may be ``CLASS=FILE``.
    """
    _, path = split_named(str(source))
    if output.exists() and output.resolve() == path.resolve():
        raise CrossDNAError(f"{output} is what is read; choose another --output")
