"""Any run that can be compared: a run directory of ours, or another tool's result file, known by its content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.metrics.files import REQUESTS, Run, load_run
from harness.metrics.importers import aiperf, guidellm, sglang, vllm
from harness.metrics.importers.imported import ImportedRun, ResultError

if TYPE_CHECKING:
    from collections.abc import Mapping

TOOLS = {"vllm": vllm, "sglang": sglang, "aiperf": aiperf, "guidellm": guidellm}


def load_runs(path: Path | str) -> list[Run | ImportedRun]:
    """The run in a directory of ours, or the results in a file of vLLM, SGLang, AIPerf or GuideLLM.

    A file may hold more than one result. A directory of AIPerf's stands for the records in it, or for its figures.

    Raises:
        RunError: A directory that is no run.
        ResultError: A file that is not there, no result of these tools, or a broken one.
    """
    path = Path(path)
    if path.is_dir():
        inside = (path / name for name in (aiperf.RECORDS, aiperf.FIGURES))
        file = next((file for file in inside if file.is_file()), None)
        if file is None or (path / REQUESTS).is_file():
            return [load_run(path)]
        path = file
    elif not path.is_file():
        raise ResultError(
            f"{path}: no such file or directory; give a run directory, or what vLLM, SGLang, AIPerf or GuideLLM wrote"
        )
    return list(_results(path))


def _results(path: Path) -> list[ImportedRun]:
    documents = _documents(path)
    if all(aiperf.recognises_record(document) for document in documents):
        return [aiperf.read_records(documents, path)]
    runs: list[ImportedRun] = []
    for position, document in enumerate(documents, start=1):
        name = path if len(documents) == 1 else path.with_name(f"{path.name}#{position}")
        runs += _read(document, name)
    return runs


def _read(document: Mapping[str, Any], path: Path) -> list[ImportedRun]:
    if guidellm.recognises(document):
        return guidellm.read(document, path)
    for tool in (sglang, vllm, aiperf):
        if tool.recognises(document):
            return [tool.read(document, path)]
    raise ResultError(
        f"{path}: not a result of vLLM, SGLang, AIPerf or GuideLLM (its keys: {', '.join(list(document)[:5])!r:.80}); "
        "give their JSON file, or a run directory"
    )


def _documents(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file: one, or one a line."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ResultError(f"{path}: cannot be read as text ({error})") from None
    try:
        documents = [json.loads(text)]
    except ValueError:
        documents = [_line(line, position, path) for position, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not documents or not all(isinstance(document, dict) for document in documents):
        raise ResultError(f"{path}: not a JSON object, nor one a line; give a result file or a run directory")
    return documents


def _line(line: str, position: int, path: Path) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise ResultError(f"{path}: line {position} is not JSON ({error})") from None
