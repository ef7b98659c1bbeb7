"""Cells on a Slurm cluster: an array of jobs, each of which runs its share of them.

Not through Submitit, which pickles each job to disk: an array's jobs run the very command that the user gave, with
``--share I/N`` behind it. They find out for themselves what their cells are and which have ended, so nothing has to be
sent to them, a job that Slurm requeues resumes, and the same works by hand on clusters that know no Slurm.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.config import ConfigError
from harness.sweep.cell import CellTask, Status, status_of

POLL_S = 1.0


def run_on_slurm(
    tasks: Sequence[CellTask], command: Sequence[str], jobs: int, options: Sequence[str], directory: Path
) -> Iterator[Status]:
    """Submit an array of jobs and wait for it.

    The cluster's machines must see this installation, the working directory, the traces and the sweep's directory under
    the same paths: a shared file system.

    Args:
        tasks: The cells that have not ended.
        command: What followed ``harness sweep``, without the words about Slurm.
        jobs: Of the array.
        options: For ``sbatch``, such as ``--partition=cpu``.
        directory: Of the sweep; the jobs' output goes to ``slurm/`` in it.

    Yields:
        How a cell stands, as they end.

    Raises:
        ConfigError: There is no Slurm here, or it does not take the jobs.
    """
    if shutil.which("sbatch") is None:
        raise ConfigError("--slurm: there is no sbatch on this machine; run this where jobs are submitted from")
    if jobs < 1:
        raise ConfigError(f"--slurm {jobs}: at least 1 job")
    logs = directory.resolve() / "slurm"
    logs.mkdir(exist_ok=True)
    words = shlex.join([sys.executable, "-m", "harness", "sweep", *command])
    submit = [
        "sbatch",
        "--wait",
        "--parsable",
        "--job-name=servetwin-sweep",
        f"--array=0-{jobs - 1}",
        f"--chdir={Path.cwd()}",
        f"--output={logs}/%a.log",
        *options,
        f"--wrap=exec {words} --share $SLURM_ARRAY_TASK_ID/{jobs}",
    ]
    # Where this package is not installed but run from its directory, the jobs must find it too.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path)}
    with subprocess.Popen(submit, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as array:
        waiting = list(tasks)
        ended = False
        while waiting and not ended:
            try:
                array.wait(POLL_S)
                ended = True
            except subprocess.TimeoutExpired:
                pass
            stand = [(task, status_of(task.directory)) for task in waiting]
            waiting = [task for task, status in stand if status is Status.OPEN]
            yield from (status for _, status in stand if status is not Status.OPEN)
        said = array.communicate()[1].strip().partition("\n")[0]
    if waiting:
        reason = said or f"its jobs ended with code {array.returncode}"
        raise ConfigError(
            f"--slurm {jobs}: {len(waiting)} cells did not end ({reason}); {logs} says more, the same command resumes"
        )


def share_of(tasks: dict[str, CellTask], share: str) -> dict[str, CellTask]:
    """The cells of one job: every N-th, from the I-th on.

    Args:
        tasks: All cells, whether they have ended or not, so that the jobs agree whenever each of them begins.
        share: ``I/N``, from ``0/N`` to ``N-1/N``.

    Raises:
        ConfigError: It is not that.
    """
    index, _, count = share.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise ConfigError(f"--share {share}: expected I/N with I from 0 to N - 1, e.g. 0/4")
    return {name: tasks[name] for name in list(tasks)[int(index) :: int(count)]}
