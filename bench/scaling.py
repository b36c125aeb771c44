"""How the cost of training scales with width, depth and batch: this project and the matmul lower bound.

`python -m bench.scaling` prints a table and makes a plot. Both take turns in this process, with plain gradient descent.
Costly points make do with the first of MNIST's samples, as many as the table says; all times are scaled to 60,000.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bench.compare import ROOT, describe_machine, header, line
from bench.frameworks import Images, Labels, Work, flops, lower_bound, ours, time_call
from data.load import load

WIDTHS = 64, 128, 256, 512, 1024, 2048, 4096  # units of each of two hidden layers, at batch 128
DEPTHS = 1, 2, 3, 4, 5, 6, 7, 8  # hidden layers of 256 units, at batch 128
BATCHES = 1, 4, 16, 64, 256, 1024, 4096  # samples a step, at 784-128-64-10
WHOLE = 60_000  # samples that the times are scaled to
TURNS = 5  # epochs of each that count, after one that warms up; the median is told
EPOCH, SPEED, STEP = 1.0, 1e11, 1e-4  # seconds for an epoch, at a guess of operations a second and seconds a step
PLOT = ROOT / "bench" / "scaling.png"


class Point(NamedTuple):
    """Where the cost is measured, and the seconds of an epoch of WHOLE samples there."""

    size: int  # the width, depth or batch
    work: Work
    ours: float = 0.0
    bound: float = 0.0


def affordable(layers: Sequence[int], batch: int) -> int:
    """How many samples, in full batches, make an epoch of some EPOCH seconds: four batches at least."""
    samples = min(WHOLE, int(EPOCH / (flops(layers) / SPEED + STEP / batch)))
    return max(4, samples // batch) * batch


def point(size: int, layers: Sequence[int], batch: int) -> Point:
    """A point that is yet to be measured."""
    return Point(size, Work(layers, "sgd", batch, 0.01, affordable(layers, batch)))


def panels() -> dict[str, list[Point]]:
    """The points of the table and of each panel of the plot."""
    return {
        "width": [point(n, (784, n, n, 10), 128) for n in WIDTHS],
        "depth": [point(n, (784, *[256] * n, 10), 128) for n in DEPTHS],
        "batch": [point(n, (784, 128, 64, 10), n) for n in BATCHES],
    }


def measure(point: Point, X: Images, Y: Labels) -> Point:
    """The point with its times."""
    N = point.work.samples
    trainers = [make(point.work, X[:N], Y[:N]) for make in (ours, lower_bound)]
    turns = [[time_call(trainer.epoch) for trainer in trainers] for _ in range(1 + TURNS)][1:]
    return point._replace(**{k: statistics.median(t) * WHOLE / N for k, t in zip(("ours", "bound"), zip(*turns))})


def point_line(panel: str, point: Point) -> str:
    """A line of the table."""
    speed = flops(point.work.layers) * WHOLE / point.bound / 1e9
    ratio = point.ours / point.bound
    return line(f"{panel} {point.size}", str(point.work.samples), point.ours, point.bound, ratio, speed)


def draw(measured: Mapping[str, Sequence[Point]]) -> None:
    """Plots the times, and below them their ratio, to PLOT."""
    from matplotlib import pyplot

    columns = len(measured)
    figure, axes = pyplot.subplots(2, columns, figsize=(11, 5.5), sharex="col", sharey="row", layout="constrained")
    for (times, ratios), (panel, row) in zip(axes.T, measured.items()):
        sizes = [point.size for point in row]
        times.loglog(sizes, [point.ours for point in row], "o-", label="ours")
        times.loglog(sizes, [point.bound for point in row], "s--", label="matmul lower bound")
        ratios.semilogx(sizes, [point.ours / point.bound for point in row], "o-", color="black")
        ratios.set_xticks(sizes, map(str, sizes))
        ratios.minorticks_off()
        ratios.set_xlabel(panel)
    axes[0, 0].set_ylabel(f"seconds for {WHOLE:,} samples")
    axes[1, 0].set(ylabel="ours / lower bound", ylim=(0, None))
    axes[0, 0].legend()
    figure.savefig(PLOT, dpi=80)


def main() -> None:
    """Prints the table as it comes, and plots it."""
    (X, Y), measured = load("mnist", "train"), panels()
    print(describe_machine(), header("", "samples", "ours, s", "bound, s", "ours / bound", "bound, GFLOP/s"), sep="\n")
    for panel, row in measured.items():
        for i, unmeasured in enumerate(row):
            row[i] = measure(unmeasured, X, Y)
            print(point_line(panel, row[i]), flush=True)
    draw(measured)
    print(f"\nDrawn in {PLOT.relative_to(ROOT)}.")


if __name__ == "__main__":
    main()
