"""The catalogue, and fetching from a server on this machine."""

from __future__ import annotations

import hashlib
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from traces import catalog, download
from traces.errors import TraceError
from traces.readers import FORMATS

REAL = Path(os.environ.get("SERVETWIN_TRACES") or Path(__file__).parents[3] / "shared" / "traces")
BODY = bytes(range(256)) * 4096  # 1 MiB


class Server(ThreadingHTTPServer):
    """Serves BODY and remembers what was asked of it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges: list[str] = []
        self.breaks_after: int | None = None

    def url(self, path: str = "/trace") -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
            return
        if self.path == "/missing":
            self.send_error(404)
            return
        asked = self.headers.get("Range", "")
        self.server.ranges.append(asked)
        begin = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.path != "/whole" else 0
        if begin >= len(BODY):
            self.send_error(416)
            return
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(BODY) - 1}/{len(BODY)}")
        self.send_header("Content-Length", str(len(BODY) - begin))
        self.end_headers()
        end = len(BODY) if self.server.breaks_after is None else self.server.breaks_after
        self.wfile.write(BODY[begin:end])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server():
    running = Server()
    thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


def entry(url: str, **more: object) -> catalog.CatalogFile:
    facts = {"bytes": len(BODY), "sha256": hashlib.sha256(BODY).hexdigest()}
    return catalog.CatalogFile(path="a/trace.bin", url=url, **{**facts, **more})


def get(file: catalog.CatalogFile, target: Path, progress: object = None) -> None:
    download.download(file, target, progress, allow_loopback=True)


def test_a_file_is_fetched_verified_and_put_in_place(server, tmp_path):
    seen = []
    target = tmp_path / "deep" / "trace.bin"
    get(entry(server.url()), target, lambda *said: seen.append(said))
    assert target.read_bytes() == BODY
    assert [path.name for path in target.parent.iterdir()] == ["trace.bin"]
    assert seen[-1] == ("a/trace.bin", len(BODY), len(BODY))
    assert [held for _, held, _ in seen] == sorted(held for _, held, _ in seen)
    assert len(seen) >= 4, "in pieces, not at once"
    get(entry(server.url()), target)
    assert server.ranges == [""], "what is there and right is not fetched again"


def test_an_interrupted_download_is_resumed(server, tmp_path):
    target = tmp_path / "trace.bin"
    server.breaks_after = 300_000
    with pytest.raises(TraceError, match=r"what came is kept, fetch again to go on"):
        get(entry(server.url()), target)
    assert not target.exists()
    held = (tmp_path / "trace.bin.partial").stat().st_size
    assert 0 < held <= 300_000
    server.breaks_after = None
    get(entry(server.url()), target)
    assert target.read_bytes() == BODY
    assert server.ranges == ["", f"bytes={held}-"]


def test_a_server_that_ignores_ranges_is_read_from_the_start(server, tmp_path):
    (tmp_path / "trace.bin.partial").write_bytes(b"something else")
    get(entry(server.url("/whole")), tmp_path / "trace.bin")
    assert (tmp_path / "trace.bin").read_bytes() == BODY


def test_a_complete_partial_needs_no_server(tmp_path):
    (tmp_path / "trace.bin.partial").write_bytes(BODY)
    get(entry("http://127.0.0.1:1/nothing-listens"), tmp_path / "trace.bin")
    assert (tmp_path / "trace.bin").read_bytes() == BODY


def test_a_partial_that_is_too_long_is_thrown_away(server, tmp_path):
    (tmp_path / "trace.bin.partial").write_bytes(BODY + b"!")
    with pytest.raises(TraceError, match=f"{len(BODY) + 1} bytes, expected {len(BODY)}"):
        get(entry(server.url()), tmp_path / "trace.bin")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"sha256": "0" * 64}, "sha256 is .* expected 0000"),
        ({"sha256": "", "git_blob_sha1": "0" * 40}, "git blob is .* expected 0000"),
        ({"bytes": 99}, "bytes, expected 99"),
    ],
)
def test_content_that_is_not_what_the_catalogue_says(server, tmp_path, facts, said):
    with pytest.raises(TraceError, match=said):
        get(entry(server.url(), **facts), tmp_path / "trace.bin")
    assert not list(tmp_path.iterdir())


def test_git_blob(server, tmp_path):
    blob = hashlib.sha1(b"blob %d\0" % len(BODY) + BODY).hexdigest()  # noqa: S324
    get(entry(server.url(), sha256="", git_blob_sha1=blob, bytes=None), tmp_path / "trace.bin")
    assert (tmp_path / "trace.bin").read_bytes() == BODY


@pytest.mark.parametrize("where", ["http://example.com/x", "ftp://example.com/x", "file:///etc/hostname"])
def test_only_https_not_even_by_redirect(server, tmp_path, where):
    with pytest.raises(TraceError, match="over https only"):
        get(entry(where), tmp_path / "trace.bin")
    with pytest.raises(TraceError, match=r"over https only|is not allowed"):
        get(entry(server.url(f"/to/{where}")), tmp_path / "trace.bin")
    with pytest.raises(TraceError, match="over https only"):
        download.download(entry(server.url()), tmp_path / "trace.bin")
    assert not list(tmp_path.iterdir())


def test_a_redirect_that_may_be_followed(server, tmp_path):
    get(entry(server.url(f"/to/{server.url()}")), tmp_path / "trace.bin")
    assert (tmp_path / "trace.bin").read_bytes() == BODY


def test_what_a_bad_server_or_disk_gets(server, tmp_path):
    with pytest.raises(TraceError, match="the server answers 404"):
        get(entry(server.url("/missing")), tmp_path / "trace.bin")
    with pytest.raises(TraceError, match=r"cannot be fetched: .*refused"):
        get(entry("http://127.0.0.1:1/x"), tmp_path / "trace.bin")
    (tmp_path / "file").write_text("")
    with pytest.raises(TraceError, match="cannot be written"):
        get(entry(server.url()), tmp_path / "file" / "trace.bin")


def test_every_entry_can_be_fetched_and_read():
    for name, item in catalog.catalog().items():
        assert item.format in FORMATS, name
        assert item.licence, name
        assert item.files, name
        for file in item.files:
            assert file.url.startswith("https://")
            assert len(file.sha256) == 64 or len(file.git_blob_sha1) == 40
            assert file.path == item.path or file.path.startswith(f"{item.path}/")


def test_find_looks_along_the_search_path(tmp_path, monkeypatch):
    first, second, home = (tmp_path / name for name in ("first", "second", "home"))
    monkeypatch.setenv(catalog.SEARCH_VARIABLE, f"{first}{os.pathsep}{second}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    assert catalog.search_path() == (first, second, home / "servetwin" / "traces")
    assert catalog.find("azure_code_2023") is None
    path = catalog.lookup("azure_code_2023").path
    for folder in (catalog.cache_dir(), second):
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_text("")
        assert catalog.find("azure_code_2023") == folder / path


def test_find_wants_all_files_of_a_directory(tmp_path):
    item = catalog.lookup("servegen_deepseek_r1")
    for file in item.files[:-1]:
        (tmp_path / file.path).parent.mkdir(exist_ok=True)
        (tmp_path / file.path).write_text("")
    assert catalog.find("servegen_deepseek_r1", [tmp_path]) is None
    (tmp_path / item.files[-1].path).write_text("")
    assert catalog.find("servegen_deepseek_r1", [tmp_path]) == tmp_path / "servegen_deepseek_r1"


def test_fetch_lays_files_where_find_looks(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(catalog.SEARCH_VARIABLE, raising=False)
    monkeypatch.setattr(download, "_transfer", lambda file, partial, *_: partial.write_bytes(file.url.encode()))
    monkeypatch.setattr(download, "_fault", lambda file, path: "")
    assert catalog.fetch("claude_code_sample") == catalog.find("claude_code_sample")


def test_unknown_name():
    with pytest.raises(TraceError, match=r"'mooncake_conversatio' is not in the catalogue, .* mooncake_conversation"):
        catalog.lookup("mooncake_conversatio")


def test_the_real_files_are_the_catalogues():
    checked = 0
    for name, item in catalog.catalog().items():
        for file in item.files:
            if (REAL / file.path).exists():
                assert hashlib.sha256((REAL / file.path).read_bytes()).hexdigest() == file.sha256
                checked += 1
        if all((REAL / file.path).exists() for file in item.files):
            assert catalog.find(name, [REAL]) == REAL / item.path
    if not checked:
        pytest.skip(f"no real trace is under {REAL} (set SERVETWIN_TRACES)")
