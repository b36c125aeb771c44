"""Speed at steady state: this project, the matmul lower bound and other frameworks side by side, in Markdown.

`python -m bench.compare`: each of them has a process of its own for each row of the table. The processes take turns, so
that a slow minute of the machine falls on all of them; the first turn warms up, and the median of the others counts.
All have the same number of threads (common.threads).
"""

import argparse
import contextlib
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from bench.common import header, line, number, own_process, print_installed
from bench.frameworks import BOUND, FRAMEWORKS, Work, elapsed, score

SAME = 0.02  # by how much the test accuracy of the same work may differ from ours, in [0, 1]
SMALL = (784, 128, 64, 10)
ROWS = {
    "784-128-64-10, batch 128, SGD": Work(SMALL, "sgd", 128, 0.1),
    "784-128-64-10, batch 128, Adam": Work(SMALL, "adam", 128, 0.001),
    "784-1024-1024-10, batch 128, Adam, 30,000 samples": Work((784, 1024, 1024, 10), "adam", 128, 0.001, 30_000),
    "784-16-16-10, one by one, SGD, 6,000 samples": Work((784, 16, 16, 10), "sgd", 1, 0.0005, 6_000, "µs/step"),
    "784-128-64-10, predict one image": Work(SMALL, "sgd", 128, 0.1, unit="µs/image"),
}
Figures: TypeAlias = dict[str, float]  # one of each framework


def measure(work: Work, names: Sequence[str], turns: int, dataset: str) -> tuple[Figures, Figures]:
    """The median time of each framework in the unit, and the test accuracy of all but the bound, in [0, 1]."""
    with contextlib.ExitStack() as stack:
        processes = {name: stack.enter_context(own_process()) for name in names}

        def ask(question: Callable[[str, Work, str], float], names: Sequence[str]) -> Figures:
            return {name: processes[name].submit(question, name, work, dataset).result() for name in names}

        times = [ask(elapsed, names) for _ in range(1 + turns)][1:]
        accuracies = ask(score, [name for name in names if name != BOUND])
    return {name: statistics.median(turn[name] for turn in times) for name in names}, accuracies


def compare(rows: Mapping[str, Work], names: Sequence[str], turns: int, dataset: str) -> list[str]:
    """Measures the rows and prints them as they come. Returns those where a framework did not learn what ours did."""
    others, mismatched = [name for name in names if name not in ("ours", BOUND)], []
    print(header("work", "unit", "ours", "ours / bound", *(f"{name} (× ours)" for name in others)))
    for title, work in rows.items():
        times, accuracies = measure(work, names, turns, dataset)
        own = times["ours"]
        cells = (f"{number(times[name])} ({times[name] / own:.2f})" for name in others)
        print(line(title, work.unit, own, own / times[BOUND], *cells), flush=True)
        if not all(abs(accuracy - accuracies["ours"]) <= SAME for accuracy in accuracies.values()):
            mismatched.append(title)
    return mismatched


def main() -> None:
    """The command. SystemExit with a message where a framework did not learn what ours did."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5, metavar="N", help="that count, after the one that warms up")
    options = parser.parse_args()
    names = print_installed({name: [package] for name, (package, _) in FRAMEWORKS.items()})
    if mismatched := compare(ROWS, names, options.turns, "mnist"):
        sys.exit(f"not everyone learnt what ours did, so their times say nothing: {'; '.join(mismatched)}")


if __name__ == "__main__":
    main()
