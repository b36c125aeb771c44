"""Fault injection: tries to lose a run, to have a file run code, and to crash what reads files, many times each.

`python -m bench.faults --every 20` makes every 20th trial of each fault alone.
"""

import argparse
import contextlib
import errno
import gzip
import io
import pickle
import random
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from types import FrameType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

import nn
import train
from bench.common import MEGABYTE, ROOT, describe_machine, header, line
from bench.hostile import HOSTILE, PLANT, PY, RUNNING, sound_but
from data.datasets import NAMES
from data.formats import read_split
from data.pickles import load_tree, seal
from data.weights import load_weights, save_weights

SEED = 6
SHORT = "--samples 3000 --layers 784 32 10 --epochs 6"
RUNS = SHORT, f"{SHORT} --optimizer momentum --schedule constant --augment none --validation", f"{SHORT} --batch-size 0"
WEIGHTS, CHECKPOINT = Path("weights/mnist.pkl"), Path("weights/mnist.checkpoint.pkl")
SECONDS, MOST_MEMORY = 2.0, 1000.0  # of processor and in MB, that no file may take
SAVING = float("inf")  # the moment at which a temporary file is there
Item = TypeVar("Item")


class Harm(Exception):
    """What a trial has done: "lost", "executed" or "crashed", and how. Any other exception counts as the last."""


def expect(held: bool, how: object, verdict: str = "crashed") -> None:
    """Harm unless it held."""
    if not held:
        raise Harm(verdict, how)


def limited(read: Callable[[], Item], name: str) -> Item | None:
    """What read returns, None where it refuses the file in one line that names it. Harm where it takes too much."""
    started = time.process_time()
    try:
        return read()
    except (ValueError, FileNotFoundError) as error:
        expect(name in str(error) and "\n" not in str(error), f"{name} is refused by {error!r}")
        return None
    finally:
        seconds, memory = time.process_time() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MEGABYTE
        expect(seconds <= SECONDS and memory <= MOST_MEMORY, f"{name} takes {seconds:.1f} s, {memory:.0f} MB")


def mutated(rng: random.Random, content: bytes) -> bytes:
    """The content with one to three faults: bytes changed, cut out, cut off, doubled or set to an extreme number."""
    for _ in range(rng.randint(1, 3)):
        i, n = rng.randrange(len(content) + 1), rng.choice((1, 1, 1, 2, 4, 8, 40))
        extremes = b"\0" * n, b"\xff" * n, b"\x7f" + b"\xff" * (n - 1)
        other = rng.choice((rng.randbytes(n), rng.randbytes(n), b"", 2 * content[i : i + n], *extremes))
        content = content[:i] + other + content[i + n :] if rng.random() < 0.95 else content[:i]
    return content


def fill(folder: Path, files: Mapping[str, bytes]) -> None:
    """Puts files into a folder, which is made if it is not there."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def contents(folder: Path) -> dict[str, bytes]:
    """All that is in a folder, hidden and temporary files too."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run(flags: str, number: int = 0, moment: float = 0.0) -> tuple[int, str]:
    """Exit status and errors of train.py, going on from a checkpoint if there is one; a signal comes at a moment."""
    command = [sys.executable, f"{ROOT}/train.py", *flags.split(), *["--resume"] * CHECKPOINT.exists()]
    ignore = (lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) if number else None  # until train.py does
    silent, piped = subprocess.DEVNULL, subprocess.PIPE
    with subprocess.Popen(command, stdout=silent, stderr=piped, text=True, preexec_fn=ignore) as process:
        end = time.monotonic() + moment
        try:
            while number and process.poll() is None and time.monotonic() < end:
                if moment == SAVING and any(WEIGHTS.parent.glob("*.tmp")):
                    break
                time.sleep(0.0005)
            process.send_signal(number)
            errors = process.communicate(timeout=600)[1]
        finally:  # Ctrl-C is for both
            process.kill()
    return process.returncode, errors


