"""Speed at steady state: this project, the matmul lower bound and other frameworks side by side, in Markdown.

`python -m bench.compare`: each of them has a process of its own for each row of the table. The processes take turns, so
that a slow minute of the machine falls on all of them; the first turn warms up, and the median of the others counts.
All have the same number of threads: OMP_NUM_THREADS or OPENBLAS_NUM_THREADS where one is set, else one a core.
"""

import argparse
import contextlib
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from bench.frameworks import FRAMEWORKS, Work

ROOT = Path(__file__).resolve().parent.parent
MEGABYTE = 2**20 if sys.platform == "darwin" else 2**10  # in the unit of ru_maxrss
SAME = 0.02  # by how much the test accuracy of the same work may differ from ours, in [0, 1]
BOUND = "matmul bound"
THREADS = "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NPROC"  # NPROC: JAX


class Row(NamedTuple):
    """What everyone is asked for, and the unit in which the time is told."""

    work: Work
    ask: str = "train 1"
    unit: str = "s an epoch"


class Measured(NamedTuple):
    """How a framework did on a row."""

    value: float  # the median turn, in the row's unit
    test: float  # accuracy in [0, 1]; NaN for the bound


SMALL = (784, 128, 64, 10)
SINGLE = Work((784, 16, 16, 10), "sgd", 1, 0.1, 6_000, "sigmoid", "mean_squared_error")
ROWS = {
    "784-128-64-10, batch 128, SGD": Row(Work(SMALL, "sgd", 128, 0.1)),
    "784-128-64-10, batch 128, Adam": Row(Work(SMALL, "adam", 128, 0.001)),
    "784-1024-1024-10, batch 128, Adam, 30,000 samples": Row(Work((784, 1024, 1024, 10), "adam", 128, 0.001, 30_000)),
    "784-16-16-10, sigmoid, squared error, one by one": Row(SINGLE, unit="µs a step"),
    "784-128-64-10, predict one image": Row(Work(SMALL, "sgd", 128, 0.1), "predict 1", "µs"),
}


def threads() -> str:
    """The number of threads that everyone may use."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    return os.environ.get("OMP_NUM_THREADS") or os.environ.get("OPENBLAS_NUM_THREADS") or str(cores)


def installed() -> dict[str, str]:
    """The frameworks whose packages are installed, with the version of each."""
    found = {}
    for name, (package, _) in FRAMEWORKS.items():
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = f"{package} {metadata.version(package)}"
    return found


def describe_machine() -> str:
    """The processor, as it names itself where the system tells, the threads, the versions, and what is missing."""
    path, found = Path("/proc/cpuinfo"), installed()
    names = re.findall("model name\\s*: (.*)", path.read_text()) if path.exists() else []
    versions = ", ".join(dict.fromkeys([f"Python {platform.python_version()}", *found.values()]))
    missing = "; ".join(name for name in FRAMEWORKS if name not in found)
    left_out = f" Not installed, so left out: {missing}." if missing else ""
    return f"{(names or [platform.machine()])[0]}, {threads()} threads; {versions}.{left_out}"


@contextlib.contextmanager
def worker(name: str, work: Work, folder: Path) -> Iterator[Callable[[str], dict[str, float]]]:
    """A framework's process, ready to train, as a function that sends it a request and returns the answer."""
    with subprocess.Popen(
        [sys.executable, "-m", "bench.frameworks", name, json.dumps(work), str(folder.resolve())],
        cwd=ROOT,
        text=True,
        env=os.environ | dict.fromkeys(THREADS, threads()) | {"JAX_PLATFORMS": "cpu"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        requests, answers = process.stdin, process.stdout
        assert requests and answers

        def ask(request: str) -> dict[str, float]:
            print(request, file=requests, end="", flush=True)
            answer = answers.readline()
            if not answer:
                raise RuntimeError(f"the process of {name} has stopped; what it said stands above")
            return dict(json.loads(answer))

        ask("")  # waits until it is ready
        yield lambda request: ask(f"{request}\n")


def measure(row: Row, names: Sequence[str], turns: int, folder: Path) -> dict[str, Measured]:
    """What each of the named frameworks reaches on a row, turn about."""
    steps = math.ceil(row.work.samples / row.work.batch) if row.unit.endswith("a step") else 1
    factor, table = {"s": 1, "µs": 1e6}[row.unit.split()[0]] / steps, dict[str, Measured]()
    with contextlib.ExitStack() as stack:
        ask = {name: stack.enter_context(worker(name, row.work, folder)) for name in names}
        rounds = [{name: ask[name](row.ask)["seconds"] for name in names} for _ in range(1 + turns)]
        for name in names:
            test = math.nan if name == BOUND else ask[name]("score")["test"]
            table[name] = Measured(factor * statistics.median(seconds[name] for seconds in rounds[1:]), test)
    return table


def number(value: float) -> str:
    """Three digits; a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def line(*cells: str | float) -> str:
    """A line of a table in Markdown."""
    return f"| {' | '.join(cell if isinstance(cell, str) else number(cell) for cell in cells)} |"


def header(*cells: str) -> str:
    """The lines that begin a table in Markdown."""
    return f"\n{line(*cells)}\n{line(*['---'] * len(cells))}"


def row_line(title: str, row: Row, table: dict[str, Measured], others: Sequence[str]) -> str:
    """A line of the table: ours, that beside the bound, and what each other took, and how many times ours that is."""
    own = table["ours"].value
    cells = (f"{number(table[k].value)} ({table[k].value / own:.2f})" if k in table else "–" for k in others)
    return line(title, row.unit, own, own / table[BOUND].value, *cells)


def is_alike(table: dict[str, Measured]) -> bool:
    """Whether all read the test images as well as ours, within SAME."""
    return all(abs(m.test - table["ours"].test) <= SAME for name, m in table.items() if name != BOUND)


def compare(rows: dict[str, Row], names: Sequence[str], turns: int, folder: Path) -> list[str]:
    """Measures the rows and prints them as they come. Returns those where a framework did not learn what ours did."""
    others, strangers = [name for name in names if name not in ("ours", BOUND)], []
    print(header("work", "unit", "ours", "ours / bound", *(f"{name} (× ours)" for name in others)))
    for title, row in rows.items():  # scikit-learn has no squared error on sigmoid outputs
        able = [name for name in names if name != "scikit-learn" or row.work.loss == "cross_entropy"]
        table = measure(row, able, turns, folder)
        print(row_line(title, row, table, others), flush=True)
        strangers += [] if row.ask.startswith("predict") or is_alike(table) else [title]
    return strangers


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns 1 where a framework did not learn what ours did, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--rows", nargs="+", default=[""], metavar="TEXT", help="only those whose names contain one of these")
    add("--turns", type=int, default=5, metavar="N", help="that count, after the one that warms up")
    add("--folder", type=Path, default=ROOT / "data" / "mnist", help="where the images lie")
    options = parser.parse_args(arguments)
    print(describe_machine())
    rows = {title: row for title, row in ROWS.items() if any(text in title for text in options.rows)}
    strangers = compare(rows, list(installed()), options.turns, options.folder)
    for title in strangers:
        print(f"{title}: not everyone learnt what ours did, so their times say nothing", file=sys.stderr)
    return int(bool(strangers))


if __name__ == "__main__":
    sys.exit(main())
