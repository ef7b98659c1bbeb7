"""Every notebook runs from a clean checkout, and what is stored in it is clean."""

from __future__ import annotations

import ast
import base64
import json
import re
import shutil
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SECONDS = 300  # for one cell: only what hangs takes so long
LARGEST_IMAGE = 60_000  # bytes
LARGEST_DATA = 1_100_000  # bytes of data/ together
EXERCISES = 3

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> dict[str, Any]:
    notebook: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return notebook


def text(part: Any) -> str:
    """Text as a notebook holds it: a string, or its lines."""
    return part if isinstance(part, str) else "".join(part)


def code_cells(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in read(path)["cells"] if cell["cell_type"] == "code"]


def outputs(path: Path) -> list[dict[str, Any]]:
    return [output for cell in code_cells(path) for output in cell["outputs"]]


def has_image(shown: list[Any]) -> bool:
    return any("image/png" in output.get("data", {}) for output in shown)


def imported(path: Path) -> set[str]:
    """Packages that a notebook imports, wherever."""
    names: set[str] = set()
    for cell in code_cells(path):
        source = text(cell["source"])
        tree = ast.parse(source.partition("\n")[2] if source.startswith("%%writefile") else source)
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.partition(".")[0])
                names.add(node.module)
    return names


def needs_torch(path: Path) -> bool:
    return any(name == "torch" or name.startswith("runtime.server") for name in imported(path))


def test_there_are_notebooks() -> None:
    assert [path.name[:2] for path in NOTEBOOKS] == [f"{number:02}" for number in range(1, len(NOTEBOOKS) + 1)]


@each_notebook
@pytest.mark.filterwarnings("default")  # the kernel's client warns of what is not ours
def test_it_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    if needs_torch(path) and find_spec("torch") is None:
        pytest.skip("the real server needs torch")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    work = tmp_path / "notebooks"
    ignored = shutil.ignore_patterns("*.ipynb", "runs", "my_*.py", "__pycache__", ".ipynb_checkpoints")
    shutil.copytree(FOLDER, work, ignore=ignored)
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": str(work)}}
    )
    client.execute()
    drawn = [has_image(cell["outputs"]) for cell in notebook.cells if cell["cell_type"] == "code"]
    assert drawn == [has_image(cell["outputs"]) for cell in code_cells(path)], (
        "stored figures are not what it draws now"
    )


@each_notebook
def test_stored_outputs_are_of_a_clean_run(path: Path) -> None:
    assert [cell["execution_count"] for cell in code_cells(path)] == list(range(1, len(code_cells(path)) + 1))
    kinds = {output["output_type"] for output in outputs(path)}
    assert kinds, "readers see what it shows before they run it"
    assert "error" not in kinds
    warned = [text(output["text"]) for output in outputs(path) if output.get("name") == "stderr"]
    assert not warned


@each_notebook
def test_stored_outputs_name_no_machine(path: Path) -> None:
    for output in outputs(path):
        shown = [
            output.get("text", ""),
            *(data for kind, data in output.get("data", {}).items() if "image" not in kind),
        ]
        for part in map(text, shown):
            found = re.search(r"(?<![\w.])(?:/(?:home|root|Users|tmp|usr|opt|work|var)\b|[A-Z]:\\)[/\\]?[\w.-]*", part)
            assert found is None, f"a path of the machine it ran on: {found and found[0]}"
            assert not re.search(r"\d+%\|[█▏▎▍▌▋▊▉ ]*\|", part), "a progress bar"


@each_notebook
def test_stored_images_are_small_and_on_white(path: Path) -> None:
    from matplotlib.image import imread

    for output in outputs(path):
        if "image/png" in output.get("data", {}):
            png = base64.b64decode(text(output["data"]["image/png"]))
            assert len(png) < LARGEST_IMAGE
            pixels = imread(BytesIO(png))
            assert pixels[0, 0].min() == 1, "neither transparent nor dark: it is read on light and on dark pages"


@each_notebook
def test_it_says_what_one_learns_and_ends_with_exercises(path: Path) -> None:
    cells = read(path)["cells"]
    first, last = text(cells[0]["source"]), text(cells[-1]["source"])
    assert first.startswith(f"# {path.name[:2]} · ")
    assert "**You will learn**" in first
    exercises = re.findall(r"^(\d)\. ", last.partition("## Exercises")[2], flags=re.MULTILINE)
    assert exercises == [str(number + 1) for number in range(EXERCISES)]


@each_notebook
def test_its_links_lead_somewhere(path: Path) -> None:
    for cell in read(path)["cells"]:
        if cell["cell_type"] == "markdown":
            for target in re.findall(r"\]\((?!\w+:)([^)#\s]+)", text(cell["source"])):
                assert (FOLDER / target).exists(), f"{target}: there is no such file"


def test_each_is_listed_in_one_line() -> None:
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[(\w+)\]\((\w+)\.ipynb\) \| .+ \|$", page, flags=re.MULTILINE)
    assert listed == [(path.stem, path.stem) for path in NOTEBOOKS]


def test_the_data_are_small_and_each_is_described() -> None:
    data = FOLDER / "data"
    page = (data / "README.md").read_text(encoding="utf-8")
    described = re.findall(r"^\| `([\w.]+)/?` \| .+ \|$", page, flags=re.MULTILINE)
    assert sorted(described) == sorted(path.name for path in data.iterdir() if path.name != "README.md")
    assert sum(path.stat().st_size for path in data.rglob("*") if path.is_file()) < LARGEST_DATA


def test_a_dirty_notebook_is_seen(tmp_path: Path) -> None:
    traceback = {"output_type": "error", "ename": "E", "evalue": "", "traceback": []}
    said = {"output_type": "stream", "name": "stdout", "text": ["wrote /home/someone/runs\n"]}
    cell = {"cell_type": "code", "execution_count": 1, "metadata": {}, "source": "1", "outputs": [traceback, said]}
    dirty = tmp_path / "01_dirty.ipynb"
    dirty.write_text(json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    with pytest.raises(AssertionError):
        test_stored_outputs_are_of_a_clean_run(dirty)
    with pytest.raises(AssertionError, match="/home/someone"):
        test_stored_outputs_name_no_machine(dirty)
