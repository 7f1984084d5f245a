"""Scoring a whole variant file chunk by chunk, over processes, with resumption."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

import crossdna
from crossdna.analysis.chunks import ChunkStore, run_chunks
from crossdna.analysis.classical.opening import is_classical, open_classical
from crossdna.analysis.inference import (
    FLOAT32,
    Execution,
    checkpoint_task,
    choose_strand,
    default_window,
    load_model,
)
from crossdna.analysis.provenance import described
from crossdna.analysis.variants.scan import scan_variants
from crossdna.analysis.variants.score import (
    WINDOW,
    ScoreSettings,
    default_scores,
    score_alleles,
    score_classically,
    score_names,
)
from crossdna.data.genome import Genome
from crossdna.data.variants import read_allele
from crossdna.errors import CrossDNAError
from crossdna.models.fingerprint import fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from crossdna.analysis.chunks import Arrays
    from crossdna.analysis.inference import Task
    from crossdna.analysis.variants.calibrate import Calibration
    from crossdna.analysis.variants.scan import Scan
    from crossdna.data.vcf import Record, VariantFile

SKIP: Final = "SKIP"
# What a classical model computes is in its name.
_CLASSICAL: Final = ("ll",)


@dataclass(frozen=True)
class ScoreJob:
    """Scores chunks of records; loads model and genome once for each process."""

    model: str
    task: Task
    genome: tuple[Path, ...]
    settings: ScoreSettings
    trust_remote_code: bool = False
    execution: Execution = FLOAT32

    def open(self, device: str) -> Callable[[Any], Arrays]:
        """Load; see `crossdna.analysis.chunks.Job`."""
        genome = Genome.open(self.genome)
        score = self._scorer(device)

        def work(payload: Sequence[AlleleText]) -> Arrays:
            alleles = [
                read_allele(genome, *allele, self.settings.window) for allele in payload
            ]
            scores: Arrays = dict(score(genome, alleles, self.settings))
            skips = np.array([allele.skip for allele in alleles], "U20")
            return scores | {SKIP: _with_unscored(skips, scores)}

        return work

    def _scorer(self, device: str) -> Callable[..., Arrays]:
        if is_classical(self.model):
            return partial(score_classically, open_classical(self.model))
        model = load_model(
            self.model,
            self.task,
            device,
            trust_remote_code=self.trust_remote_code,
            execution=self.execution,
        )
        return partial(score_alleles, model)


def _with_unscored(skips: NDArray[np.str_], scores: Arrays) -> NDArray[np.str_]:
    """Give alleles that could be scored, but have none of the scores, their reason."""
    without = np.all([np.isnan(values) for values in scores.values()], axis=0)
    return np.where((skips == "") & without, "no_such_score", skips)


class AlleleText(NamedTuple):
    """One alternate allele as the file has it, on the genome's contig."""

    contig: str | None
    position: int
    ref: str
    alt: str


class ScoredRecord(NamedTuple):
    """A record and what was found for each of its alternate alleles."""

    record: Record
    scores: dict[str, NDArray[np.float64]]
    """Column to (alternate alleles,); NaN where it does not apply."""
    skips: list[str]
    """Why each allele was not scored, of `crossdna.data.variants.REASONS`, or empty."""


class ScoringRun(NamedTuple):
    """Everything that decides what a scored file holds."""

    file: VariantFile
    scan: Scan
    job: ScoreJob
    columns: dict[str, str]
    """Scores and their descriptions."""
    fingerprint: str
    """Of the model; see `crossdna.models.fingerprint`."""
    genome_fingerprint: str
    genome_contigs: dict[str, int]
    chunk_size: int
    calibration: str = ""
    """What percentiles are taken among, if there are any."""

    def identity(self) -> dict[str, Any]:
        """What a resumed run must share with the one it continues."""
        settings = asdict(self.job.settings)
        return {
            "version": crossdna.__version__,
            "model": self.fingerprint,
            "genome": self.genome_fingerprint,
            "variants": self.scan.digest,
            "chunk_size": self.chunk_size,
            "precision": self.job.execution.precision,
            **settings,
            "scores": list(self.job.settings.scores),
        }

    def provenance(self) -> dict[str, str]:
        """How the file was made, for its header."""
        settings = self.job.settings
        calibration = {"percentiles": self.calibration} if self.calibration else {}
        made_by = described(
            self.fingerprint,
            self.job.model,
            strand=settings.strand,
            precision=self.job.execution.precision,
        )
        return {
            **made_by._asdict(),
            "genome": ",".join(path.name for path in self.job.genome),
            "genome_fingerprint": self.genome_fingerprint,
            "scores": ",".join(self.columns),
            "window": str(settings.window),
            "mask_spacing": str(settings.mask_spacing),
            **calibration,
        }


