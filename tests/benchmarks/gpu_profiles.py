"""Profiles of several models, one calibration behind the other: ``python -m tests.benchmarks.gpu_profiles --out DIR``.

Each is ``harness calibrate`` with a memory of given pages, so that no trial engine sizes it; where one fails or takes
too long, the others go on. DIR gets a directory for each, named as shipped profiles are, and what came when in
``log.txt``: on an H100

    python -m tests.benchmarks.gpu_profiles --out out --hardware h100 --models qwen3_0_6b qwen3_14b qwen3_8b

and on H200s, ``--tp`` so many as there are:

    python -m tests.benchmarks.gpu_profiles --out out --hardware h200 --models qwen3_32b --tp 4
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from harness.cost.cross_validation import cross_validate
from harness.cost.measured import META, MeasuredProfile, profile_name
from harness.cost.profile import ProfileCost, roofline_of
from tests.benchmarks.parts import Part, run_parts

PAGE_SIZE = 16
# Pages that a GPU has room for beside weights, graphs and activations, 5 to 15 GB left: of a hardware, model and tp.
PAGES = {
    ("h100", "qwen3_0_6b", 1): 30720,
    ("h100", "qwen3_8b", 1): 20480,
    ("h100", "qwen3_14b", 1): 14336,
    ("h200", "qwen3_8b", 1): 40960,
    ("h200", "qwen3_8b", 2): 65536,
    ("h200", "qwen3_32b", 1): 12288,
    ("h200", "qwen3_32b", 2): 40960,
    ("h200", "qwen3_32b", 4): 81920,
}
STARTS_S = 12.0  # beside --seconds: the process begins and ends, and says what it found


def main() -> int:
    """Calibrate, and print a line for each profile."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="gets the profiles; those that are there stay")
    parser.add_argument("--models", nargs="+", default=["qwen3_8b"], help="of conf/model (qwen3_8b)")
    parser.add_argument("--hardware", default="h100", help="of conf/hardware (h100)")
    parser.add_argument("--tp", type=int, nargs="+", default=[1], help="ranks (1)")
    parser.add_argument("--seconds", type=float, default=60, help="of each, building the engine included (60)")
    parser.add_argument("--budget", type=float, default=570, help="seconds of all; what does not fit is left out (570)")
    parser.add_argument("--device", default="cuda", help="(cuda)")
    parser.add_argument("overrides", nargs="*", help="of all, e.g. engine.max_running=128")
    arguments = parser.parse_intermixed_args()
    out = arguments.out
    return run_parts(parts(arguments), out, arguments.budget, lambda part, _: profile_line(out / part.name))


def parts(arguments: argparse.Namespace) -> Iterator[Part]:
    """A calibration for each model and number of ranks."""
    for model, tp in product(arguments.models, arguments.tp):
        name = profile_name(model, arguments.hardware, tp)
        directory = arguments.out / name
        words = ["harness", "calibrate", *server(model, arguments.hardware, tp, arguments.device)]
        words += [*arguments.overrides, "--seconds", f"{arguments.seconds:g}", "--out", str(directory)]
        yield Part(name, words, arguments.seconds + STARTS_S, directory / META)


def server(model: str, hardware: str, tp: int, device: str) -> list[str]:
    """The overrides that say which server: with the same pages at each start, which what is free on a GPU is not."""
    words = [f"model={model}", f"hardware={hardware}", f"tp={tp}", f"++backend.device={device}"]
    pages = PAGES.get((hardware, model, tp))
    return words if pages is None else [*words, f"engine.page_size={PAGE_SIZE}", f"engine.pages={pages}"]


def profile_line(directory: Path) -> str:
    """What was measured, and how well the cost model foretells each point without it."""
    if not (directory / META).is_file():
        return f"{directory.name}: nothing was measured"
    profile = MeasuredProfile.load(directory)
    roofline = roofline_of(profile)
    checked = cross_validate(ProfileCost(profile, roofline))
    return (
        f"{directory.name}: {len(profile.steps)} steps on {profile.tp}x {profile.device}; the cost model without each: "
        f"median {checked.median:.1%}, p95 {checked.p95:.1%}"
    )


if __name__ == "__main__":
    sys.exit(main())
