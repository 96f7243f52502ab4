"""Starting MPI jobs in tests."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

BESIDE = Path(sys.executable).parent / "mpiexec"  # where the wheel puts it
MPIEXEC = str(BESIDE) if BESIDE.exists() else shutil.which("mpiexec")

needs_mpi = pytest.mark.skipif(
    find_spec("mpi4py") is None or MPIEXEC is None, reason="needs the extra mpi: pip install 'numtx[mpi]'"
)
COMMAND = ["-c", "import sys; from numtx.cli import main; sys.exit(main())"]


class Job(NamedTuple):
    """How a job ended."""

    code: int
    out: str
    err: str


def start(*parts, cwd, **options):
    """Start mpiexec with (ranks, arguments of Python) for each part, and return the process."""
    command = [MPIEXEC]
    for ranks, arguments in parts:
        command += [":"] * (len(command) > 1) + ["-n", str(ranks), sys.executable, *map(str, arguments)]
    threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return subprocess.Popen(
        command,
        cwd=cwd,
        env=os.environ | threads,
        stdin=options.pop("stdin", subprocess.DEVNULL),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def ended(process, timeout=120, given=None):
    """Wait for a job and return how it ended; one that hangs is ended and fails the test."""
    try:
        out, err = process.communicate(given, timeout=timeout)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.kill()
        pytest.fail(f"the job hangs: {process.args}")
    return Job(process.returncode, out, err)


def run(ranks, arguments, cwd, **options):
    """Run one program on some ranks."""
    return ended(start((ranks, arguments), cwd=cwd), **options)
