"""How time and memory grow with width, depth, batch and samples, and a dataset that does not fit in memory.

`python -m bench.scaling` prints a table; `--large` trains on a sparse file of 10 GB instead, with 500 MB to allocate.
Memory is what was allocated: pages of a mapped file are the system's cache, which it takes back when it likes.
"""

import argparse
import itertools
import re
import resource
import statistics
import struct
import tempfile
import timeit
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np

import nn
from bench.common import describe_machine, header, line, own_process
from bench.compare import SMALL
from bench.frameworks import Work, initial_params, lower_bound
from data.augment import Images, Strengths
from data.batches import make_batches
from data.datasets import PIXELS
from data.load import load, scale_pixels

ROWS = {  # units of each of two hidden layers, hidden layers of 256 units, samples a step, samples of an epoch
    **{f"width {n}": Work((784, n, n, 10), "sgd", 128, 0.01) for n in (64, 128, 256, 512, 1024, 2048)},
    **{f"depth {n}": Work((784, *[256] * n, 10), "sgd", 128, 0.01) for n in (1, 2, 4, 8)},
    **{f"batch {n}": Work(SMALL, "sgd", n, 0.01) for n in (1, 4, 16, 64, 256, 1024, 4096)},
    **{f"{n:,} samples": Work(SMALL, "sgd", 128, 0.01, n) for n in (10_000, 30_000, 100_000, 300_000, 1_000_000)},
}
TURNS = 3  # epochs that count, after one that warms up; the median is told
LARGE, STEPS, LIMIT = 12_800_000, 300, 500_000_000  # samples, 10 GB; steps on them; bytes that may be allocated


def write_idx(path: Path, X: Images, samples: int) -> None:
    """An IDX file of so many images, those of X (N, 784) again and again."""
    with open(path, "wb") as file:
        file.write(struct.pack(">4I", 2051, samples, 28, 28))
        for i in range(0, samples, len(X)):
            file.write(X[: samples - i].tobytes())


def map_idx(path: Path) -> Images:
    """The images (N, 784) of an IDX file, read from the disk as they are used."""
    return np.memmap(path, np.uint8, "r", offset=16).reshape(-1, PIXELS)


def train_epoch(work: Work, X: Images, Y: nn.Labels, state: nn.State, epoch: int) -> Iterator[nn.State]:
    """The states of an epoch; targets are made a batch at a time: order and labels alone grow with the samples."""
    gradients: nn.Gradients = lambda params, x, t: nn.loss_and_gradients(params, scale_pixels(x), t)
    batches = make_batches(X, cast(nn.Array, Y), work.batch, np.random.default_rng([0, epoch]), Strengths())
    targeted = ((x, nn.one_hot(cast(nn.Labels, y), work.layers[-1])) for x, y in batches)
    return nn.gradient_descent(state, targeted, nn.OPTIMIZERS["sgd"], lambda step: work.rate, gradients)


def measure(work: Work, path: Path, Y: nn.Labels) -> tuple[float, float, float]:
    """Median seconds of an epoch of a row and of its matrix products alone, and MB allocated; in this process."""
    X, state = map_idx(path), nn.init_state(initial_params(work), nn.OPTIMIZERS["sgd"])
    Y, memory, epochs = np.resize(Y.astype(np.uint8), len(X)), 0.0, itertools.count(1)

    def epoch() -> None:
        nonlocal state, memory
        (state,) = deque(train_epoch(work, X, Y, state, next(epochs)), maxlen=1)
        (kilobytes,) = re.findall(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())  # Linux
        memory = max(memory, int(kilobytes) / 1024)

    seconds = timeit.repeat(epoch, number=1, repeat=1 + TURNS)[1:]
    bounds = timeit.repeat(lower_bound(work, X, Y.astype(np.int64)).epoch, number=1, repeat=TURNS)
    return statistics.median(seconds), statistics.median(bounds), memory


def train_on_large(samples: int = LARGE, steps: int = STEPS) -> None:
    """Prints what training on a large file takes under LIMIT, and that it cannot be read as a whole.

    This process may from now on allocate LIMIT bytes.
    """
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    work = Work(SMALL, "sgd", 128, 0.01)
    state, Y = nn.init_state(initial_params(work), nn.OPTIMIZERS["sgd"]), np.zeros(samples, np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        X = np.memmap(path := Path(folder) / "images", np.uint8, "w+", shape=(samples, PIXELS))  # sparse, all zeros
        states = itertools.islice(train_epoch(work, X, Y, state, 1), steps)
        seconds = timeit.timeit(lambda: deque(states, maxlen=0), number=1)
        size = f"{path.stat().st_size / 1e9:.1f} GB of images under a limit of {LIMIT / 1e6:.0f} MB"
        print(f"{size}: {steps} steps of {work.batch} in {seconds:.1f} s")
        try:
            np.fromfile(path, np.uint8)
        except MemoryError as error:
            print(f"the same file read as a whole: {error}")


def main() -> None:
    """The command: prints the table as it comes, each row measured in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true", help="train on a file of 10 GB instead")
    if parser.parse_args().large:
        return train_on_large()
    X, Y = load("mnist", "train")
    print(describe_machine(), header("", "ours, s", "bound, s", "ours / bound", "MB allocated"), sep="\n")
    for title, work in ROWS.items():
        with tempfile.TemporaryDirectory() as folder, own_process() as process:
            write_idx(path := Path(folder) / "images", X, work.samples)
            seconds, bound, memory = process.submit(measure, work, path, Y).result()
        print(line(title, seconds, bound, seconds / bound, memory), flush=True)


if __name__ == "__main__":
    main()
