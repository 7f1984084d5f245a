"""Representations of sequences, per sequence or per base, in bounded memory."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from crossdna.analysis.chunks import ChunkStore, run_chunks
from crossdna.analysis.inference import FLOAT32, Execution, embeddings, load_model
from crossdna.errors import CrossDNAError
from crossdna.files import atomic_directory, atomic_path
from crossdna.models.batched import length_batches, pad_batch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from crossdna.alphabet import Strand
    from crossdna.analysis.chunks import Arrays
    from crossdna.analysis.inference import Layer
    from crossdna.data.sequence_tables import SequenceTable

Pool = Literal["mean", "max", "none"]
SUFFIXES: Final = (".parquet", ".npz", ".zarr")
VECTORS: Final = "embeddings"
OFFSETS: Final = "offsets"
"""Where each sequence's bases begin among all bases, and where the last ends."""


@dataclass(frozen=True, kw_only=True)
class EmbedJob:
    """Embeds chunks of sequences; see `crossdna.analysis.chunks.Job`."""

    model: str
    layer: Layer = -1
    """Index into the hidden states, -1 is the last; ``"all"``: side by side."""
    pool: Pool = "mean"
    """Over the bases of a sequence; none: a vector per base."""
    strand: Strand = "both"
    bases_per_batch: int = 1 << 15
    trust_remote_code: bool = False
    execution: Execution = FLOAT32

    def open(self, device: str) -> Callable[[Any], Arrays]:
        """Load the model for this process."""
        model = load_model(
            self.model,
            "embedding",
            device,
            trust_remote_code=self.trust_remote_code,
            execution=self.execution,
        )

        def work(sequences: Sequence[NDArray[np.uint8]]) -> Arrays:
            return {"vectors": embed_sequences(model, sequences, self)}

        return work


def embed_sequences(
    model: PreTrainedModel, sequences: Sequence[NDArray[np.uint8]], job: EmbedJob
) -> NDArray[np.float32]:
    """Vectors of sequences.

    Returns
    -------
    (sequences, channels), or without pooling (bases of all sequences, channels)
    """
    device = next(model.parameters()).device
    results: list[NDArray] = [np.empty(0)] * len(sequences)
    lengths = [len(ids) for ids in sequences]
    for rows in length_batches(lengths, job.bases_per_batch):
        batch = pad_batch([sequences[row] for row in rows], device)
        hidden = embeddings(
            model,
            batch.input_ids,
            batch.attention_mask,
            layer=job.layer,
            strand=job.strand,
        )
        for row, vectors in zip(rows, hidden, strict=True):
            own = vectors[: lengths[row]]
            results[row] = _pooled(own, job.pool).cpu().numpy()
    if job.pool == "none":
        return np.concatenate(results)
    return np.stack(results)


def _pooled(vectors: torch.Tensor, pool: Pool) -> torch.Tensor:
    if pool == "none":
        return vectors
    return vectors.mean(0) if pool == "mean" else vectors.amax(0)


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """Finished chunks of vectors, read one at a time."""

    table: SequenceTable
    store: ChunkStore
    chunk_size: int
    per_base: bool

    @property
    def chunks(self) -> int:
        """How many chunks there are."""
        return -(-len(self.table) // self.chunk_size)

    def rows(self, number: int) -> slice:
        """Rows of the table that a chunk is about."""
        start = number * self.chunk_size
        return slice(start, min(start + self.chunk_size, len(self.table)))

    def vectors(self) -> Iterator[NDArray[np.float32]]:
        """Vectors of each chunk."""
        for number in range(self.chunks):
            yield self.store.load(number)["vectors"]

    @property
    def shape(self) -> tuple[int, int]:
        """All vectors, channels."""
        channels = self.store.load(0)["vectors"].shape[1]
        count = int(self.table.lengths.sum()) if self.per_base else len(self.table)
        return count, channels

    @property
    def offsets(self) -> NDArray[np.int64]:
        """(sequences + 1,) where the bases of each sequence begin."""
        return np.concatenate([[0], np.cumsum(self.table.lengths)])


def run_embedding(
    job: EmbedJob,
    table: SequenceTable,
    folder: Path,
    identity: Mapping[str, Any],
    *,
    devices: Sequence[str],
    chunk_size: int,
    advance: Callable[[int], None] = lambda rows: None,
) -> Embedding:
    """Embed all rows; chunks that `folder` holds already are not done again.

    Parameters
    ----------
    identity
        Everything that the vectors depend on; see `chunks.ChunkStore`.
    """
    store = ChunkStore(folder, identity)
    found = Embedding(
        table=table, store=store, chunk_size=chunk_size, per_base=job.pool == "none"
    )
    payloads = ((n, table.ids[found.rows(n)]) for n in range(found.chunks))

    def done(number: int) -> None:
        rows = found.rows(number)
        advance(rows.stop - rows.start)

    run_chunks(job, payloads, store, devices=devices, done=done)
    return found


def check_output(path: str | Path, table: SequenceTable) -> Path:
    """Give `path` back if embeddings can be written there, else raise an error.

    Parameters
    ----------
    table
        The sequences, whose columns Parquet keeps.
    """
    path = Path(path)
    if path.suffix == ".parquet" and "embedding" in table.columns.columns:
        raise CrossDNAError(
            f"{table.source} already has a column 'embedding'; rename it"
        )
    if path.suffix not in SUFFIXES:
        raise CrossDNAError(
            f"{path}: embeddings are written as {', '.join(SUFFIXES)}; end the name in "
            "one"
        )
    if path.suffix == ".zarr":
        _zarr()
        if path.exists():
            raise CrossDNAError(f"{path} exists; remove it or choose another name")
    if not path.parent.is_dir():
        raise CrossDNAError(f"{path}: no folder {path.parent}")
    return path


def write_embedding(found: Embedding, path: Path, metadata: Mapping[str, str]) -> None:
    """Write all vectors, a chunk at a time.

    Parquet: the input's columns and ``embedding``, a list of channels (per base: of
    lists). NPZ and Zarr: ``embeddings``; per base all bases one after the other, and
    ``offsets``. Zarr and Parquet carry `metadata`, NPZ as the array ``metadata`` of
    ``name=value``.
    """
    writers = {".parquet": _parquet, ".npz": _npz, ".zarr": _write_zarr}
    writers[path.suffix](found, path, metadata)


def _parquet(found: Embedding, path: Path, metadata: Mapping[str, str]) -> None:
    columns = found.table.columns
    arrow = columns.to_arrow()
    vector = pa.list_(pa.float32(), found.shape[1])
    kind = pa.list_(vector) if found.per_base else vector
    schema = arrow.schema.append(pa.field("embedding", kind))
    lengths = found.table.lengths
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(temporary, schema.with_metadata(dict(metadata))) as out,
    ):
        for number, vectors in enumerate(found.vectors()):
            rows = found.rows(number)
            flat = pa.array(vectors.astype(np.float32).ravel())
            values = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
            if found.per_base:
                ends = np.concatenate([[0], np.cumsum(lengths[rows])])
                values = pa.ListArray.from_arrays(ends.astype(np.int32), values)
            part = arrow.slice(rows.start, rows.stop - rows.start)
            part = part.append_column(schema.field("embedding"), values)
            out.write_table(part.cast(schema))