@cache
def whole(flags: str) -> tuple[dict[str, bytes], float]:
    """The files that a run writes which nobody stops, and its seconds."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        started = time.monotonic()
        ended = run(flags)
        expect(ended == (0, ""), f"train.py {flags} by itself: {ended}")
        return contents(WEIGHTS.parent), time.monotonic() - started


def stopped(rng: random.Random, i: int, number: int, most: int = 1, runs: Sequence[str] = ()) -> None:
    """A run that up to most signals stop, at any moment, at its start or while it saves, ends with the same weights."""
    flags, hits = rng.choice(runs or RUNS), 0
    files, seconds = whole(flags)
    while hits < most and not (hits and WEIGHTS.exists()):
        moment = rng.choice((rng.uniform(0, seconds), rng.uniform(0, seconds / 2), SAVING))
        status, errors = run(flags, number, moment)
        hits += status != 0  # else it was done, or had not begun
        if status and number != signal.SIGKILL:
            said = errors.startswith("train.py: stopped; ") and errors.count("\n") == 1
            idle = WEIGHTS.exists() or not CHECKPOINT.exists()  # after the run's end, or before it begins
            silent = errors == "" and (idle or status == -number)  # a shell makes the same of both statuses
            clean = (said or silent) and status in (128 + number, -number) and not any(WEIGHTS.parent.glob("*.tmp"))
            expect(clean, f"{flags}: {status}, {errors}")
    status, errors = run(flags)
    expect(status == 0, f"going on with {flags}: {errors}")
    expect(WEIGHTS.read_bytes() == files[WEIGHTS.name], f"other weights with {flags}", "lost")


def runs_at_once(rng: random.Random, i: int) -> None:
    """Two runs of train.py write the same weights: they end as one of the two."""
    both = [f"{SHORT} --seed {seed}" for seed in (1, 2)]
    either = [whole(flags)[0][WEIGHTS.name] for flags in both]
    with ThreadPoolExecutor(2) as pool:
        ends = list(pool.map(run, both))
    left = contents(WEIGHTS.parent)
    expect(ends == [(0, "")] * 2 and left[WEIGHTS.name] in either and len(left) == 2, f"{ends}, {list(left)}", "lost")
    load_tree(CHECKPOINT)


def train_main(*flags: str) -> int:
    """The status of train.main in this process: 0, or 1 with one line that says why. Harm for any other end."""
    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        status = limited(lambda: train.main(flags), "train.main")
    said = errors.getvalue()
    one_line = said.startswith("train.py: ") and said.count("\n") == 1 and len(said) < 2000
    expect(status == 0 or status == 1 and one_line, f"status {status}, {said}")
    return int(status == 1)


def weights_changed(rng: random.Random, i: int) -> None:
    """A file cut at each 1/200th, or changed, at random under a SHA-256 that fits: it is refused, or holds weights."""
    content = sound_but() if i // 200 % 2 else whole(SHORT)[0][WEIGHTS.name]
    damaged = content[: len(content) * (i % 200) // 200] if i < 400 else mutated(rng, content)
    path = Path("weights.pkl")
    path.write_bytes(rng.choice((seal(damaged), damaged)))
    if weights := limited(lambda: load_weights(path), str(path)):
        layers, params = weights["layers"], weights["params"]
        shapes = [params[f"W{l}"].shape for l in range(1, nn.count_layers(params) + 1)]
        finite = all(np.isfinite(A).all() for A in params.values())
        expect(shapes == list(zip(layers, layers[1:])) and finite, "loads what is no weights")


def checkpoint_changed(rng: random.Random, i: int) -> None:
    """A checkpoint changed where the arrays are not: --resume goes on, or is refused in one line."""
    flags = "--samples 200 --layers 784 1 10 --schedule constant --epochs"
    content = whole(f"{flags} 1")[0][CHECKPOINT.name]
    at = rng.choice((rng.randrange(200), rng.randrange(len(content) - 900, len(content))))
    damaged = content[:at] + mutated(rng, content[at : at + 20]) + content[at + 20 :]
    fill(CHECKPOINT.parent, {CHECKPOINT.name: rng.choice((seal(damaged), damaged))})
    train_main("--resume", *flags.split(), "2")


def hostile_file(rng: random.Random, i: int) -> None:
    """Neither load_weights nor train.main runs it; if it is to run something, it does so in pickle.loads."""
    name, content = list(HOSTILE.items())[i]
    path, canary = Path("hostile.pkl"), Path("canary")
    fill(Path(), {path.name: content, "planted.pkl": PLANT, "planted.py": PY.encode()})
    try:
        expect(limited(lambda: load_weights(path), str(path)) is None, f"{name} loads")
        expect(train_main("--evaluate", "--weights", str(path)) == 1, f"{name} is scored")
    finally:
        expect(not canary.exists(), name, "executed")
    if name in RUNNING:
        with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()):
            pickle.loads(content)
        end = time.monotonic() + 5
        while not canary.exists():
            expect(time.monotonic() < end, f"{name} is not hostile")


def idx(entries: NDArray[np.uint8]) -> bytes:
    """An IDX file of images (N, 28, 28) or labels (N,)."""
    return struct.pack(f">{1 + entries.ndim}I", 2048 + entries.ndim, *entries.shape) + entries.tobytes()


NOISE = np.random.default_rng(SEED).integers(0, 256, (12, 28, 28), np.uint8)
DIGITS = np.arange(12, dtype=np.uint8) % 10
IDX = dict(zip(NAMES, (idx(NOISE), idx(DIGITS))))
ROWS = [["label", *range(784)], *np.column_stack([DIGITS, NOISE.reshape(12, 784)]).tolist()]
NPZ = io.BytesIO()
np.savez_compressed(NPZ, x_train=NOISE, y_train=DIGITS)
LAYOUTS: dict[str, dict[str, bytes]] = {
    "IDX": IDX,
    "gzipped IDX": {f"emnist-{name}.gz": gzip.compress(content, mtime=0) for name, content in IDX.items()},
    "CSV": {"train.csv": "\n".join(",".join(map(str, row)) for row in ROWS).encode()},
    "npz": {"mnist.npz": NPZ.getvalue()},
}


def layout_changed(rng: random.Random, i: int, layout: str) -> None:
    """A file of a layout changed: refused in a line that names the folder, or read as images and a label for each."""
    name, content = rng.choice(list(LAYOUTS[layout].items()))
    fill(Path("own"), LAYOUTS[layout] | {name: mutated(rng, content)})
    if read := limited(lambda: read_split(Path("own"), "train"), "own/"):
        images, labels = read
        fit = labels is not None and labels.shape == (len(images),) and labels.dtype.kind in "iu"
        expect(fit and images.shape[1:] == (784,) and images.dtype == np.uint8, f"{name} reads as {images}, {labels}")


def write_failing(rng: random.Random, i: int) -> None:
    """A call that save_weights makes fails, for the disk or for a signal: the file is the old or the new one, whole."""
    path, called, number = Path("weights.pkl"), list[object](), 0
    path.write_bytes(sound_but())
    weights, new = load_weights(path), contents(Path())

    def fail(frame: FrameType, event: str, function: object) -> None:
        if event == "c_call":
            called.append(function)
            if len(called) == number:
                raise error

    for error in OSError(), OSError(errno.ENOSPC, "full"), SystemExit(130):  # the first is never raised
        path.write_bytes(b"old")
        allowed = [{path.name: b"old"}, new]
        called.clear()
        with contextlib.suppress(OSError, SystemExit, ValueError):  # the last is save_tree's, of the first
            sys.setprofile(fail)  # until it raises
            save_weights(path, weights)
            sys.setprofile(None)
            allowed = [new]
        expect(contents(Path()) in allowed, f"{called[-1:]}, {error!r}: {contents(Path())}", "lost")
        number = number or i % len(called) + 1


def disk_full(rng: random.Random, i: int) -> None:
    """A run finds the disk full, if root may mount one, or a file: status 1, one message, and what was there stays."""
    folder, limits, page = Path("weights"), resource.getrlimit(resource.RLIMIT_FSIZE), resource.getpagesize()
    old, room = {"w.pkl": b"old", "w.checkpoint.pkl": b"old"}, rng.choice((0, page))
    folder.mkdir()
    mount = f"mount -t tmpfs -o size={2 * page + room} tmpfs weights 2>/dev/null"
    mounted = rng.random() < 0.5 and subprocess.run(mount, shell=True).returncode == 0
    try:
        fill(folder, old)
        if not mounted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
        status, errors = run(f"{SHORT} --weights weights/w.pkl")
        held = status == 1 and errors.count("\n") == 1 and "weights/w.checkpoint.pkl: " in errors
        expect(held and contents(folder) == old, f"{status}, {errors}", "lost")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        if mounted:
            subprocess.run(["umount", folder], check=True)


FAULTS: dict[str, tuple[Callable[[random.Random, int], None], int]] = {  # a trial, and how many of them there are
    "kill -9 up to 3 times at random moments, then --resume": (partial(stopped, number=signal.SIGKILL, most=3), 50),
    "Ctrl-C at a random moment, then --resume": (partial(stopped, number=signal.SIGINT), 24),
    "SIGTERM at a random moment, then --resume": (partial(stopped, number=signal.SIGTERM), 16),
    "kill -9 of the default run on MNIST, then --resume": (partial(stopped, number=signal.SIGKILL, runs=[""]), 1),
    "two runs that write the same weights": (runs_at_once, 5),
    "weights files cut at every 1/200th or changed": (weights_changed, 10_400),
    "checkpoints changed, then --resume": (checkpoint_changed, 500),
    "hostile weights files, load_weights and train.main": (hostile_file, len(HOSTILE)),
    **{f"{layout} files changed": (partial(layout_changed, layout=layout), 5_000) for layout in LAYOUTS},
    "every call of a write fails in turn": (write_failing, 2_000),  # more than it makes
    "full disk while saving": (disk_full, 20),
}


def attempt(name: str, every: int) -> Counter[str]:
    """Makes every N-th trial of a fault and prints its line of the table. Returns its harm, which stderr describes."""
    trial, number = FAULTS[name]
    numbers, harm = range(0, number, every), Counter[str]()
    for i in numbers:
        try:
            with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
                trial(random.Random(f"{SEED} {name} {i}"), i)
        except (Exception, SystemExit) as error:
            harm[error.args[0] if isinstance(error, Harm) else "crashed"] += 1
            print(f"{name}, trial {i}: {error!r}", file=sys.stderr, flush=True)
    print(line(name, str(len(numbers)), str(len(numbers) - harm.total())), flush=True)
    return harm


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table. Returns the exit status: 1 where anything was lost, executed or crashed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="make every N-th trial of each fault alone")
    every = parser.parse_args(arguments).every
    print(f"seed {SEED}; {describe_machine()}\n{header('fault', 'tried', 'held')}", flush=True)
    harm = sum((attempt(name, every) for name in FAULTS), Counter[str]())
    print("\n" + ", ".join(f"{verdict}: {harm[verdict]}" for verdict in ("lost", "executed", "crashed")))
    return int(harm.total() > 0)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)  # make says so, in a line
