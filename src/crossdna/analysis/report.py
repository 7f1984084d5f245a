"""The report of a demonstration run: one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import html
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_INTERVAL = re.compile(r"\[[-+.,\d ]+\]")
_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.55 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; color: #222;
  background: #f4f5f7; margin: 0; }
main { max-width: 60rem; margin: 0 auto; padding: 2rem 2.5rem 3rem; background: #fff; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0.2rem 0 0.6rem; }
h2 { font-size: 1.3rem; margin: 2.6rem 0 0.5rem; padding-top: 1.1rem;
  border-top: 1px solid #ddd; }
p { max-width: 46rem; margin: 0.6rem 0; }
.lead { font-size: 1.1rem; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr));
  gap: 0.8rem; margin: 1.4rem 0; padding: 0; }
.facts div { background: #eef4f9; border-left: 4px solid #0072b2;
  padding: 0.6rem 0.9rem; }
.facts dt { font-size: 0.83rem; color: #555; }
.facts dd { margin: 0; font-size: 1.15rem; font-weight: 600; }
figure { margin: 1.2rem 0; }
figure img { width: 100%; height: auto; display: block; }
figure.small img { max-width: 40rem; }
figcaption, .note { font-size: 0.9rem; color: #555; max-width: 46rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 0.92rem; width: 100%;
  font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding-bottom: 0.4rem; }
th, td { padding: 0.38rem 0.7rem; text-align: right; border-bottom: 1px solid #e5e5e5;
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 2px solid #999; white-space: normal; vertical-align: bottom; }
table.record th { text-align: left; }
td small { color: #666; display: block; }
table.record td { white-space: normal; text-align: left; overflow-wrap: anywhere; }
table.record td:first-child { white-space: nowrap; overflow-wrap: normal; }
summary { cursor: pointer; font-weight: 600; }
tr.ours { background: #fdf1e7; font-weight: 600; }
tr.ours small { font-weight: 400; }
pre { background: #f4f5f7; padding: 0.8rem 1rem; white-space: pre-wrap;
  overflow-wrap: anywhere; font-size: 0.88rem; }
code { font-family: "DejaVu Sans Mono", ui-monospace, monospace; }
"""


class Table(NamedTuple):
    """Rows of text; `highlighted` rows are those of the model."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    highlighted: frozenset[int] = frozenset()
    kind: str = ""
    """``record`` for text that may wrap."""

    def render(self) -> str:
        """HTML of this part."""
        head = "".join(f"<th scope='col'>{_cell(name)}</th>" for name in self.columns)
        body = []
        for index, row in enumerate(self.rows):
            kind = ' class="ours"' if index in self.highlighted else ""
            cells = "".join(f"<td>{_cell(cell)}</td>" for cell in row)
            body.append(f"<tr{kind}>{cells}</tr>")
        return (
            f'<div class="scroll"><table class="{self.kind}">'
            f"<caption>{_cell(self.caption)}</caption>"
            f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
        )


class Picture(NamedTuple):
    """A PNG, written into the page."""

    path: Path
    alternative: str
    """What it shows, for readers who cannot see it."""
    caption: str = ""
    small: bool = False

    def render(self) -> str:
        """HTML of this part."""
        data = base64.b64encode(self.path.read_bytes()).decode("ascii")
        caption = f"<figcaption>{_cell(self.caption)}</figcaption>" * bool(self.caption)
        kind = ' class="small"' if self.small else ""
        image = f'alt="{_text(self.alternative)}" src="data:image/png;base64,{data}"'
        return f"<figure{kind}><img {image}>{caption}</figure>"


class Paragraph(NamedTuple):
    """Text; a `lead` one is larger, a `note` smaller."""

    text: str
    kind: str = ""

    def render(self) -> str:
        """HTML of this part."""
        kind = f' class="{self.kind}"' if self.kind else ""
        return f"<p{kind}>{_cell(self.text)}</p>"


class Facts(NamedTuple):
    """Names and values to be seen at a glance."""

    items: dict[str, str]

    def render(self) -> str:
        """HTML of this part."""
        parts = (
            f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>"
            for name, value in self.items.items()
        )
        return f'<dl class="facts">{"".join(parts)}</dl>'


class Commands(NamedTuple):
    """Lines to type; folded away under `summary` if there is one."""

    text: str
    summary: str = ""

    def render(self) -> str:
        """HTML of this part."""
        lines = f"<pre><code>{_text(self.text)}</code></pre>"
        if not self.summary:
            return lines
        summary = f"<summary>{_text(self.summary)}</summary>"
        return f"<details>{summary}{lines}</details>"


Part = Table | Picture | Paragraph | Facts | Commands


class Section(NamedTuple):
    """A heading and what stands below it."""

    heading: str
    parts: Sequence[Part]


def render_report(title: str, opening: Sequence[Part], body: Sequence[Section]) -> str:
    """Put a page together that refers to nothing outside itself."""
    sections = "".join(
        f"<section><h2>{_text(section.heading)}</h2>"
        f"{''.join(part.render() for part in section.parts)}</section>"
        for section in body
    )
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body><main>"
        f"<h1>{_text(title)}</h1>{''.join(part.render() for part in opening)}"
        f"{sections}</main></body></html>\n"
    )


def _text(text: str) -> str:
    return html.escape(text, quote=True)


def _cell(text: str) -> str:
    """Escape; numbers in square brackets (an interval) are set small."""
    return _INTERVAL.sub(r"<small>\g<0></small>", _text(text))