def _npz(found: Embedding, path: Path, metadata: Mapping[str, str]) -> None:
    work = found.store.folder / f"{VECTORS}.npy"
    # Written and not mapped: on a full disk a mapped file ends the process.
    with atomic_path(work) as temporary, temporary.open("wb") as handle:
        header = {"descr": "<f4", "fortran_order": False, "shape": found.shape}
        np.lib.format.write_array_header_2_0(handle, header)
        for vectors in found.vectors():
            handle.write(np.ascontiguousarray(vectors, "<f4").data)
    notes = np.array([f"{name}={value}" for name, value in metadata.items()])
    with (
        atomic_path(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED, allowZip64=True) as archive,
    ):
        archive.write(work, f"{VECTORS}.npy")
        small = {"metadata": notes}
        if found.per_base:
            small[OFFSETS] = found.offsets
        for name, values in small.items():
            with archive.open(f"{name}.npy", "w") as handle:
                np.lib.format.write_array(handle, values)


def _write_zarr(found: Embedding, path: Path, metadata: Mapping[str, str]) -> None:
    zarr = _zarr()
    with atomic_directory(path) as temporary:
        group = zarr.open_group(str(temporary), mode="w")
        rows = max(1, min(found.shape[0], (1 << 20) // found.shape[1]))
        whole = group.create_array(
            VECTORS, shape=found.shape, dtype="float32", chunks=(rows, found.shape[1])
        )
        _fill(whole, found)
        if found.per_base:
            offsets = group.create_array(
                OFFSETS, shape=found.offsets.shape, dtype="int64"
            )
            offsets[:] = found.offsets
        group.attrs.update(dict(metadata))


def _fill(whole: Any, found: Embedding) -> None:
    start = 0
    for vectors in found.vectors():
        whole[start : start + len(vectors)] = vectors
        start += len(vectors)


def _zarr() -> Any:
    try:
        import zarr
    except ImportError:
        raise CrossDNAError("zarr files need: pip install 'crossdna[embed]'") from None
    return zarr


def sample_vectors(
    found: Embedding, most: int = 5000, seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rows and vectors for a picture: all sequences, or `most` of them at random.

    Vectors per base are averaged over their sequence.
    """
    count = len(found.table)
    rows = np.arange(count)
    if count > most:
        rows = np.sort(np.random.default_rng(seed).permutation(count)[:most])
    lengths, parts = found.table.lengths, []
    for number, vectors in enumerate(found.vectors()):
        span = found.rows(number)
        if found.per_base:
            ends = np.cumsum(lengths[span])[:-1]
            vectors = np.stack([part.mean(0) for part in np.split(vectors, ends)])
        wanted = rows[(rows >= span.start) & (rows < span.stop)] - span.start
        parts.append(vectors[wanted])
    return rows, np.concatenate(parts)
