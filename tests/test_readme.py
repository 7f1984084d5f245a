"""What the README and the guides promise is there."""

import re
from pathlib import Path

import pytest

from crossdna import CrossDNATokenizer
from crossdna.cli import VERBS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_verb_exists(page):
    verbs = re.findall(r"(?<![\w/.-])crossdna ([a-z]+)", page.read_text())
    prose = {"crossdna", "runs", "imported"}
    assert set(verbs) - set(VERBS) - prose == set()


def test_every_verb_is_in_the_readme_or_explains_itself():
    text = (ROOT / "README.md").read_text()
    missing = [verb for verb in VERBS if f"crossdna {verb}" not in text]
    assert set(missing) <= {"demo", "probe", "tokenizer"}


def test_files_named_in_the_readme_exist():
    text = (ROOT / "README.md").read_text()
    named = re.findall(r"(?:recipes|benchmarks|docs|data)/[\w./-]+", text)
    assert [path for path in named if not (ROOT / path.rstrip(".")).exists()] == []


def test_the_python_example_runs(tiny_checkpoint):
    text = (ROOT / "README.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    folder = tiny_checkpoint()
    CrossDNATokenizer().save_pretrained(folder)
    names = {}
    exec(example.replace("weights/crossdna-small", str(folder)), names)
    assert names["logits"].shape == (2, 9, 5)
