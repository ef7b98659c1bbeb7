"""The pages: links lead somewhere, what is made by code is current, what is quoted is in the source."""

from __future__ import annotations

import ast
import inspect
import re
import tomllib
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import get_args
from urllib.parse import unquote

import pytest
import yaml

import runtime.messages as messages
from harness import knobs
from harness.cli import _COMMANDS
from harness.metrics.summary import METRICS, summarize
from tests.docs import architecture, columns
from tests.docs.pages import ROOT, made, markdown_files, put, slug

DOCS = ROOT / "docs"
LINK = re.compile(r"(?<!\\)\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)")


def prose(page: Path) -> str:
    """A page without its code."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(page: Path) -> set[str]:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return {slug(heading) for heading in re.findall(r"^#+ +(.+)$", text, flags=re.MULTILINE)}


@pytest.mark.parametrize("page", markdown_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(prose(page)):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = unquote(target).partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.relative_to(ROOT)} links to {target}: there is no such file"
        assert file.is_relative_to(ROOT), f"{page.relative_to(ROOT)} links to {target}: outside of the project"
        if anchor:
            assert anchor in anchors(file), f"{page.relative_to(ROOT)} links to {target}: no such heading"


def test_the_link_checker_sees_what_is_broken(tmp_path: Path) -> None:
    page = tmp_path / "a.md"
    page.write_text(
        '[a](b.md) ![c](d.png "title") `[code](e.md)` [f](https://g)\n```\n[h](i.md)\n```\n# One `two`, 3!\n'
    )
    assert LINK.findall(prose(page)) == ["b.md", "d.png", "https://g"]
    assert anchors(page) == {"one-two-3"}


def test_every_guide_is_linked_from_another_page() -> None:
    linked = {
        (page.parent / target.partition("#")[0]).resolve()
        for page in markdown_files()
        for target in LINK.findall(prose(page))
        if not re.match(r"\w+:", target)
    }
    orphans = [page.name for page in DOCS.glob("*.md") if page.resolve() not in linked]
    assert not orphans


def test_commands_named_in_the_pages_exist() -> None:
    for page in markdown_files():
        for command in re.findall(r"(?:python -m |`)harness ([a-z]+)\b", page.read_text(encoding="utf-8")):
            assert command in _COMMANDS, f"{page.relative_to(ROOT)}: harness {command}"


# --- made by code


def test_the_page_of_knobs_is_current() -> None:
    assert (DOCS / "knobs.md").read_text(encoding="utf-8") == knobs.page(), "python -m harness.knobs > docs/knobs.md"


def test_every_knob_says_what_it_does() -> None:
    rows = re.findall(r"^\| `([\w.]+)` \| (?:`.*?`)? \| (.*) \|$", knobs.page(), flags=re.MULTILINE)
    assert len(rows) > 60
    silent = [name for name, meaning in rows if not meaning.strip()]
    assert not silent, "a docstring's Attributes or a comment in conf/ should say what these do"


def test_the_page_of_knobs_has_every_choice_of_every_group() -> None:
    page = knobs.page()
    for file in (ROOT / "conf").rglob("*.yaml"):
        group = file.parent.relative_to(ROOT / "conf").as_posix()
        if group not in (".", "hydra/help", "experiment"):
            assert f"{file.stem}`" in page, f"{group}={file.stem}"


def test_comments_of_a_yaml_file_become_knobs(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(
        "# What it is,\n# in two lines.\nname: a\nouter: # of all\n  inner: 1.0e-06 # one # two\nlast: {x: 1}\n"
    )
    assert knobs.heading(file) == "What it is, in two lines."
    assert [tuple(knob) for knob in knobs.commented(file)] == [
        ("name", "a", ""),
        ("outer", "", "of all"),
        ("outer.inner", "1.0e-06", "one # two"),
        ("last", "{x: 1}", ""),
    ]


@pytest.mark.parametrize("table", columns.TABLES)
def test_the_tables_of_columns_are_current(table: str) -> None:
    page = made(columns.PAGE.read_text(encoding="utf-8"))
    assert page[table] == columns.table(columns.TABLES[table]), "python -m tests.docs.columns"


def test_the_page_of_metrics_has_every_metric_of_the_summary() -> None:
    page = columns.PAGE.read_text(encoding="utf-8")
    for name in METRICS:
        assert f"`{name}`" in page
    keys = re.findall(r'^        "(\w+)": ', inspect.getsource(summarize), flags=re.MULTILINE)
    assert len(keys) >= 8
    for key in keys:
        assert f"| `{key}` |" in page


def test_the_picture_of_the_rooms_is_current() -> None:
    pytest.importorskip("grimp")
    page = made(architecture.PAGE.read_text(encoding="utf-8"))
    assert page["rooms"] == architecture.rooms_picture(), "python -m tests.docs.architecture"


def test_an_arrow_that_follows_from_others_is_left_out() -> None:
    assert architecture._reduced({("a", "b"), ("b", "c"), ("a", "c")}) == {("a", "b"), ("b", "c")}


def test_the_picture_of_the_processes_has_every_message_and_no_other() -> None:
    page = made(architecture.PAGE.read_text(encoding="utf-8"))
    assert page["processes"] == architecture.processes_picture(), "python -m tests.docs.architecture"
    inboxes = {
        "tokenizer": messages.ToTokenizer,
        "worker": messages.ToWorker,
        "ranks": messages.ToRank,
        "detokenizer": messages.ToDetokenizer,
        "api": messages.ToFrontend,
    }
    for receiver, union in inboxes.items():
        others = {"Stop", "Gather", "Gathering", "Alive"}  # the launcher's, a replay's, every process's
        taken = {kind.__name__ for kind in get_args(union)} - others
        sent = {message for way in architecture.WAYS if way.receiver == receiver for message in way.messages}
        assert sent == taken, f"what {receiver} takes"
    for way in architecture.WAYS:
        source = "".join((ROOT / "runtime" / "server" / f"{name}.py").read_text() for name in way.files)
        for message in way.messages:
            assert re.search(rf"\b{message}\b", source, re.IGNORECASE), f"{way.sender} sends {message}"


def test_a_page_without_a_place_is_said_so() -> None:
    assert put("a\n<!-- made: x -->\nold\n<!-- end -->\n", "x", "new") == "a\n<!-- made: x -->\n\nnew\n\n<!-- end -->\n"
    with pytest.raises(ValueError, match="made: y"):
        put("a", "y", "new")


# --- quoted from the source


@cache
def sayings() -> tuple[str, ...]:
    """Every string of the source, with … for what an f-string fills in."""

    def text(node: ast.AST) -> str | None:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return node.value
        if isinstance(node, ast.JoinedStr):
            return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        return None

    found = []
    for package in ("harness", "policies", "runtime", "traces"):
        for file in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if (said := text(node)) is not None:
                    found.append(said)
    return tuple(found)


def quoted() -> list[str]:
    page = (DOCS / "faq.md").read_text(encoding="utf-8")
    return [text.strip() for text in re.findall(r"^```text\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)]


@pytest.mark.parametrize("message", quoted())
def test_a_message_of_the_faq_is_still_given(message: str) -> None:
    assert any(message in said for said in sayings()), "the source does not say this any more"


# --- studies


def test_every_study_has_its_section_and_its_table() -> None:
    page = (DOCS / "studies.md").read_text(encoding="utf-8")
    tables = made(page)
    for file in sorted((ROOT / "conf" / "experiment").glob("*.yaml")):
        study = yaml.safe_load(file.read_text(encoding="utf-8"))
        values = study["hydra"]["sweeper"]["params"]
        assert f"python -m harness run experiment={file.stem}`" in page
        for knob, choices in values.items():
            for choice in str(choices).split(","):
                assert re.search(rf"\| `.*{re.escape(knob)}={choice}\b", tables[file.stem], re.IGNORECASE), (
                    f"docs/studies.md has no row of {knob}={choice}: python -m tests.benchmarks.studies {file.stem}"
                )
        assert set(tables) >= {file.stem}


def test_what_the_pages_import_by_name_is_there() -> None:
    for page in DOCS.glob("*.md"):
        for module in re.findall(
            r"`((?:harness|policies|runtime|traces)(?:\.\w+)+)`", page.read_text(encoding="utf-8")
        ):
            parent, _, name = module.rpartition(".")
            try:
                import_module(module)
            except ModuleNotFoundError:
                assert hasattr(import_module(parent), name), f"{page.name}: {module}"


def test_the_citation_and_the_changelog_are_of_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == version
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
