"""One thing that was looked at, and what came of it."""

from __future__ import annotations

from typing import Literal, NamedTuple

Status = Literal["pass", "fail", "note", "skip"]


class Check(NamedTuple):
    """A line of the doctor's table.

    Attributes
    ----------
    name : str
    status : str
        note: seen, but neither good nor bad; skip: could not be looked at.
    detail : str
        What was found, or why nothing was.
    value, limit : float or None
        A measured number and the most that passes.
    """

    name: str
    status: Status
    detail: str
    value: float | None = None
    limit: float | None = None


def within(name: str, value: float, limit: float, detail: str) -> Check:
    """Pass where a number is at most its limit; not a number fails."""
    return Check(name, "pass" if value <= limit else "fail", detail, value, limit)
