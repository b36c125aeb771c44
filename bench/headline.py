"""What a user waits for: from the command to trained weights of an accuracy, with this project and with other tools.

`python -m bench.headline` runs the scripts in bench/newcomers, interleaved, each a whole process, and prints medians.
README.md says what all of them train. A turn has its own seed, of weights and order.
Each tool has a thread for each core, or OMP_NUM_THREADS; but where this project augments, in a thread of its own, its
matrix products have one, as in make train.
The first turn is cold, where the system lets go of cached files, and told apart; the others find all in the cache.
"""

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement

from bench.common import MEGABYTE, ROOT, cores, environment, header, line, print_installed

SCRIPTS = ROOT / "bench" / "newcomers"


class Tool(NamedTuple):
    """A script in newcomers, the packages that one installs for it, and what follows its arguments."""

    script: str
    packages: tuple[str, ...]
    more: tuple[str, ...] = ()
    augments: bool = True  # whether it can augment its data on a CPU
    augmenting: Mapping[str, str] = {}  # variables of its environment where it does


class Run(NamedTuple):
    """What a process took."""

    seconds: float
    cpu: float  # seconds of all its threads and children
    peak: float  # MB, resident; no less than this process holds, as it is forked from it
    epochs: float


OURS = "numpy-mlp"
TOOLS = {
    OURS: Tool("numpy_mlp.py", ("numpy", "tqdm"), augmenting={"OPENBLAS_NUM_THREADS": "1"}),
    "PyTorch": Tool("pytorch.py", ("torch", "numpy")),
    "torch.compile": Tool("pytorch.py", ("torch", "numpy"), ("compile",)),
    "JAX, step": Tool("jax_mlp.py", ("jax",)),
    "JAX, scan": Tool("jax_mlp.py", ("jax",), ("scan",)),
    "scikit-learn": Tool("scikit_learn.py", ("scikit-learn",)),
    "Keras": Tool("keras_mlp.py", ("keras", "jax"), augments=False),
}
ROWS = {  # dataset, accuracy, whether images are augmented
    "digits": ("mnist", 0.975, "no"),
    "digits augmented": ("mnist", 0.985, "yes"),
    "clothes": ("fashion-mnist", 0.88, "no"),
}


def installed_files(packages: Iterable[str]) -> Iterator[Path]:
    """The files of the packages and of all that they require here, without extras."""
    left, seen = list(packages), set[str]()
    while left:
        package = metadata.distribution(left.pop())
        if package.name not in seen:
            seen.add(package.name)
            yield from filter(Path.is_file, (Path(str(file.locate())) for file in package.files or []))
            required = map(Requirement, package.requires or [])
            left += [each.name for each in required if each.marker is None or each.marker.evaluate({"extra": ""})]


def code_lines(script: Path) -> int:
    """Lines that are neither empty nor a comment nor a docstring of one line."""
    lines = map(str.strip, script.read_text().splitlines())
    return sum(bool(text) and not text.startswith(("#", '"""')) for text in lines)


def forget(paths: Iterable[Path]) -> None:
    """Has Linux drop files from its cache; it keeps those that other processes have mapped."""
    if sys.platform == "linux":
        for path in paths:
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run(tool: Tool, row: tuple[str, float, str], seed: int, cache: str) -> Run:
    """One process from exec to saved weights. CalledProcessError where it fails."""
    dataset, target, augment = row
    variables = environment() | {"TORCHINDUCTOR_CACHE_DIR": cache, "PYTHONPATH": str(ROOT)}
    variables |= tool.augmenting if augment == "yes" else {}
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as said:
        weights = f"{folder}/weights.keras"  # Keras wants to see its own suffix
        flags = [dataset, str(target), augment, str(seed), weights, *tool.more]
        command, started = [sys.executable, str(SCRIPTS / tool.script), *flags], time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, env=os.environ | variables, stdout=said)
        _, status, usage = os.wait4(process.pid, 0)
        seconds, process.returncode = time.perf_counter() - started, os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        said.seek(0)
        epochs = int(said.readlines()[-1].split()[0])
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / MEGABYTE, epochs)


def measure(names: Sequence[str], row: tuple[str, float, str], turns: int) -> dict[str, tuple[Run, Run]]:
    """The cold run of each tool, and the medians of the warm ones, interleaved."""
    runs = {name: list[Run]() for name in names}
    with tempfile.TemporaryDirectory() as cache:
        for turn in range(1 + turns):
            for name in names:
                if turn == 0:
                    forget(installed_files(TOOLS[name].packages))
                runs[name].append(run(TOOLS[name], row, turn, cache))
                print(f"{name}, turn {turn}: {runs[name][-1].seconds:.1f} s", file=sys.stderr, flush=True)
    return {name: (cold, Run(*map(statistics.median, zip(*warm)))) for name, (cold, *warm) in runs.items()}


def print_row(title: str, measured: Mapping[str, tuple[Run, Run]]) -> None:
    """Prints a table, a line a tool, and how ours stands beside the fastest other."""
    print(f"\n{title}:", header("tool", "s", "s, cold", "CPU s", "peak MB", "epochs", "× ours"))
    ratios = {name: warm.seconds / measured[OURS][1].seconds for name, (_, warm) in measured.items()}
    others = [ratio for name, ratio in ratios.items() if name != OURS]
    for name, (cold, warm) in measured.items():
        print(line(name, warm.seconds, cold.seconds, warm.cpu, warm.peak, f"{warm.epochs:g}", ratios[name]))
    print(f"\nfastest other / ours: {min(others, default=math.nan):.2f}", flush=True)


def draw(measured: Mapping[str, Mapping[str, tuple[Run, Run]]], path: Path) -> None:
    """Plots the warm medians, a panel a row."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(measured), figsize=(11, 3), squeeze=False, layout="constrained")
    for axis, (title, runs) in zip(axes[0], measured.items()):
        seconds = [warm.seconds for _, warm in runs.values()]
        bars = axis.barh(list(runs), seconds, color=["C1" if name == OURS else "C0" for name in runs])
        axis.bar_label(bars, [f"{s:.1f} s" for s in seconds], padding=3)
        axis.invert_yaxis()
        axis.set(title=title, xlabel="seconds")
        axis.margins(x=0.3)
    figure.suptitle("From the command to saved weights")
    figure.savefig(path, dpi=80)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5, help="that count, after the cold one")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", cores())
    names = print_installed({name: tool.packages for name, tool in TOOLS.items()})
    print(header("tool", "lines of code", "MB installed"))
    for name in names:
        size = sum(path.stat().st_size for path in installed_files(TOOLS[name].packages)) / 1e6
        print(line(name, str(code_lines(SCRIPTS / TOOLS[name].script)), f"{size:.0f}"))
    measured = {}
    for row in options.rows:
        _, accuracy, augment = ROWS[row]
        able = [name for name in names if TOOLS[name].augments or augment == "no"]
        title = f"{row}, {100 * accuracy:g} %"
        measured[title] = measure(able, ROWS[row], options.turns)
        print_row(title, measured[title])
    if options.rows == list(ROWS):
        draw(measured, ROOT / "bench" / "headline.png")
        print("\nDrawn in bench/headline.png.")


if __name__ == "__main__":
    main()
