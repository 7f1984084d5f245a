"""A page with a genome browser in it: tracks, annotation and sequence, no network.

igv.js 3.8.10 (MIT, Robinson et al. 2023) lies in ``static``; the page holds it and all
data, so it can be sent around as one file.
"""

from __future__ import annotations

import base64
import gzip
import html
import json
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from crossdna import alphabet
from crossdna.data.fasta import open_lines
from crossdna.data.tracks import shortest
from crossdna.errors import CrossDNAError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from crossdna.analysis.tracks.track import Values
    from crossdna.data.genome import Genome
    from crossdna.data.regions import Region

MOST_BASES: Final = 200_000
_IGV: Final = "igv-3.8.10.min.js.gz"
_FORMATS: Final = {".gff": "gff3", ".gff3": "gff3", ".gtf": "gtf", ".bed": "bed"}
_COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")


def require_browsable(regions: Sequence[Region], annotation: Path | None) -> None:
    """Refuse what a page cannot hold, before anything is computed.

    Raises
    ------
    CrossDNAError
        Too many bases, or annotation of an unknown format.
    """
    total = sum(map(len, regions))
    if total > MOST_BASES:
        raise CrossDNAError(
            f"a page holds at most {MOST_BASES:,} bases, not {total:,}; choose "
            "--region, or load the bigWig files in a genome browser"
        )
    if annotation is not None:
        _annotation_format(annotation)


def browser_page(
    genome: Genome,
    parts: Iterable[tuple[Region, Values]],
    *,
    title: str,
    annotation: Path | None = None,
    provenance: Mapping[str, Any],
) -> str:
    """Give an HTML page that shows tracks along the regions they are of.

    Parameters
    ----------
    parts
        Stretches of all tracks with the region they belong to.
    annotation
        GFF3, GTF or BED, plain or gzip.
    provenance
        How the tracks were made; shown under them.
    """
    tracks: dict[str, list[dict[str, Any]]] = {}
    regions: dict[Region, None] = {}
    for region, part in parts:
        regions[region] = None
        for name, values in part.tracks.items():
            stretch = {
                "chr": region.contig,
                "start": part.start,
                "end": part.end,
                "span": part.span,
                "values": [None if np.isnan(v) else float(shortest(v)) for v in values],
            }
            tracks.setdefault(name, []).append(stretch)
    first = next(iter(regions))
    content: dict[str, Any] = {
        "fasta": _data_uri(_fasta(genome, regions)),
        "locus": str(first),
        "tracks": [
            {"name": name, "color": _COLOURS[i % len(_COLOURS)], "parts": stretches}
            for i, (name, stretches) in enumerate(tracks.items())
        ],
        "annotation": None,
    }
    if annotation is not None:
        content["annotation"] = {
            "name": annotation.name,
            "format": _annotation_format(annotation),
            "url": _data_uri("\n".join(_overlapping(annotation, regions)) + "\n"),
        }
    packed = (
        resources.files("crossdna.analysis.tracks")
        .joinpath("static", _IGV)
        .read_bytes()
    )
    return (
        _PAGE.replace("@TITLE@", html.escape(title))
        .replace("@PROVENANCE@", html.escape(json.dumps(dict(provenance), indent=1)))
        # A script ends at </ whatever it holds.
        .replace("@DATA@", json.dumps(content).replace("</", "<\\/"))
        .replace("@IGV@", gzip.decompress(packed).decode())
    )


def _fasta(genome: Genome, regions: Iterable[Region]) -> str:
    """Slices of contigs, in the form that igv.js takes for such."""
    records = []
    for region in regions:
        bases = alphabet.decode(genome.fetch(region.contig, region.start, region.end))
        records.append(f">{region} @len={genome.contigs[region.contig]}\n{bases}\n")
    return "".join(records)


def _data_uri(text: str) -> str:
    packed = base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()
    return f"data:application/gzip;base64,{packed}"


def _annotation_format(path: Path) -> str:
    suffixes = [suffix for suffix in path.suffixes if suffix != ".gz"]
    if not suffixes or suffixes[-1] not in _FORMATS:
        raise CrossDNAError(f"{path}: annotation is .gff, .gff3, .gtf or .bed, or .gz")
    return _FORMATS[suffixes[-1]]


def _overlapping(path: Path, regions: Iterable[Region]) -> Iterator[str]:
    """Lines of features that touch a region."""
    by_contig: dict[str, list[Region]] = {}
    for region in regions:
        by_contig.setdefault(region.contig, []).append(region)
    bed = _annotation_format(path) == "bed"
    columns = (1, 2) if bed else (3, 4)
    for number, line in enumerate(open_lines(path), 1):
        fields = line.rstrip("\r").split("\t")
        if fields[0] not in by_contig or line.startswith("#"):
            continue
        try:
            start, end = (int(fields[column]) for column in columns)
        except (ValueError, IndexError):
            raise CrossDNAError(f"{path}:{number}: not a line of features") from None
        start -= 0 if bed else 1
        if any(start < r.end and r.start < end for r in by_contig[fields[0]]):
            yield "\t".join(fields)


_PAGE: Final = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>@TITLE@</title><style>
body { font-family: sans-serif; margin: 1em; color: #222 }
pre { color: #666; font-size: 11px }
</style></head><body><h1>@TITLE@</h1><div id="browser"></div>
<pre>@PROVENANCE@</pre>
<script>@IGV@</script>
<script>
const data = @DATA@;
function features(part) {
  const found = [];
  part.values.forEach((value, i) => {
    const start = part.start + i * part.span;
    const end = Math.min(start + part.span, part.end);
    if (value !== null) found.push({chr: part.chr, start, end, value});
  });
  return found;
}
const tracks = data.tracks.map(track => ({
  type: "wig", name: track.name, color: track.color, altColor: track.color,
  height: 80, autoscale: true, features: track.parts.flatMap(features)
}));
if (data.annotation) {
  const extra = {type: "annotation", indexed: false, displayMode: "EXPANDED"};
  tracks.push({...data.annotation, ...extra});
}
igv.createBrowser(document.getElementById("browser"), {
  loadDefaultGenomes: false,
  reference: {id: "genome", name: "genome", fastaURL: data.fasta, indexed: false},
  locus: data.locus,
  tracks
}).then(
  () => { document.body.dataset.state = "ready"; },
  error => { document.body.dataset.state = "failed: " + error; }
);
</script></body></html>
"""
