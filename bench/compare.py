"""Speed at steady state: this project, the matmul lower bound and other frameworks side by side, in Markdown.

`python -m bench.compare`: each of them has a process of its own for each row of the table. The processes take turns, so
that a slow minute of the machine falls on all of them; the first turn warms up, and the median of the others counts.
All have the same number of threads: OMP_NUM_THREADS or OPENBLAS_NUM_THREADS where one is set, else one a core.
"""

import argparse
import contextlib
import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench.common import ROOT, describe_machine, header, installed, line, number, own_process
from bench.frameworks import FRAMEWORKS, Work, Worker

SAME = 0.02  # by how much the test accuracy of the same work may differ from ours, in [0, 1]
BOUND = "matmul bound"


class Row(NamedTuple):
    """What everyone is asked for, and the unit in which its time is told."""

    work: Work
    unit: str = "s an epoch"  # or "µs a step" or "µs an image", which is predicted


class Measured(NamedTuple):
    """How a framework did on a row."""

    value: float  # the median turn, in the row's unit
    test: float  # accuracy in [0, 1]


SMALL = (784, 128, 64, 10)
ROWS = {
    "784-128-64-10, batch 128, SGD": Row(Work(SMALL, "sgd", 128, 0.1)),
    "784-128-64-10, batch 128, Adam": Row(Work(SMALL, "adam", 128, 0.001)),
    "784-1024-1024-10, batch 128, Adam, 30,000 samples": Row(Work((784, 1024, 1024, 10), "adam", 128, 0.001, 30_000)),
    "784-16-16-10, one by one, SGD, 6,000 samples": Row(Work((784, 16, 16, 10), "sgd", 1, 0.0005, 6_000), "µs a step"),
    "784-128-64-10, predict one image": Row(Work(SMALL, "sgd", 128, 0.1), "µs an image"),
}


def measure(row: Row, names: Sequence[str], turns: int, folder: Path) -> dict[str, Measured]:
    """What each of the named frameworks reaches on a row, turn about."""
    steps = math.ceil(row.work.samples / row.work.batch)
    factor = {"s an epoch": 1, "µs a step": 1e6 / steps, "µs an image": 1e6}[row.unit]
    task = (Worker.time_prediction, folder) if row.unit == "µs an image" else (Worker.time_epoch,)
    with contextlib.ExitStack() as stack:
        processes = {name: stack.enter_context(own_process()) for name in names}
        for name, process in processes.items():
            process.submit(Worker.start, name, row.work, folder).result()
        seconds = [
            {name: process.submit(*task).result() for name, process in processes.items()} for _ in range(turns + 1)
        ]
        medians = {name: factor * statistics.median(turn[name] for turn in seconds[1:]) for name in names}
        learners = {name: process for name, process in processes.items() if name != BOUND}
        scores = {name: process.submit(Worker.score, folder).result() for name, process in learners.items()}
    return {name: Measured(value, scores.get(name, math.nan)) for name, value in medians.items()}


def row_line(title: str, row: Row, table: dict[str, Measured], others: Sequence[str]) -> str:
    """A line of the table: ours, that beside the bound, and what each other took, and how many times ours that is."""
    own = table["ours"].value
    cells = (f"{number(table[name].value)} ({table[name].value / own:.2f})" for name in others)
    return line(title, row.unit, own, own / table[BOUND].value, *cells)


def is_alike(table: dict[str, Measured]) -> bool:
    """Whether all read the test images as well as ours, within SAME."""
    return all(abs(m.test - table["ours"].test) <= SAME for name, m in table.items() if name != BOUND)


def compare(rows: dict[str, Row], names: Sequence[str], turns: int, folder: Path) -> list[str]:
    """Measures the rows and prints them as they come. Returns those where a framework did not learn what ours did."""
    others, strangers = [name for name in names if name not in ("ours", BOUND)], []
    print(header("work", "unit", "ours", "ours / bound", *(f"{name} (× ours)" for name in others)))
    for title, row in rows.items():
        table = measure(row, names, turns, folder)
        print(row_line(title, row, table, others), flush=True)
        strangers += [] if row.unit == "µs an image" or is_alike(table) else [title]
    return strangers


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns 1 where a framework did not learn what ours did, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--rows", nargs="+", default=[""], metavar="TEXT", help="only those whose names contain one of these")
    add("--turns", type=int, default=5, metavar="N", help="that count, after the one that warms up")
    add("--folder", type=Path, default=ROOT / "data" / "mnist", help="where the images lie")
    options = parser.parse_args(arguments)
    found = installed(package for package, _ in FRAMEWORKS.values())
    names = [name for name, (package, _) in FRAMEWORKS.items() if package in found]
    missing = "; ".join(name for name in FRAMEWORKS if name not in names)
    print(describe_machine(found), f"Not installed, so left out: {missing}." if missing else "")
    rows = {title: row for title, row in ROWS.items() if any(text in title for text in options.rows)}
    strangers = compare(rows, names, options.turns, options.folder)
    for title in strangers:
        print(f"{title}: not everyone learnt what ours did, so their times say nothing", file=sys.stderr)
    return int(bool(strangers))


if __name__ == "__main__":
    sys.exit(main())
