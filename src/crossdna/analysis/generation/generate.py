"""Generating many sequences: in chunks, resumable, each from its own random numbers."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from crossdna import alphabet
from crossdna.analysis.chunks import ChunkStore, run_chunks
from crossdna.analysis.generation.causal import write_on
from crossdna.analysis.generation.constraints import Constraints, Plan
from crossdna.analysis.generation.masked import reveal
from crossdna.analysis.generation.sampling import Truncation
from crossdna.analysis.inference import FLOAT32, Execution, load_model
from crossdna.analysis.variants.readings import window_likelihoods
from crossdna.analysis.variants.score import ScoreSettings
from crossdna.data.variants import Window
from crossdna.errors import CrossDNAError
from crossdna.files import atomic_open, atomic_path

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from crossdna.alphabet import Strand
    from crossdna.analysis.chunks import Arrays
    from crossdna.models.opening import Task

_PER_LINE: Final = 60
_STRANDS: Final = alphabet.STRANDS[:2]


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateSettings:
    """What is generated, and how.

    Attributes
    ----------
    constraints : Constraints
    number : int
        Sequences.
    strand : str
        What the model reads: the sequence (+), its reverse complement (-), or both: a
        masked model reads both at once, a causal one writes every second sequence as
        the reverse complement of what is given back.
    truncation : Truncation
    rounds : int
        Of a masked model: times that it is asked to fill the template.
    sweeps : int
        Of a masked model: how often every base is drawn again.
    seed : int
    """

    constraints: Constraints
    number: int = 1
    strand: Strand = "both"
    truncation: Truncation = field(default_factory=Truncation)
    rounds: int = 64
    sweeps: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        alphabet.require_strand(self.strand)
        for name, least in (("number", 1), ("rounds", 1), ("sweeps", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise CrossDNAError(
                    f"{name} must be at least {least}, got {getattr(self, name)}"
                )


class Generated(NamedTuple):
    """Generated sequences.

    Attributes
    ----------
    ids : (number, length) uint8
    scores : (number,)
        Mean log-likelihood of a base under the model, both strands averaged; of masked
        models a pseudo-log-likelihood, each base hidden with every eighth other one.
    strands : list of str
        Which strand of each sequence the model read.
    """

    ids: NDArray[np.uint8]
    scores: NDArray[np.float64]
    strands: list[str]


@dataclass(frozen=True)
class GenerateJob:
    """Generates chunks of sequences; see `crossdna.analysis.chunks.Job`."""

    model: str
    task: Task
    settings: GenerateSettings
    trust_remote_code: bool = False
    execution: Execution = FLOAT32

    def open(self, device: str) -> Callable[[Any], Arrays]:
        """Load the model and lay out the plans."""
        model = load_model(
            self.model,
            self.task,
            device,
            trust_remote_code=self.trust_remote_code,
            execution=self.execution,
        )
        return lambda numbers: generate(model, self.task, self.settings, numbers)


def generate(
    model: Any, task: Task, settings: GenerateSettings, numbers: Sequence[int]
) -> Arrays:
    """Generate the sequences of some numbers.

    Returns
    -------
    dict
        ``ids`` (numbers, length) and ``scores`` (numbers,).
    """
    ids = np.zeros((len(numbers), len(settings.constraints.template)), np.uint8)
    for strand in _STRANDS:
        rows = [
            row
            for row, number in enumerate(numbers)
            if _strand_of(settings, task, number) in (strand, "both" * (strand == "+"))
        ]
        if rows:
            own = [numbers[row] for row in rows]
            ids[rows] = _on_strand(model, task, settings, own, strand)
    return {"ids": ids, "scores": _scores(model, task, ids)}


def _strand_of(settings: GenerateSettings, task: Task, number: int) -> str:
    if settings.strand != "both" or task == "masked-lm":
        return settings.strand
    return _STRANDS[number % 2]


def _on_strand(
    model: Any,
    task: Task,
    settings: GenerateSettings,
    numbers: Sequence[int],
    strand: str,
) -> NDArray[np.uint8]:
    """Generate on one strand, given back on the forward one."""
    constraints = settings.constraints
    if strand == "-":
        constraints = constraints.reverse_complement()
    plan = Plan(constraints)
    plan.require_possible()
    randoms = [np.random.default_rng([settings.seed, number]) for number in numbers]
    if task == "causal-lm":
        ids = write_on(model, plan, settings.truncation, randoms)
    else:
        ids = reveal(
            model,
            plan,
            settings.truncation,
            randoms,
            rounds=settings.rounds,
            sweeps=settings.sweeps,
            # Constraints are turned already.
            strand="both" if settings.strand == "both" else "+",
        )
    return alphabet.reverse_complement(ids) if strand == "-" else ids


def _scores(model: Any, task: Task, ids: NDArray[np.uint8]) -> NDArray[np.float64]:
    length = ids.shape[1]
    windows = [Window(row, np.arange(length)) for row in ids]
    settings = ScoreSettings(scores=("pll",), batch_size=max(1, len(ids)))
    # The first base has nothing before it.
    terms = max(1, length - 1) if task == "causal-lm" else length
    return window_likelihoods(model, windows, settings) / terms


def unfinished(
    job: GenerateJob, work: Path, identity: dict[str, Any], chunk_size: int
) -> ChunkStore:
    """Open the folder for finished chunks.

    Parameters
    ----------
    identity
        What else a resumed run must share with the one it continues.
    """
    settings = asdict(job.settings)
    return ChunkStore(work, {**identity, "chunk_size": chunk_size, **settings})


def run_generation(
    job: GenerateJob,
    store: ChunkStore,
    *,
    devices: Sequence[str],
    chunk_size: int,
    advance: Callable[[int], None] = lambda sequences: None,
) -> Generated:
    """Generate what a run that was killed has not generated yet.

    Parameters
    ----------
    store
        From `unfinished`.
    chunk_size
        Sequences at a time; changes them by rounding only.
    """
    settings = job.settings
    starts = range(0, settings.number, chunk_size)
    chunks = [
        list(range(start, min(start + chunk_size, settings.number))) for start in starts
    ]
    run_chunks(
        job,
        enumerate(chunks),
        store,
        devices=devices,
        done=lambda index: advance(len(chunks[index])),
    )
    parts = [store.load(index) for index in range(len(chunks))]
    return Generated(
        np.concatenate([part["ids"] for part in parts]),
        np.concatenate([part["scores"] for part in parts]),
        [_strand_of(settings, job.task, n) for n in range(settings.number)],
    )


def write_generated(
    found: Generated, job: GenerateJob, output: Path, made_by: dict[str, Any]
) -> Path:
    """Write FASTA, and the same as Parquet beside it; gives the Parquet's path.

    A FASTA header holds the score, the share of G and C, the strand, the seed and the
    model's fingerprint.
    """
    import polars as pl

    score = "log_likelihood" if job.task == "causal-lm" else "pseudo_log_likelihood"
    settings = job.settings
    names = [f"sequence-{number}" for number in range(1, settings.number + 1)]
    gc = np.isin(found.ids, alphabet.encode("CG")).mean(1)
    table = pl.DataFrame(
        {
            "name": names,
            "sequence": [alphabet.decode(row) for row in found.ids],
            f"{score}_per_base": found.scores,
            "gc": gc,
            "strand": found.strands,
        }
    )
    with atomic_open(output) as handle:
        for name, sequence, value, share, strand in table.iter_rows():
            handle.write(
                f">{name} {score}_per_base={value:.4f} gc={share:.3f} strand={strand} "
                f"seed={settings.seed} model={made_by['fingerprint']}\n"
            )
            for start in range(0, len(sequence), _PER_LINE):
                handle.write(sequence[start : start + _PER_LINE] + "\n")
    path = output.with_suffix(".parquet")
    notes = {**made_by, **asdict(settings)}
    with atomic_path(path) as temporary:
        table.write_parquet(temporary, metadata={"crossdna": json.dumps(notes)})
    return path
