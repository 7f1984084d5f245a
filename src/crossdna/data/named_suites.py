"""Published suites by name: their tasks, their metric, and where their folder lies."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from crossdna.config import from_table
from crossdna.data.suites import find_tasks, untrained_tasks
from crossdna.errors import CrossDNAError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crossdna.data.suites import SuiteTask

FILE: Final = "named_suites.toml"
DATA_VARIABLE: Final = "CROSSDNA_DATA"
BESIDE: Final = ("benchmarks", "../shared/data/benchmarks")
"""Where suites are looked for when neither an option nor the environment says."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SuiteDefinition:
    """What a published suite consists of."""

    name: str
    title: str
    folders: tuple[str, ...]
    """What its folder is called, within a folder of suites."""
    metric: str
    """The metric that it is reported by; see `crossdna.data.metrics`."""
    splits: str
    """Which splits are used, in words."""
    tasks: tuple[str, ...]


class ChosenSuite(NamedTuple):
    """Tasks to work on.

    Attributes
    ----------
    folder : Path
    tasks : list of SuiteTask
    metric : str or None
        What to report; None: what suits the kind of each task.
    notes : list of str
        What the user should know: tasks of a suite that are not there.
    """

    folder: Path
    tasks: list[SuiteTask]
    metric: str | None
    notes: list[str]


def definitions() -> dict[str, SuiteDefinition]:
    """All suites that are known by name."""
    text = resources.files("crossdna.data").joinpath(FILE).read_text()
    return {
        name: from_table(
            {"name": name, **table}, SuiteDefinition, where=f"{FILE} [{name}]"
        )
        for name, table in tomllib.loads(text).items()
    }


def choose_suite(
    suite: str,
    wanted: Sequence[str] = (),
    *,
    data: Path | None = None,
    reduced_train: bool = False,
) -> ChosenSuite:
    """Find a suite by its folder or its name, and its tasks.

    Parameters
    ----------
    suite
        A folder, or else a name of `definitions`.
    wanted, reduced_train
        See `crossdna.data.suites.find_tasks`.
    data
        Folder of suites; without it the environment variable CROSSDNA_DATA and then
        the folders of `BESIDE` are searched.

    Raises
    ------
    CrossDNAError
        Neither a folder nor a name; a suite that is nowhere, with the places that were
        searched; what `find_tasks` refuses.
    """
    known = definitions()
    if Path(suite).is_dir() or suite not in known:
        if not Path(suite).is_dir():
            raise CrossDNAError(
                f"--suite {suite}: no such folder, and no suite of that name; there "
                f"are {', '.join(known)}"
            )
        tasks = find_tasks(suite, wanted, reduced_train=reduced_train)
        untrained = () if reduced_train else untrained_tasks(suite, wanted)
        notes = _untrained_note(suite, [task.name for task in untrained])
        return ChosenSuite(Path(suite), tasks, None, notes)
    definition = known[suite]
    folder = _folder(definition, data)
    found = {task.name for task in find_tasks(folder, reduced_train=True)}
    names = found & set(definition.tasks)
    usable = find_tasks(folder, wanted, reduced_train=reduced_train)
    tasks = [task for task in usable if task.name in names]
    if not tasks:
        raise CrossDNAError(
            f"{folder}: none of its tasks belongs to {suite} "
            f"({', '.join(definition.tasks[:6])}, ...)"
        )
    # Who asks for some tasks need not be told about the others.
    notes = [] if wanted else _absent_note(definition, found)
    if not reduced_train:
        without = {task.name for task in untrained_tasks(folder, wanted)}
        left_out = [task for task in definition.tasks if task in without]
        notes += _untrained_note(definition.name, left_out)
    return ChosenSuite(folder, tasks, definition.metric, notes)


def _folder(definition: SuiteDefinition, data: Path | None) -> Path:
    """The first folder of the suite's name that holds one of its tasks."""
    if data is not None:
        roots = [data]
    elif os.environ.get(DATA_VARIABLE):
        roots = [Path(os.environ[DATA_VARIABLE])]
    else:
        roots = [Path(place) for place in BESIDE]
    # A folder of suites, or the folder of this very suite.
    places = [root / name for root in roots for name in (*definition.folders, ".")]
    for place in places:
        if any((place / task).exists() for task in definition.tasks):
            return place
    searched = ", ".join(str(place) for place in places)
    raise CrossDNAError(
        f"suite {definition.name} ({definition.title}) was not found in {searched}. "
        f"Say with --data, or {DATA_VARIABLE} in the environment, where a folder "
        f"{definition.folders[0]}/ with its tasks lies; this program downloads nothing"
    )


def _absent_note(definition: SuiteDefinition, found: set[str]) -> list[str]:
    absent = [task for task in definition.tasks if task not in found]
    if not absent:
        return []
    return [
        f"{definition.name}: {len(absent)} of {len(definition.tasks)} tasks are not "
        f"there: {', '.join(absent)}"
    ]


def _untrained_note(suite: str, untrained: Sequence[str]) -> list[str]:
    if not untrained:
        return []
    return [
        f"{suite}: no training file for {', '.join(untrained)}, which are left out "
        "(with --reduced-train their development file is used for training)"
    ]
