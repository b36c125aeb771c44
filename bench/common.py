"""What the measurements share: the machine in one line, tables in Markdown, and train.py in a process of its own."""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MEGABYTE = 2**20 if sys.platform == "darwin" else 2**10  # in the unit of ru_maxrss
THREADS = "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NPROC"  # NPROC: JAX


def cores() -> str:
    """The number of processors that this process may use."""
    return str(len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count())


def threads() -> str:
    """The number of threads that everyone may use: what the user has set, else one a core."""
    return os.environ.get("OMP_NUM_THREADS") or os.environ.get("OPENBLAS_NUM_THREADS") or cores()


def environment() -> dict[str, str]:
    """The variables that give every tool these threads, and no GPU."""
    return dict.fromkeys(THREADS, threads()) | {"JAX_PLATFORMS": "cpu"}


def own_process() -> ProcessPoolExecutor:
    """A fresh process for calls one after the other. It has the variables of environment, as this one from now on."""
    os.environ.update(environment())
    return ProcessPoolExecutor(1, get_context("spawn"))


def describe_machine(packages: Iterable[str] = ("numpy",)) -> str:
    """The processor, as it names itself where the system tells, the threads, and the versions."""
    path = Path("/proc/cpuinfo")
    names = re.findall("model name\\s*: (.*)", path.read_text()) if path.exists() else []
    versions = ", ".join(f"{package} {metadata.version(package)}" for package in packages)
    return f"{(names or [platform.machine()])[0]}, {threads()} threads; Python {platform.python_version()}, {versions}."


def print_installed(tools: Mapping[str, Sequence[str]]) -> list[str]:
    """Those of the tools whose packages are installed. Prints the machine, their versions, and who is left out."""
    here = {distribution.name for distribution in metadata.distributions()}
    found = [name for name, packages in tools.items() if here.issuperset(packages)]
    print(describe_machine(dict.fromkeys(package for name in found for package in tools[name])))
    if missing := [name for name in tools if name not in found]:
        print(f"Not installed, so left out: {'; '.join(missing)}.")
    return found


def number(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:.3g}" if value < 999.5 else f"{value:.0f}"


def line(*cells: str | float) -> str:
    """A line of a table in Markdown."""
    return f"| {' | '.join(cell if isinstance(cell, str) else number(cell) for cell in cells)} |"


def header(*cells: str) -> str:
    """The lines that begin a table in Markdown."""
    return f"\n{line(*cells)}\n{line(*['---'] * len(cells))}"


def run_train(*flags: str) -> Iterator[str]:
    """The lines that train.py prints, as they come. SystemExit with its status where it fails, as it has said why."""
    command = [sys.executable, "train.py", *flags]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE) as process:
        assert process.stdout
        yield from process.stdout
    if process.returncode:
        sys.exit(process.returncode)


def read_result(text: str) -> tuple[float, float]:
    """The last result in what train.py has printed: the share of the images misread, in [0, 1], and seconds.

    ValueError where there is none.
    """
    if not (found := re.findall(r"\((\d+) errors in (\d+)\), ([\d.]+) s", text)):
        raise ValueError("a run that has not ended")
    errors, samples, seconds = map(float, found[-1])
    return errors / samples, seconds
