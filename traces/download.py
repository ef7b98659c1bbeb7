"""Download a file over HTTPS: resumed where it was interrupted, verified, and put in place in one step."""

from __future__ import annotations

import hashlib
import ssl
import urllib.error
import urllib.request
from http.client import HTTPException
from typing import IO, TYPE_CHECKING
from urllib.parse import urlsplit

from traces.errors import TraceError

if TYPE_CHECKING:
    from collections.abc import Callable
    from http.client import HTTPMessage
    from pathlib import Path

    from traces.catalog import CatalogFile

    Progress = Callable[[str, int, int | None], None]

CHUNK_BYTES = 1 << 18
TIMEOUT_S = 60.0
_BROKEN = (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError, ssl.SSLError)


def download(file: CatalogFile, target: Path, progress: Progress | None = None, allow_loopback: bool = False) -> None:
    """Download one file, in constant memory, unless it is there already.

    What an interrupted download left (``.partial``) is taken up again. The file appears when it is verified.

    Args:
        file: What to download.
        target: Where it shall lie.
        progress: Called with the file's path, the bytes there are, and the bytes there will be or None.
        allow_loopback: Also allow plain HTTP from 127.0.0.1.

    Raises:
        TraceError: It cannot be downloaded, or is not what the catalogue says.
    """
    if target.is_file() and not _fault(file, target):
        return
    partial = target.with_name(f"{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _transfer(file, partial, progress, allow_loopback)
        fault = _fault(file, partial)
        if fault:
            partial.unlink()
            raise TraceError(f"{file.url}: {fault}: it has changed or was damaged on its way; fetch it again")
        partial.replace(target)
    except urllib.error.HTTPError as error:
        raise TraceError(f"{file.url}: the server answers {error.code} {error.reason}") from None
    except _BROKEN as error:
        reason = getattr(error, "reason", error)
        said = f"cannot be fetched: {reason}; what came is kept, fetch again to go on"
        raise TraceError(f"{file.url}: {said}") from None
    except OSError as error:
        raise TraceError(f"{target}: cannot be written: {error}") from None


def _transfer(file: CatalogFile, partial: Path, progress: Progress | None, allow_loopback: bool) -> None:
    """Append to ``partial`` what is missing of the file."""
    _require_safe(file.url, allow_loopback)
    held = partial.stat().st_size if partial.exists() else 0
    if held and held == file.bytes:
        return
    headers = {"User-Agent": "servetwin", "Accept-Encoding": "identity"}
    if held:
        headers["Range"] = f"bytes={held}-"
    opener = urllib.request.build_opener(_SafeRedirects(allow_loopback))
    request = urllib.request.Request(file.url, headers=headers)  # noqa: S310 (the scheme is checked)
    try:
        response = opener.open(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not held:
            raise
        return  # nothing is missing: the checksum will tell
    with response, partial.open("ab") as out:
        resumed = response.status == 206 and f"bytes {held}-" in response.headers.get("Content-Range", "")
        if not resumed:
            out.truncate(0)
            held = 0
        length = response.headers.get("Content-Length", "")
        total = held + int(length) if length.isdigit() else file.bytes
        while chunk := response.read(CHUNK_BYTES):
            out.write(chunk)
            held += len(chunk)
            if progress is not None:
                progress(file.path, held, total)
            if file.bytes is not None and held > file.bytes:
                return  # longer than it should be: the checksum will tell
    if total is not None and held < total:
        raise ConnectionError(f"the connection ended after {held} of {total} bytes")


def _fault(file: CatalogFile, path: Path) -> str:
    """What is wrong with the content at ``path``, empty where it is what the catalogue says."""
    if file.bytes is not None and path.stat().st_size != file.bytes:
        return f"{path.stat().st_size} bytes, expected {file.bytes}"
    if file.sha256:
        kind, expected, digest = "sha256", file.sha256, hashlib.sha256()
    else:
        kind, expected, digest = "git blob", file.git_blob_sha1, hashlib.sha1(usedforsecurity=False)
        digest.update(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as content:
        while chunk := content.read(CHUNK_BYTES):
            digest.update(chunk)
    return "" if digest.hexdigest() == expected else f"{kind} is {digest.hexdigest()}, expected {expected}"


def _require_safe(url: str, allow_loopback: bool) -> None:
    parts = urlsplit(url)
    loopback = allow_loopback and parts.scheme == "http" and parts.hostname == "127.0.0.1"
    if parts.scheme != "https" and not loopback:
        raise TraceError(f"{url} is refused: traces are fetched over https only")


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, to https only."""

    def __init__(self, allow_loopback: bool) -> None:
        self._allow_loopback = allow_loopback

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        _require_safe(newurl, self._allow_loopback)
        return super().redirect_request(req, fp, code, msg, headers, newurl)