def prepare(
    file: VariantFile,
    genome: Genome,
    model: str,
    *,
    scores: Sequence[str] | None = None,
    chunk_size: int = 256,
    options: Mapping[str, Any],
    trust_remote_code: bool = False,
    execution: Execution = FLOAT32,
) -> ScoringRun:
    """Scan the variants and find out what the model can say about them.

    Parameters
    ----------
    model
        Checkpoint directory or hub id.
    scores
        None takes what suits the model.
    chunk_size
        Records that are saved together.
    options
        Further fields of `ScoreSettings`; window and strands are what suits the model
        where they do not say.
    trust_remote_code
        Run code that comes with the checkpoint.
    execution
        Precision, and whether layers are compiled.

    Raises
    ------
    CrossDNAError
        A malformed variant file, no checkpoint, or scores that the model cannot give.
    """
    if chunk_size < 1:
        raise CrossDNAError(f"chunk_size must be at least 1, got {chunk_size}")
    task: Task = "embedding"
    if is_classical(model):
        columns, digits = _classical_columns(model, scores)
        settings = ScoreSettings(scores=_CLASSICAL, **options)
        # Counts, which have no precision to choose.
        execution = FLOAT32
    else:
        task = checkpoint_task(model, trust_remote_code=trust_remote_code)
        if task == "per-base":
            raise CrossDNAError(
                f"{model}: predicts per base, so it has no scores; use a language "
                "model or one that predicts per sequence"
            )
        network = load_model(model, task, "cpu", trust_remote_code=trust_remote_code)
        names = tuple(scores or default_scores(network))
        usual = {"window": default_window(network, WINDOW)}
        strand = choose_strand(network, options.get("strand"))
        settings = ScoreSettings(scores=names, **{**usual, **options, "strand": strand})
        columns = score_names(network, settings.scores)
        digits = str(fingerprint(network, model))
    return ScoringRun(
        file=file,
        scan=scan_variants(file, genome),
        job=ScoreJob(model, task, genome.paths, settings, trust_remote_code, execution),
        columns=columns,
        fingerprint=digits,
        genome_fingerprint=genome.fingerprint,
        genome_contigs=dict(genome.contigs),
        chunk_size=chunk_size,
    )


def _classical_columns(
    name: str, scores: Sequence[str] | None
) -> tuple[dict[str, str], str]:
    """All columns of a classical model, and its fingerprint."""
    model = open_classical(name)
    if scores is not None:
        raise CrossDNAError(
            f"{name} gives {', '.join(model.scores)}; leave out --scores"
        )
    return model.scores, model.fingerprint


def run_scoring(
    run: ScoringRun,
    work: Path,
    *,
    devices: Sequence[str],
    advance: Callable[[int], None] = lambda records: None,
) -> ChunkStore:
    """Score what is not scored yet.

    Parameters
    ----------
    work
        Folder for finished chunks.
    advance
        Called with the number of records done.
    """
    store = ChunkStore(work, run.identity())
    sizes: dict[int, int] = {}

    def payloads() -> Iterator[tuple[int, list[AlleleText]]]:
        for index, records in enumerate(_batches(run.file.records(), run.chunk_size)):
            sizes[index] = len(records)
            yield index, [text for r in records for text in allele_texts(run.scan, r)]

    run_chunks(
        run.job,
        payloads(),
        store,
        devices=devices,
        done=lambda index: advance(sizes.pop(index)),
    )
    return store


def scored_records(
    run: ScoringRun, store: ChunkStore, calibration: Calibration | None = None
) -> Iterator[ScoredRecord]:
    """Read all records again, each with the scores of its alternate alleles.

    A `calibration` adds the column ``percentile``.
    """
    for index, records in enumerate(_batches(run.file.records(), run.chunk_size)):
        arrays = store.load(index)
        skips = arrays.pop(SKIP)
        if calibration is not None:
            alleles = [text for r in records for text in allele_texts(run.scan, r)]
            arrays["percentile"] = calibration.percentiles(alleles, arrays["llr"])
        first = 0
        for record in records:
            last = first + len(record.alts)
            scores = {name: values[first:last] for name, values in arrays.items()}
            yield ScoredRecord(record, scores, list(map(str, skips[first:last])))
            first = last


def allele_texts(scan: Scan, record: Record) -> list[AlleleText]:
    """The alternate alleles of a record, on the genome's contig."""
    contig = scan.contigs[record.contig]
    return [AlleleText(contig, record.position, record.ref, alt) for alt in record.alts]


def _batches(records: Iterable[Record], size: int) -> Iterator[list[Record]]:
    records = iter(records)
    while batch := list(islice(records, size)):
        yield batch
