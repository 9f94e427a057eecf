"""What the documents name is there: links, files, functions; files that only programs read say what is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

import nnunetv2_clisc
from tests.helpers.paths import PROJECT

TEXTS = sorted(
    [
        *PROJECT.glob("*.md"),
        *(PROJECT / "docs").glob("*.md"),
        PROJECT / "pseudo_labeling" / "embedded" / "MODEL_CARD.md",
    ]
)
LINK = re.compile(r"\]\(([^)\s]+)\)")
NAMED = re.compile(
    r"`((?:dataset_conversion|pseudo_labeling|nnunetv2_clisc|tools|benchmarks|tests|docs)/[\w./-]*)(?:::(\w+))?`"
)


def anchors(path: Path) -> set[str]:
    """What GitHub calls the headings of a text."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("text", TEXTS, ids=lambda path: path.name)
def test_links_and_paths_lead_somewhere(text: Path) -> None:
    content = text.read_text(encoding="utf-8")
    missing = []
    for link in LINK.findall(content):
        target, _, anchor = link.partition("#")
        if "://" in link:
            continue
        place = text.parent / target if target else text
        if not place.exists() or (anchor and anchor not in anchors(place)):
            missing.append(link)
    for path, name in NAMED.findall(content):
        if not (PROJECT / path).exists():
            missing.append(path)
        elif name and not re.search(
            rf"^(?:def|class) {name}\b", (PROJECT / path).read_text(encoding="utf-8"), re.MULTILINE
        ):
            missing.append(f"{path}::{name}")
    assert not missing, f"{text.name} names what is not there: {missing}"


def test_the_map_answers_ten_questions_with_one_path_each() -> None:
    content = (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = content.split("## Where do I find …")[1].split("\n## ")[0]
    answers = re.findall(r"^\| (.+\?) \| `([^`]+)` \|$", section, re.MULTILINE)
    assert len(answers) == 10
    assert len({path for _, path in answers}) == 10
    assert all((PROJECT / path).exists() for _, path in answers)


def test_versions_agree() -> None:
    citation = yaml.safe_load((PROJECT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == nnunetv2_clisc.__version__
    headings = re.findall(r"^## \[(.+?)\]", (PROJECT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[:2] == ["Unreleased", nnunetv2_clisc.__version__]


def test_workflow_runs_what_make_has_on_every_python_we_promise() -> None:
    jobs = yaml.safe_load((PROJECT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python-version"] == ["3.10", "3.11", "3.12", "3.13"]
    targets = set(re.findall(r"^([\w-]+):", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    run = {step["run"] for job in jobs.values() for step in job["steps"] if "run" in step}
    assert run == {"make lint", "make test"}
    assert {"lint", "test"} <= targets
