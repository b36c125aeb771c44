"""Recipes from seconds to an hour, trained through train.py, and how few images each misreads.

`python -m bench.record` trains a recipe with each seed, keeps its runs in one file of bench/logs, and then prints the
table of all logs and plots it, with the learning curves. A run that was stopped goes on when started again; until it
has ended, what it prints is kept in weights/, beside its checkpoint, and the log of the recipe stays as it is.
"""

import argparse
import re
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib import pyplot

from bench.common import ROOT, describe_machine, header, line, read_result, run_train
from data.checkpoint import checkpoint_path
from data.datasets import DATASETS
from data.files import write_whole

LOGS = ROOT / "bench" / "logs"
RECIPES = {  # flags of train.py, chosen on the validation set
    ("mnist", "default"): "",
    ("mnist", "minute"): "--layers 784 512 256 10 --epochs 45 --learning-rate 0.004 --weight-decay 0.05"
    " --label-smoothing 0.1 --augment rotation=15,scale=0.15,shear=0.15,shift=1,elastic=1.6,fade=0.6",
    ("mnist", "best"): "--layers 784 1536 768 10 --epochs 260 --learning-rate 0.0015 --weight-decay 0.1"
    " --schedule cosine --label-smoothing 0.1 --augment rotation=15,scale=0.15,shear=0.15,shift=1,elastic=1.6,fade=0.6",
    ("fashion-mnist", "default"): "",
    ("fashion-mnist", "best"): "--layers 784 2048 1024 10 --epochs 150 --learning-rate 0.0007 --schedule cosine"
    " --weight-decay 0.2 --label-smoothing 0.1 --augment flip=0.5,elastic=0.8,fade=0.8",
}
PUBLISHED = {  # test error in %, of plain perceptrons on MNIST
    "784-800-10, Simard et al. 2003": 1.60,
    "784-512-256-10 in NumPy, augmented images, schmidhuber-problems": 1.17,
    "3 × 1024, dropout, Srivastava et al. 2014": 1.06,
    "784-800-10, augmented images, Simard et al. 2003": 0.70,
    "784-2500-2000-1500-1000-500-10, augmented images, Ciresan et al. 2010": 0.35,
}


class Run(NamedTuple):
    """What a run has reached."""

    losses: list[float]  # an epoch each
    error: float  # share of the test images misread, in [0, 1]
    seconds: float


def summarize(machine: str, command: str, said: str) -> str:
    """A run as it stands in a log: its command with the seed, machine, result, and a line an epoch."""
    read_result(said)
    epochs = re.findall(r"^epoch +(\d+)/.*loss (\S+) .*?([\d.]+) s .*left$", said, re.MULTILINE)
    lines = (f"{epoch:>5}  {loss}  {seconds:>7}" for epoch, loss, seconds in epochs)
    return "\n".join([f"$ {command}", machine, said.splitlines()[-1], "epoch    loss  seconds", *lines, ""])


def read_log(dataset: str, recipe: str) -> dict[int, str]:
    """The runs in the log of a recipe, by their seed; none where there is no log."""
    path = LOGS / f"{dataset}-{recipe}.log"
    runs = re.split(r"\n(?=\$ )", path.read_text(encoding="utf-8")) if path.exists() else []
    return {int(run.partition("--seed ")[2].split()[0]): run for run in runs}


def read_run(run: str) -> Run:
    """What a run in a log has reached."""
    losses = re.findall(r"^ *\d+  ([\d.]+) +[\d.]+$", run, re.MULTILINE)
    return Run(list(map(float, losses)), *read_result(run))


def train(dataset: str, recipe: str, seed: int) -> None:
    """Trains, or goes on with what was stopped; once ended, the run takes the place of that of its seed in the log."""
    name, flags = f"{dataset}-{recipe}-{seed}", ["--dataset", dataset, *RECIPES[dataset, recipe].split()]
    flags += ["--seed", str(seed), "--weights", f"weights/{name}.pkl"]
    unfinished = ROOT / "weights" / f"{name}.log"
    checkpoint = checkpoint_path(unfinished.with_suffix(".pkl"))
    resume = checkpoint.exists() and unfinished.exists()
    if not resume:
        write_whole(unfinished, f"{describe_machine()}\n".encode())
        checkpoint.unlink(missing_ok=True)
    with open(unfinished, "a") as file:
        for text in run_train(*flags, *["--resume"] * resume):
            print(f"{name}  {text}", end="", flush=True)
            print(text, file=file, end="", flush=True)
    machine, _, said = unfinished.read_text().partition("\n")
    run = summarize(machine, f"python train.py {' '.join(flags)}", said)
    runs = sorted((read_log(dataset, recipe) | {seed: run}).items())
    write_whole(LOGS / f"{dataset}-{recipe}.log", "\n".join(run for _, run in runs).encode())
    unfinished.unlink()


def print_table(logs: dict[tuple[str, str], list[Run]]) -> None:
    """Prints a line a recipe, then what others have published."""
    print(header("dataset", "recipe", "seeds", "seconds of training", "test error, %"))
    for (dataset, recipe), runs in logs.items():
        errors = [100 * run.error for run in runs]
        deviation = f" ± {statistics.stdev(errors):.2f}" if len(errors) > 1 else ""
        seconds = f"{statistics.median(run.seconds for run in runs):.0f}"
        print(line(dataset, f"`{recipe}`", str(len(runs)), seconds, f"{statistics.mean(errors):.2f}{deviation}"))
    for system, error in PUBLISHED.items():
        print(line("mnist", system, "", "", f"{error:.2f}"))


def draw(logs: dict[tuple[str, str], list[Run]], path: Path) -> None:
    """Plots seconds against error with the published figures for MNIST, and the learning curves."""
    figure, (ladder, curves) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for system, error in PUBLISHED.items():
        ladder.axhline(error, color="0.7", linewidth=1)
        ladder.annotate(system, (1, error), xycoords=("axes fraction", "data"), ha="right", va="top", fontsize=7)
    for (dataset, recipe), runs in logs.items():
        if dataset == "mnist":
            ladder.semilogx([run.seconds for run in runs], [100 * run.error for run in runs], "o", label=recipe)
        curves.loglog(range(1, len(runs[0].losses) + 1), runs[0].losses, label=f"{dataset} {recipe}")
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
    if (options.dataset, options.recipe) not in RECIPES:
        parser.error(f"there is no recipe {options.recipe} of {options.dataset}")
    try:
        for seed in options.seeds:
            train(options.dataset, options.recipe, seed)
    except KeyboardInterrupt:
        sys.exit(130)
    logs = {key: [read_run(run) for run in log.values()] for key in RECIPES if (log := read_log(*key))}
    print_table(logs)
    draw(logs, ROOT / "bench" / "record.png")


if __name__ == "__main__":
    main()
