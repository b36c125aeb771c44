"""The speed comparison: this project, the matmul lower bound and other frameworks side by side, in Markdown.

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
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple, TypeAlias

from bench.frameworks import FRAMEWORKS, MEGABYTE, Work

ROOT = Path(__file__).resolve().parent.parent
QUICK = 2_000  # samples with --quick
SAME = 0.02  # by how much the test accuracy of the same work may differ from ours, in [0, 1]
BOUND, OTHER = "matmul bound", "the fastest other"
LONG, FLAT = 10, 5  # epochs, and the MB by which so many may raise the peak of train.py over that of one
THREADS = "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NPROC"  # NPROC: JAX


class Row(NamedTuple):
    """What everyone is asked for, our goals, and the unit in which the time is told."""

    work: Work
    goals: Mapping[str, float]  # at most so many of "unit" or times the bound; at least so many times another's speed
    ask: str = "train 1"
    unit: str = "s an epoch"


class Measured(NamedTuple):
    """How a framework did on a row."""

    value: float  # the median turn, in the row's unit
    peak: float  # MB, before anything is scored
    train: float  # accuracy in [0, 1]; NaN for the bound
    test: float


Table: TypeAlias = dict[str, Measured]  # by framework

SMALL, WIDE, DEEP = (784, 128, 64, 10), (784, 1024, 1024, 10), (784, 2048, 1024, 512, 10)
SINGLE = Work((784, 16, 16, 10), "sgd", 1, 0.1, 6_000, "sigmoid", "mean_squared_error")
LARGE = {"PyTorch": 1.0, OTHER: 1 / 1.1}  # faster than the one, within 10 % of the other
ROWS = {
    "784-128-64-10, batch 128, SGD": Row(Work(SMALL, "sgd", 128, 0.1), {BOUND: 1.2, OTHER: 1.4}),
    "784-128-64-10, batch 128, Adam": Row(Work(SMALL, "adam", 128, 0.001), {OTHER: 1.3}),
    "784-128-64-32-10, batch 64, Adam": Row(Work((784, 128, 64, 32, 10), "adam", 64, 0.001), {OTHER: 1.3}),
    "784-1024-1024-10, batch 128, SGD, 30,000 samples": Row(Work(WIDE, "sgd", 128, 0.1, 30_000), LARGE | {BOUND: 1.2}),
    "784-1024-1024-10, batch 128, Adam, 30,000 samples": Row(Work(WIDE, "adam", 128, 0.001, 30_000), LARGE),
    "784-2048-1024-512-10, batch 256, Adam, 20,000 samples": Row(Work(DEEP, "adam", 256, 0.001, 20_000), LARGE),
    "784-16-16-10, sigmoid, squared error, batch 1, SGD, 6,000 samples": Row(
        SINGLE, {"unit": 40, "PyTorch": 8}, unit="µs a step"
    ),
    "784-10-10, full batch, SGD": Row(Work((784, 10, 10), "sgd", 60_000, 0.3), {OTHER: 1}, "train 10", "ms a step"),
    "784-128-64-10, predict one image": Row(Work(SMALL, "sgd", 128, 0.1), {OTHER: 2}, "predict 1", "µs"),
    "784-128-64-10, predict 10,000 images": Row(Work(SMALL, "sgd", 128, 0.1), {OTHER: 1.2}, "predict 10000", "ms"),
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


def measure(row: Row, names: Sequence[str], turns: int, folder: Path) -> Table:
    """What each of the named frameworks reaches on a row, turn about."""
    steps = math.ceil(row.work.samples / row.work.batch) if row.unit.endswith("a step") else 1
    factor, table = {"s": 1, "ms": 1e3, "µs": 1e6}[row.unit.split()[0]] / steps, Table()
    with contextlib.ExitStack() as stack:
        ask = {name: stack.enter_context(worker(name, row.work, folder)) for name in names}
        rounds = [{name: ask[name](row.ask) for name in names} for _ in range(1 + turns)]
        for name in names:
            seconds = statistics.median(answers[name]["seconds"] for answers in rounds[1:])
            score = {"train": math.nan, "test": math.nan} if name == BOUND else ask[name]("score")
            table[name] = Measured(factor * seconds, rounds[-1][name]["peak"], **score)
    return table


def run_train(flags: str) -> tuple[float, float]:
    """The seconds and the peak MB that train.py takes with these flags, from the command to its end."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "train.py", *flags.split(), "--weights", f"{folder}/weights.pkl"]
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds, process.returncode = time.perf_counter() - started, os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return seconds, usage.ru_maxrss / MEGABYTE


def fastest(table: Table) -> float:
    """The least that another framework took; NaN where there is none."""
    return min((measured.value for name, measured in table.items() if name not in ("ours", BOUND)), default=math.nan)


