"""The public traces that are here."""

from __future__ import annotations

from harness.doctor.finding import Finding, note, ok, problem


def check_traces() -> Finding:
    """Directories of the search path exist, and hold traces of the catalogue."""
    try:
        from traces.catalog import SEARCH_VARIABLE, cache_dir, catalog, find, search_path
    except ImportError as error:
        return problem("traces", f"they cannot be read: {error}", "see imports, above")
    found = [name for name in catalog() if find(name) is not None]
    said = f"{len(found)} of {len(catalog())} of the catalogue are here"
    gone = [str(path) for path in search_path() if path != cache_dir() and not path.is_dir()]
    if gone:
        return note(
            "traces", f"{SEARCH_VARIABLE} names {', '.join(gone)}, which is not there; {said}", "correct the path"
        )
    if not found:
        advice = "python -m harness trace fetch mooncake_conversation (the bundled ones need no fetching)"
        return note("traces", said, advice)
    return ok("traces", said)
