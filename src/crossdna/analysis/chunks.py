"""Long work cut into chunks: spread over processes, saved as they finish, resumed.

What a chunk gives depends on the chunk alone. A run that was killed and started again
therefore ends with the bytes of a run that was not, whatever the number of workers.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import shutil
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from zipfile import BadZipFile

import numpy as np

from crossdna.errors import CrossDNAError
from crossdna.files import atomic_open, atomic_path, create_directory
from crossdna.memory import keep_freed_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

Arrays = dict[str, "NDArray[Any]"]

_SETTINGS = "run.json"


class Job(Protocol):
    """What a worker does; sent to other processes, so a frozen dataclass."""

    def open(self, device: str) -> Callable[[Any], Arrays]:
        """Load what is needed; gives the function that turns a payload into results."""


class ChunkStore:
    """A folder with the results of the chunks that are done.

    Parameters
    ----------
    folder
        Created when missing or empty, taken over from another run that finished no
        chunk; removed by `remove`.
    settings
        Everything that the results depend on, as JSON can hold it.

    Raises
    ------
    CrossDNAError
        The folder holds chunks of a run with other settings or anything else, or
        cannot be written.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = create_directory(folder)
        self.settings = json.loads(json.dumps(settings))
        file = folder / _SETTINGS
        if not file.exists() and any(folder.iterdir()):
            # It is removed in the end.
            raise CrossDNAError(
                f"{folder} holds something else; the folder for unfinished work must "
                "be new or empty"
            )
        found = self._found()
        different = self._different(found)
        # A run of the same kind that failed before its first chunk is in nobody's way.
        same_kind = not found or found.keys() == self.settings.keys()
        if different and same_kind and not any(p != file for p in folder.iterdir()):
            with atomic_open(file) as handle:
                json.dump(self.settings, handle, indent=2)
        elif different:
            key = different[0]
            raise CrossDNAError(
                f"{folder} holds an unfinished run with another {key} "
                f"({found.get(key)!r}, now {self.settings.get(key)!r}); "
                "finish that run, or remove the folder to start anew"
            )

    def is_done(self, index: int) -> bool:
        """Whether chunk `index` has been saved."""
        return self._file(index).exists()

    def save(self, index: int, arrays: Arrays) -> None:
        """Keep the results of a chunk.

        Raises
        ------
        CrossDNAError
            Another run has taken the folder over.
        """
        if self._different(self._found()):
            raise CrossDNAError(
                f"{self.folder} was taken over by another run; let runs at the same "
                "time write to different places"
            )
        with atomic_path(self._file(index)) as temporary:
            savez: Any = np.savez
            savez(temporary, **arrays)

    def load(self, index: int) -> Arrays:
        """Read the results of a chunk.

        Raises
        ------
        CrossDNAError
            Its file is damaged.
        """
        file = self._file(index)
        try:
            with file.open("rb") as handle, np.load(handle) as arrays:
                return dict(arrays)
        except (BadZipFile, ValueError, EOFError) as error:
            raise CrossDNAError(
                f"{file} is damaged ({error}); remove it, or the whole folder to start "
                "anew"
            ) from error

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _found(self) -> dict[str, Any]:
        """Settings of the run in the folder; empty where there is none."""
        file = self.folder / _SETTINGS
        try:
            found: dict[str, Any] = json.loads(file.read_text())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise CrossDNAError(
                f"{file} is damaged ({error}); remove {self.folder} to start anew"
            ) from error
        return found

    def _different(self, found: Mapping[str, Any]) -> list[str]:
        """Settings in which the run in the folder differs from this one."""
        return [
            key
            for key in sorted(self.settings.keys() | found.keys())
            if self.settings.get(key) != found.get(key)
        ]

    def _file(self, index: int) -> Path:
        return self.folder / f"{index:08d}.npz"


def run_chunks(
    job: Job,
    payloads: Iterable[tuple[int, Any]],
    store: ChunkStore,
    *,
    devices: Sequence[str],
    done: Callable[[int], None] = lambda index: None,
) -> None:
    """Work on all chunks that are not in the store yet.

    Parameters
    ----------
    payloads
        Number and content of each chunk; read as needed.
    devices
        Where each worker computes. A single worker is this process.
    done
        Called with the number of each chunk, also of those found in the store.

    Raises
    ------
    CrossDNAError
        From the job; a worker that died.
    """
    waiting = _missing(payloads, store, done)
    if len(devices) == 1:
        work = job.open(devices[0])
        for index, payload in waiting:
            store.save(index, work(payload))
            done(index)
        return
    context = multiprocessing.get_context("spawn")
    threads = max(1, (os.cpu_count() or 1) // len(devices))
    pools = [
        ProcessPoolExecutor(1, context, _start_worker, (threads,)) for _ in devices
    ]
    try:
        _distribute(job, waiting, store, list(zip(pools, devices, strict=True)), done)
    except BrokenProcessPool as error:
        raise CrossDNAError(
            "a worker died, probably for want of memory; what is finished is kept: "
            "start again with fewer workers or a smaller batch"
        ) from error
    finally:
        for pool in pools:
            pool.shutdown(wait=True, cancel_futures=True)


def _missing(
    payloads: Iterable[tuple[int, Any]],
    store: ChunkStore,
    done: Callable[[int], None],
) -> Iterator[tuple[int, Any]]:
    for index, payload in payloads:
        if store.is_done(index):
            done(index)
        else:
            yield index, payload


def _distribute(
    job: Job,
    waiting: Iterator[tuple[int, Any]],
    store: ChunkStore,
    free: list[tuple[ProcessPoolExecutor, str]],
    done: Callable[[int], None],
) -> None:
    """Keep one chunk running in each pool."""
    running: dict[Future[Arrays], tuple[int, tuple[ProcessPoolExecutor, str]]] = {}
    more = True
    while running or more:
        while free and more:
            chunk = next(waiting, None)
            if chunk is None:
                more = False
                break
            pool, device = free.pop()
            future = pool.submit(_work, job, device, chunk[1])
            running[future] = chunk[0], (pool, device)
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            index, place = running.pop(future)
            store.save(index, future.result())
            free.append(place)
            done(index)


@functools.cache
def _opened(job: Job, device: str) -> Callable[[Any], Arrays]:
    return job.open(device)


def _work(job: Job, device: str, payload: Any) -> Arrays:
    opened: Any = _opened
    return opened(job, device)(payload)


def _start_worker(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    keep_freed_memory()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def worker_devices(device: str, workers: int) -> list[str]:
    """Spread workers over devices: one GPU each, or all on the CPU.

    Raises
    ------
    CrossDNAError
        Fewer GPUs than workers, or a device that cannot be used.
    """
    import torch

    from crossdna.analysis.inference import pick_device

    if workers < 1:
        raise CrossDNAError(f"--workers must be at least 1, got {workers}")
    chosen = pick_device(device)
    if chosen.type != "cuda" or workers == 1:
        return [str(chosen)] * workers
    if workers > torch.cuda.device_count():
        raise CrossDNAError(
            f"{workers} workers need {workers} GPUs, but there are "
            f"{torch.cuda.device_count()}"
        )
    return [f"cuda:{number}" for number in range(workers)]