def number(value: float) -> str:
    """Three digits; a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def line(*cells: str | float) -> str:
    """A line of a table in Markdown."""
    return f"| {' | '.join(cell if isinstance(cell, str) else number(cell) for cell in cells)} |"


def header(*cells: str) -> str:
    """The lines that begin a table in Markdown."""
    return f"\n{line(*cells)}\n{line(*['---'] * len(cells))}"


def time_line(title: str, row: Row, table: Table, names: Sequence[str]) -> str:
    """A line of the table of times."""
    values, own = [table[name].value if name in table else math.nan for name in names], table["ours"].value
    return line(title, row.unit, *values, fastest(table) / own, own / table[BOUND].value)


def learnt_line(title: str, table: Table, names: Sequence[str]) -> str:
    """A line of the table of accuracies and memory."""
    cells = {name: f"{100 * m.train:.1f} / {100 * m.test:.1f}, {m.peak:.0f}" for name, m in table.items()}
    return line(title, *(cells.get(name, "–") for name in names))


def goal_line(title: str, goal: str, reached: float, met: bool) -> str:
    """A line of the table of goals."""
    return line(title, goal, reached, "met" if met else "**missed**")


def goal_lines(title: str, row: Row, table: Table) -> Iterator[str]:
    """The lines of the table of goals for which a row has figures."""
    own, took = table["ours"].value, {name: measured.value for name, measured in table.items()}
    took[OTHER] = fastest(table)
    for name, limit in row.goals.items():
        if name in ("unit", BOUND):
            reached, unit = (own, row.unit) if name == "unit" else (own / took[BOUND], f"× the {BOUND}")
            yield goal_line(title, f"at most {limit:g} {unit}", reached, reached <= limit)
        elif not math.isnan(took.get(name, math.nan)):
            reached = took[name] / own
            yield goal_line(title, f"at least {limit:.2g} × as fast as {name}", reached, reached >= limit)


def train_lines() -> Iterator[str]:
    """The lines of the table of goals for the command."""
    flags = "--epochs 1 --samples 128"
    seconds = statistics.median(run_train(flags)[0] for _ in range(5))
    yield goal_line(f"train.py {flags}, from the command to its end", "at most 0.5 s", seconds, seconds <= 0.5)
    peak = run_train(f"--epochs {LONG}")[1]
    yield goal_line("train.py, peak memory", "at most 200 MB", peak, peak <= 200)
    rise = peak - run_train("--epochs 1")[1]
    yield goal_line(f"train.py, peak of {LONG} epochs less that of one", f"at most {FLAT} MB", rise, rise <= FLAT)


def compare(rows: Mapping[str, Row], names: Sequence[str], turns: int, folder: Path) -> dict[str, Table]:
    """Measures the rows, and prints times as they come, then what was learnt, then the goals."""
    tables, learners = {}, [name for name in names if name != BOUND]
    print(header("work", "unit", *names, "fastest other / ours", "ours / bound"))
    for title, row in rows.items():  # scikit-learn has no squared error on sigmoid outputs
        able = [name for name in names if name != "scikit-learn" or row.work.loss == "cross_entropy"]
        tables[title] = measure(row, able, turns, folder)
        print(time_line(title, row, tables[title], names), flush=True)
    print("\nAccuracy on training / test images in %, peak memory in MB:", header("work", *learners), sep="\n")
    for title, row in rows.items():
        if row.ask.startswith("train"):
            print(learnt_line(title, tables[title], learners))
    print(header("work", "goal", "reached", ""))
    for text in (text for title, row in rows.items() for text in goal_lines(title, row, tables[title])):
        print(text)
    return tables


def alike(table: Table) -> bool:
    """Whether all read the test images as well as ours, within SAME."""
    return all(abs(m.test - table["ours"].test) <= SAME for name, m in table.items() if name != BOUND)


def shrink(row: Row) -> Row:
    """The same row with QUICK samples at most."""
    samples, batch = (min(size, QUICK) for size in (row.work.samples, row.work.batch))
    return row._replace(work=row.work._replace(samples=samples, batch=batch))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns 1 where a framework did not learn what ours did, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--rows", nargs="+", default=[""], metavar="TEXT", help="only those whose names contain one of these")
    add("--epochs", type=int, default=5, metavar="N", help="turns that count, after the one that warms up")
    add("--quick", action="store_true", help=f"{QUICK} samples and one such turn, to see that everything works")
    add("--folder", type=Path, default=ROOT / "data" / "mnist", help="where the images lie")
    config = parser.parse_args(arguments)
    print(describe_machine())
    rows = {title: row for title, row in ROWS.items() if any(text in title for text in config.rows)}
    if config.quick:
        rows, config.epochs = {title: shrink(row) for title, row in rows.items()}, 1
    tables = compare(rows, list(installed()), config.epochs, config.folder)
    if any(text in "train.py" for text in config.rows):
        for text in train_lines():
            print(text, flush=True)
    strangers = [] if config.quick else [title for title, table in tables.items() if not alike(table)]
    for title in strangers:
        print(f"{title}: not everyone learnt what ours did, so their times say nothing", file=sys.stderr)
    return int(bool(strangers))


if __name__ == "__main__":
    sys.exit(main())
