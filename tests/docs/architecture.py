"""The pictures of docs/architecture.md, from the imports and the import contracts, and from the server's messages.

Draw them anew: ``python -m tests.docs.architecture``.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from typing import NamedTuple

import grimp

from tests.docs.pages import ROOT, put

PAGE = ROOT / "docs" / "architecture.md"
_WHOLE = ("policies", "traces")  # floors that are one room
_THICK = 5  # imports from floor to floor for which an arrow is drawn also where it follows from others


class Way(NamedTuple):
    """What one process sends another.

    Attributes:
        sender: Process, or ``client``.
        receiver: Process.
        messages: Names of structs of ``runtime.messages``.
        files: Modules of the sender, below ``runtime/server``.
    """

    sender: str
    receiver: str
    messages: tuple[str, ...]
    files: tuple[str, ...]


WAYS = (
    Way("api", "tokenizer", ("Request", "Abort", "Ping"), ("frontend",)),
    Way("tokenizer", "worker", ("Tokenized", "Refused", "Abort", "Ping"), ("tokenizer",)),
    Way("worker", "ranks", ("Turn", "Decision"), ("ranks",)),
    Way("worker", "detokenizer", ("Opening", "Sampled", "Ping"), ("leader",)),
    Way("detokenizer", "worker", ("Abort",), ("detokenizer",)),
    Way("detokenizer", "api", ("Output", "Ping"), ("detokenizer",)),
)
_NODES = {
    "api": "api<br/>HTTP, SSE",
    "tokenizer": "tokenizer.N<br/>text to token ids",
    "worker": "worker.0<br/>scheduler and engine",
    "ranks": "worker.1 ...<br/>the same decisions, their part of the model",
    "detokenizer": "detokenizer<br/>token ids to text",
}


def floors() -> list[list[str]]:
    """The floors of pyproject.toml's layers contract, from above: packages side by side on each."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [[name.strip() for name in layer.split("|")] for layer in layers]


def rooms_picture() -> str:
    """Rooms (packages) on their floors, an arrow from each to what it imports; what follows from others is left out."""
    packages = [name for floor in floors() for name in floor]
    graph = grimp.build_graph(*packages)
    directories = {name for name in graph.modules if (ROOT / name.replace(".", "/") / "__init__.py").exists()}

    def room(module: str) -> str | None:
        package, _, rest = module.partition(".")
        if package in _WHOLE:
            return package
        inside = f"{package}.{rest.split('.')[0]}"
        return inside if inside in directories else None

    counts: Counter[tuple[str, str]] = Counter()
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            one, other = room(module), room(imported)
            if one is not None and other is not None and one != other:
                counts[one, other] += 1
    # Two rooms that import each other: the arrow is that of most imports.
    edges = {edge for edge, count in counts.items() if count > counts.get(edge[::-1], 0)}
    names = sorted({name for module in graph.modules if (name := room(module)) is not None})
    lines = ["```mermaid", "flowchart TB"]
    for floor in floors():
        for package in floor:
            inside = [name for name in names if _floor(name) == package]
            lines.append(f"  subgraph {package}")
            lines.extend(f"    {_node(name)}[{name.rpartition('.')[2]}]" for name in inside)
            lines.append("  end")
    thick = {(one, other) for one, other in edges if _floor(one) != _floor(other) and counts[one, other] >= _THICK}
    for one, other in sorted(_reduced(edges) | thick):
        lines.append(f"  {_node(one)} --> {_node(other)}")
    return "\n".join([*lines, "```"])


def processes_picture() -> str:
    """The server's processes, and the messages between them."""
    lines = ["```mermaid", "flowchart LR", '  client(["client"]) -- HTTP --> api']
    lines.extend(f'  {name}["{text}"]' for name, text in _NODES.items())
    lines.extend(f"  {way.sender} -- {', '.join(way.messages)} --> {way.receiver}" for way in WAYS)
    return "\n".join([*lines, "  api -- SSE --> client", "```"])


def _reduced(edges: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Without the edges between whose ends there is another way."""
    following: dict[str, set[str]] = {}
    for one, other in edges:
        following.setdefault(one, set()).add(other)

    def reaches(start: str, end: str) -> bool:
        seen, ahead = {start}, [name for name in following.get(start, ()) if name != end]
        while ahead:
            name = ahead.pop()
            if name == end:
                return True
            if name not in seen:
                seen.add(name)
                ahead.extend(following.get(name, ()))
        return False

    return {edge for edge in edges if not reaches(*edge)}


def _floor(room: str) -> str:
    return room.partition(".")[0]


def _node(room: str) -> str:
    return f"{room}_room" if room in _WHOLE else room.replace(".", "_")  # a floor has the name itself


if __name__ == "__main__":
    page = PAGE.read_text()
    for name, picture in (("rooms", rooms_picture()), ("processes", processes_picture())):
        page = put(page, name, picture)
    PAGE.write_text(page)
