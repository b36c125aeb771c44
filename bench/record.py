"""The recipes from seconds to half an hour, trained through train.py, and how few images each misreads.

`python -m bench.record` trains a recipe with each seed, keeps what train.py prints in bench/logs, and then prints the
table of all logs there and plots it, with the learning curves. A run that was stopped goes on when started again; until
it has ended, what it prints is kept in weights/, beside its checkpoint.
"""

import argparse
import re
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench.compare import ROOT, describe_machine, header, line
from data.checkpoint import checkpoint_path
from data.datasets import DATASETS

LOGS = ROOT / "bench" / "logs"
RECIPES = {  # flags of train.py, chosen on the validation set
    ("mnist", "default"): "",
    ("mnist", "minute"): "--layers 784 512 256 10 --batch-size 256 --epochs 45 --weight-decay 0.05"
    " --label-smoothing 0.1 --augment rotation=15,scale=0.15,shear=0.15,elastic=1.1",
    ("mnist", "best"): "--layers 784 1536 768 10 --batch-size 256 --learning-rate 0.0015 --epochs 160"
    " --label-smoothing 0.1 --augment rotation=15,scale=0.15,shear=0.15,elastic=1.1",
    ("fashion-mnist", "default"): "",
    ("fashion-mnist", "best"): "--layers 784 2048 1024 10 --batch-size 256 --learning-rate 0.0007 --epochs 160"
    " --weight-decay 0.2 --label-smoothing 0.1 --augment flip=0.5,elastic=0.4",
}
PUBLISHED = {  # test error in %, of plain perceptrons on MNIST
    "784-800-10, Simard et al. 2003": 1.60,
    "784-512-256-10 in NumPy, augmented images": 1.17,
    "3 × 1024, dropout, Srivastava et al. 2014": 1.06,
    "784-800-10, augmented images, Simard et al. 2003": 0.70,
    "784-2500-2000-1500-1000-500-10, augmented images, Ciresan et al. 2010": 0.35,
}


class Log(NamedTuple):
    """What a run printed."""

    losses: list[float]  # an epoch each
    error: float  # test images misread, in %
    seconds: float


def train(dataset: str, recipe: str, seed: int) -> None:
    """Trains, or goes on with what was stopped; what train.py prints becomes the log once the run has ended."""
    name, flags = f"{dataset}-{recipe}-{seed}", RECIPES[dataset, recipe].split()
    weights = ROOT / "weights" / f"{name}.pkl"
    unfinished = weights.with_suffix(".log")
    resume = checkpoint_path(weights).exists() and unfinished.exists()
    command = ["train.py", "--dataset", dataset, *flags, "--seed", str(seed), "--weights", f"weights/{name}.pkl"]
    if not resume:
        unfinished.parent.mkdir(exist_ok=True)
        unfinished.write_text(f"{describe_machine().partition(' Not installed')[0]}\n$ python {' '.join(command)}\n")
        checkpoint_path(weights).unlink(missing_ok=True)
    with (
        open(unfinished, "a") as file,
        subprocess.Popen(
            [sys.executable, *command, *["--resume"] * resume], cwd=ROOT, text=True, stdout=subprocess.PIPE
        ) as process,
    ):
        assert process.stdout
        for text in process.stdout:
            print(f"{name}  {text}", end="", flush=True)
            print(text, file=file, end="", flush=True)
    if process.returncode:
        raise SystemExit(process.returncode)
    unfinished.replace(LOGS / f"{name}.log")


def read(path: Path) -> Log:
    """What a log holds. ValueError for one of a run that has not ended."""
    text = path.read_text()
    if not (found := re.findall(r"\((\d+) errors in (\d+)\), ([\d.]+) s", text)):
        raise ValueError(f"{path} is of a run that has not ended")
    errors, samples, seconds = map(float, found[-1])
    return Log([float(loss) for loss in re.findall(r"loss ([\d.]+)", text)], 100 * errors / samples, seconds)


def print_table(logs: dict[tuple[str, str], list[Log]]) -> None:
    """Prints a line a recipe, then what others have published."""
    print(header("dataset", "recipe", "seeds", "seconds of training", "test error, %"))
    for (dataset, recipe), group in logs.items():
        errors = [log.error for log in group]
        deviation = f" ± {statistics.stdev(errors):.2f}" if len(errors) > 1 else ""
        seconds = f"{statistics.median(log.seconds for log in group):.0f}"
        print(line(dataset, f"`{recipe}`", str(len(group)), seconds, f"{statistics.mean(errors):.2f}{deviation}"))
    for system, error in PUBLISHED.items():
        print(line("mnist", system, "", "", f"{error:.2f}"))


def draw(logs: dict[tuple[str, str], list[Log]], path: Path) -> None:
    """Plots seconds against error with the published figures for MNIST, and the learning curves."""
    from matplotlib import pyplot

    figure, (ladder, curves) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for system, error in PUBLISHED.items():
        ladder.axhline(error, color="0.7", linewidth=1)
        ladder.annotate(system, (1, error), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=7)
    for (dataset, recipe), group in logs.items():
        if dataset == "mnist":
            ladder.semilogx([log.seconds for log in group], [log.error for log in group], "o", label=recipe)
        curves.loglog(range(1, len(group[0].losses) + 1), group[0].losses, label=f"{dataset} {recipe}")
    ladder.set(xlabel="seconds of training", ylabel="test error, %", ylim=(0, None), title="MNIST")
    curves.set(xlabel="epoch", ylabel="loss on the (augmented) training set")
    ladder.legend(fontsize=8)
    curves.legend(fontsize=8)
    figure.savefig(path, dpi=80)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--dataset", choices=DATASETS, default="mnist")
    add("--recipe", choices=sorted({recipe for _, recipe in RECIPES}), default="best")
    add("--seeds", type=int, nargs="*", default=[0, 1, 2], help="none: only the table and the plot of what is there")
    options = parser.parse_args(arguments)
    for seed in options.seeds:
        train(options.dataset, options.recipe, seed)
    groups = {key: sorted(LOGS.glob(f"{'-'.join(key)}-*.log")) for key in RECIPES}
    try:
        logs = {key: [read(path) for path in paths] for key, paths in groups.items() if paths}
    except ValueError as error:
        sys.exit(f"bench.record: {error}; remove it, and then --seeds alone prints the table")
    print_table(logs)
    draw(logs, ROOT / "bench" / "record.png")


if __name__ == "__main__":
    main()
