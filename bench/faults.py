"""Fault injection: tries to lose a run, to have a file run code, and to crash what reads files, many times each.

python -m bench.faults [--share 0.01]
"""

import argparse
import contextlib
import copyreg
import errno
import functools
import gzip
import io
import itertools
import os
import pickle
import platform
import random
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

import nn
import train
from bench.common import MEGABYTE, ROOT
from bench.hostile import HOSTILE, PLANT, PY, RUNNING
from data.checkpoint import checkpoint_path, save_checkpoint
from data.datasets import NAMES
from data.files import write_whole
from data.formats import read_split
from data.pickles import load_tree
from data.weights import load_weights, save_weights

SEED = 6
SHORT = "--samples 3000 --layers 784 32 10 --epochs 6"
RUNS = SHORT, f"{SHORT} --optimizer momentum --schedule constant --augment none --validation", f"{SHORT} --batch-size 0"
WEIGHTS, CHECKPOINT = Path("weights/mnist.pkl"), Path("weights/mnist.checkpoint.pkl")
SECONDS, MOST_MEMORY = 2.0, 1000.0  # of processor and in MB, that no file may take
SAVING = -1.0  # the moment at which a temporary file is there
Verdicts: TypeAlias = Iterator[str]  # "" where it held, else "lost: why", "executed: why" or "crashed: why"
Item = TypeVar("Item")


def mutated(dice: random.Random, content: bytes) -> bytes:
    """The content with one to three faults: bytes changed, cut out, cut off, doubled or set to an extreme number."""
    for _ in range(dice.randint(1, 3)):
        i, n = dice.randrange(len(content) + 1), dice.choice((1, 1, 1, 2, 4, 8, 40))
        extremes = b"\0" * n, b"\xff" * n, b"\x7f" + b"\xff" * (n - 1)
        other = dice.choice((dice.randbytes(n), dice.randbytes(n), b"", 2 * content[i : i + n], *extremes))
        content = content[:i] + other + content[i + n :] if dice.random() < 0.95 else content[:i]
    return content


def limited(read: Callable[[], Item], *refusals: type[Exception]) -> tuple[Item | None, str]:
    """What read returns, or the message of its refusal. RuntimeError where it takes long or fails otherwise."""
    started = time.process_time()
    try:
        return read(), ""
    except refusals as error:
        return None, str(error)
    except (Exception, SystemExit) as error:
        raise RuntimeError(f"{error!r}") from error
    finally:
        if (spent := time.process_time() - started) > SECONDS:
            raise RuntimeError(f"it takes {spent:.1f} s")


# Runs that are stopped


def run(folder: Path, flags: str, number: int = 0, moment: float = 0.0) -> tuple[int, str]:
    """Exit status and errors of train.py, going on from a checkpoint if there is one; a signal comes at a moment.

    Python itself, until train.py takes its signals over, ignores Ctrl-C: it would print a traceback.
    """
    going_on = ["--resume"] * (folder / CHECKPOINT).exists()
    process = subprocess.Popen(
        [sys.executable, ROOT / "train.py", *flags.split(), *going_on],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=(lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) if number else None,
    )
    end = time.monotonic() + moment
    try:
        while number and process.poll() is None and (time.monotonic() < end or moment == SAVING):
            if moment == SAVING and any((folder / "weights").glob("*.tmp")):
                break
            time.sleep(0.0005)
        process.send_signal(number)
        errors = process.communicate(timeout=600)[1]
    finally:  # Ctrl-C is for both
        process.kill()
    return process.returncode, errors


@functools.cache
def whole(flags: str) -> tuple[bytes, float]:
    """The weights file of a run that nobody stops, and its seconds."""
    with tempfile.TemporaryDirectory() as name:
        started = time.monotonic()
        assert run(Path(name), flags) == (0, ""), f"train.py {flags} fails by itself"
        return (Path(name) / WEIGHTS).read_bytes(), time.monotonic() - started


def finished(folder: Path, flags: str) -> str:
    """The verdict on a stopped run: it goes on to the same weights, bit for bit, as one that nobody stopped."""
    status, errors = run(folder, flags)
    if status:
        return f"crashed: going on with {flags}: {errors}"
    return "" if (folder / WEIGHTS).read_bytes() == whole(flags)[0] else f"lost: other weights with {flags}"


def stopped(dice: random.Random, tries: int, number: int, most: int, runs: Sequence[str] = RUNS) -> Verdicts:
    """Runs that up to most signals stop, at random moments of the whole, of the start, and of saving."""
    for flags in itertools.islice(itertools.cycle(runs), tries):
        hits, fault, seconds = 0, "", whole(flags)[1]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            while hits < most and not fault and not (hits and (folder / WEIGHTS).exists()):
                moment = dice.choice((dice.uniform(0, seconds), dice.uniform(0, seconds / 2), SAVING))
                status, errors = run(folder, flags, number, moment)
                if status:  # else it was done, or had not begun
                    hits, fault = hits + 1, "" if number == signal.SIGKILL else unclean(folder, number, status, errors)
            yield fault or finished(folder, flags)


def unclean(folder: Path, number: int, status: int, errors: str) -> str:
    """What is wrong with the end of a run that a signal stopped: "" if nothing is."""
    said = errors.startswith("train.py: stopped; ") and errors.count("\n") == 1
    left = list((folder / "weights").glob("*.tmp"))
    idle = (folder / WEIGHTS).exists() or not (folder / CHECKPOINT).exists()  # before the run begins, or after its end
    silent = not errors and (status == -number or status == 128 + number and idle)  # a shell makes the same of both
    return "" if (said and status == 128 + number or silent) and not left else f"crashed: {status}, {left}: {errors}"


# Files of weights


def small(layers: Sequence[int]) -> dict[str, object]:
    """Untrained weights, with all that train.py writes beside."""
    params = nn.init_params(layers, nn.INITS["he"], np.random.default_rng(0))
    classes, result = [str(k) for k in range(layers[-1])], {"accuracy": 0.5, "measured_on": "test"}
    config = train.parse_config([]).hyperparameters()
    return {"params": params, "classes": classes, **config, **result, "layers": list(layers)}


def weights_mutated(dice: random.Random, tries: int) -> Verdicts:
    """Files cut at every 1/200th or changed: they load as numbers that fit, or a message names the file."""
    path = Path("weights.pkl")
    for layers in ((4, 3, 2), (784, 32, 10)):
        save_weights(path, small(layers))
        content = path.read_bytes()
        cuts = [content[: len(content) * part // 200] for part in range(200)]
        for damaged in itertools.chain(cuts, (mutated(dice, content) for _ in range(tries // 2))):
            path.write_bytes(damaged)
            loaded, refusal = limited(lambda: load_weights(path), ValueError)
            if loaded is None:
                yield "" if str(path) in refusal else f"crashed: {refusal!r} does not name the file"
            else:
                params = loaded["params"]
                units = [len(params["W1"]), *(len(params[f"b{l}"]) for l in range(1, nn.count_layers(params) + 1))]
                finite = all(np.isfinite(A).all() for A in params.values())
                yield "" if units == loaded["layers"] and finite else "crashed: loads what is no weights"


def resume_mutated(dice: random.Random, tries: int) -> Verdicts:
    """Checkpoints changed where the arrays are not: --resume goes on, or is refused in one line."""
    Path("weights").mkdir()
    flags = ["--resume", "--samples", "200", "--layers", "784", "1", "10"]
    config = train.parse_config(flags[1:])
    path, (_, checkpoint) = checkpoint_path(config.weights), train.start(config)
    save_checkpoint(path, checkpoint)
    content = path.read_bytes()
    plain = [i for i in range(len(content)) if i < 200 or i > len(content) - 900]
    for _ in range(tries):
        i = dice.choice(plain)
        path.write_bytes(content[:i] + mutated(dice, content[i : i + 20]) + content[i + 20 :])
        yield judged(flags, f"a checkpoint changed at {i}", (0, 1))


def judged(flags: Sequence[str], name: str, statuses: Sequence[int] = (1,)) -> str:
    """The verdict on train.main in this process: one of the statuses, one line for 1, no traceback, no canary."""
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        status, _ = limited(lambda: train.main(flags))
    said = errors.getvalue()
    if Path("canary").exists():
        return f"executed: {name}"
    one_line = status == 0 or said.startswith("train.py: ") and said.count("\n") == 1 and len(said) < 2000
    return "" if status in statuses and one_line else f"crashed: {name}: status {status}, {said}"


# Hostile files of weights


def hostile_files(dice: random.Random, tries: int) -> Verdicts:
    """Neither load_weights nor train.py --evaluate runs them; those that are to run something do so in pickle.loads."""
    path, canary = Path("hostile.pkl"), Path("canary")
    Path("planted.pkl").write_bytes(PLANT)
    Path("planted.py").write_text(PY)
    copyreg.add_extension("os", "system", 0xF0)
    for name, content in itertools.islice(HOSTILE.items(), tries):
        path.write_bytes(content)
        loaded, refusal = limited(lambda: load_weights(path), ValueError)
        fault = f"executed: {name}" * canary.exists() or f"crashed: {name}: {refusal}" * (str(path) not in refusal)
        yield fault or judged(["--evaluate", "--weights", str(path)], name)
        if name in RUNNING:
            with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()):
                pickle.loads(content)
            end = time.monotonic() + 5
            while not canary.exists():
                if time.monotonic() > end:
                    raise RuntimeError(f"{name} is not hostile")
            canary.rmdir() if canary.is_dir() else canary.unlink()


# Datasets


def idx(entries: NDArray[np.uint8]) -> bytes:
    """An IDX file of images (N, 28, 28) or labels (N,)."""
    return struct.pack(f">{1 + entries.ndim}I", 2048 + entries.ndim, *entries.shape) + entries.tobytes()


NOISE = np.random.default_rng(SEED).integers(0, 256, (12, 28, 28), np.uint8)
DIGITS = np.arange(12, dtype=np.uint8) % 10
CONTENT = dict(zip(NAMES, map(idx, (NOISE, DIGITS, NOISE[:7], DIGITS[:7])), strict=True))  # of the files of a dataset


def fill(folder: Path, files: Mapping[str, bytes] = CONTENT) -> None:
    """Puts files into a folder, which is made if it is not there."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def contents(folder: Path) -> dict[str, bytes]:
    """All that is in a folder, hidden and temporary files too."""
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def table(digits: NDArray[np.uint8], noise: NDArray[np.uint8]) -> bytes:
    """A CSV file with a header."""
    text, names = io.BytesIO(), ",".join(["label", *map(str, range(784))])
    rows = np.column_stack([digits, noise.reshape(len(noise), -1)])
    np.savetxt(text, rows, "%d", ",", header=names, comments="")
    return text.getvalue()


def archive(**arrays: NDArray[np.uint8]) -> bytes:
    """An npz archive."""
    packed = io.BytesIO()
    np.savez_compressed(packed, allow_pickle=False, **arrays)
    return packed.getvalue()


LAYOUTS: dict[str, dict[str, bytes]] = {
    "IDX": {name: CONTENT[name] for name in NAMES[:2]},
    "gzipped IDX": {f"emnist-{name}.gz": gzip.compress(CONTENT[name], mtime=0) for name in NAMES[:2]},
    "CSV": {"train.csv": table(DIGITS, NOISE)},
    "npz": {"mnist.npz": archive(x_train=NOISE, y_train=DIGITS)},
}


def layout_mutated(dice: random.Random, tries: int, layout: str) -> Verdicts:
    """Files of a layout changed: refused in one line that names the folder, or read as images and a label for each."""
    fill(Path("own"), LAYOUTS[layout])
    for _ in range(tries):
        name = dice.choice(list(LAYOUTS[layout]))
        (Path("own") / name).write_bytes(mutated(dice, LAYOUTS[layout][name]))
        read, refusal = limited(lambda: read_split(Path("own"), "train"), ValueError, FileNotFoundError)
        (Path("own") / name).write_bytes(LAYOUTS[layout][name])
        if read is None:
            yield "" if "own/" in refusal and "\n" not in refusal else f"crashed: {refusal}"
        else:
            images, labels = read
            fit = images.dtype == np.uint8 and labels is not None and labels.dtype.kind in "iu"
            shapes = images.shape, None if labels is None else labels.shape
            yield "" if fit and shapes == ((len(images), 784), (len(images),)) else f"crashed: {name} reads as {shapes}"


# Writing


def failing(write: Callable[[], None], number: int, error: BaseException) -> tuple[bool, list[str]]:
    """Whether write was done, and the names of its calls of C up to the number-th, which fails with an error."""
    done, called = False, list[str]()

    def fail(frame: FrameType, event: str, function: object) -> None:
        if event == "c_call" and function is not sys.setprofile:
            called.append(getattr(function, "__name__", ""))
            if len(called) == number:
                raise error

    with contextlib.suppress(OSError, SystemExit, ValueError):  # the last is save_tree's, of the first
        sys.setprofile(fail)
        try:
            write()
            done = True
        finally:
            sys.setprofile(None)
    return done, called


def writes_failing(dice: random.Random, tries: int) -> Verdicts:
    """Every call that save_weights and write_whole make fails in turn, for the disk or for a signal."""
    Path("folder").mkdir()
    path, new = Path("folder/file"), small([4, 3, 2])
    save_weights(path, new)
    writers = (lambda: save_weights(path, new), path.read_bytes()), (lambda: write_whole(path, b"new"), b"new")
    for (write, content), error in itertools.product(writers, (OSError(errno.ENOSPC, "full"), SystemExit(130))):
        for number in range(1, tries):
            path.write_bytes(b"old")
            done, called = failing(write, number, error)
            expected = content if done or "replace" in called[:-1] else b"old"
            held = path.read_bytes() == expected and list(path.parent.iterdir()) == [path]
            yield "" if held else f"lost: {called[-1:]}, call {number}, {error!r}: {list(path.parent.iterdir())}"
            if len(called) < number:
                break


@contextlib.contextmanager
def little_room(folder: Path, room: int, tmpfs: bool) -> Iterator[None]:
    """A folder in which only so many bytes more can be written: of a small disk, else of any one file."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if tmpfs:
        files = contents(folder)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
        fill(folder, files)
        free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
        (folder / "filler").write_bytes(bytes(free - room))
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        if tmpfs:
            subprocess.run(["umount", folder], check=True)


def disk_full(dice: random.Random, tries: int) -> Verdicts:
    """A run that finds the disk full: status 1, one message, what was there stays. tmpfs needs root."""
    flags, folder = f"{SHORT} --weights weights/w.pkl", Path("weights")
    run(Path(), flags)
    trial = "mount -t tmpfs tmpfs weights 2>/dev/null && umount weights"
    can_mount = subprocess.run(trial, shell=True).returncode == 0
    for number in range(tries):
        with little_room(folder, 4096 * dice.randint(0, 1), tmpfs=can_mount and number % 2 == 0):
            before = contents(folder)
            status, errors = run(Path(), f"{flags} --seed 1")
            held = status == 1 and errors.count("\n") == 1 and "weights/w.checkpoint.pkl: " in errors
            yield "" if held and contents(folder) == before else f"lost: {status}, {errors}"


def runs_at_once(dice: random.Random, tries: int) -> Verdicts:
    """Two runs of train.py write the same weights: they end as one of the two."""
    both = [f"{RUNS[0]} --seed {seed}" for seed in (1, 2)]
    ends = {whole(flags)[0] for flags in both}
    for _ in range(tries):
        with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(2) as pool:
            runs = list(pool.map(lambda flags: run(Path(name), flags), both))
            left = contents(Path(name) / "weights")
            held = (
                runs == [(0, "")] * 2 and left.keys() == {WEIGHTS.name, CHECKPOINT.name} and left[WEIGHTS.name] in ends
            )
            load_tree(Path(name) / CHECKPOINT)
            yield "" if held else f"lost: {runs} {sorted(left)}"


FAULTS: dict[str, tuple[Callable[[random.Random, int], Verdicts], int]] = {
    "kill -9 up to 3 times at random moments, then --resume": (functools.partial(stopped, number=9, most=3), 50),
    "Ctrl-C at a random moment, then --resume": (functools.partial(stopped, number=2, most=1), 24),
    "SIGTERM at a random moment, then --resume": (functools.partial(stopped, number=15, most=1), 16),
    "kill -9 of the default run on MNIST, then --resume": (functools.partial(stopped, number=9, most=1, runs=("",)), 1),
    "two runs that write the same weights": (runs_at_once, 5),
    "weights files cut at every 1/200th or changed": (weights_mutated, 10_000),
    "checkpoints changed, then --resume": (resume_mutated, 500),
    "hostile weights files, load_weights and train.main": (hostile_files, len(HOSTILE)),
    **{f"{name} files changed": (functools.partial(layout_mutated, layout=name), 5_000) for name in LAYOUTS},
    "every call of a write fails in turn": (writes_failing, 2_000),
    "full disk while saving": (disk_full, 20),
}


def attempt(name: str, tries: int) -> Counter[str]:
    """How often a fault was tried, and how often it did harm, in a folder of its own; what harmed goes to stderr."""
    counts, home = Counter[str](), Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            for verdict in FAULTS[name][0](random.Random(f"{SEED} {name}"), tries):
                counts.update(["tried", verdict.partition(":")[0] or "held"])
                if verdict:
                    print(f"{name}: {verdict}", file=sys.stderr, flush=True)
        except Exception as error:
            counts["crashed"] += 1
            print(f"{name}: {error!r}", file=sys.stderr, flush=True)
        finally:
            os.chdir(home)
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MEGABYTE > MOST_MEMORY:
        counts["crashed"] += 1
        print(f"{name}: takes more than {MOST_MEMORY} MB of memory", file=sys.stderr)
    return counts


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table. Returns the exit status: 1 where anything was lost, executed or crashed, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="of the tries, in 0..1; default: all")
    share = parser.parse_args(arguments).share
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    print(f"seed {SEED}; Python {platform.python_version()}, NumPy {np.__version__}, {platform.platform()}")
    print("\n| fault | tried | held |\n|---|---|---|", flush=True)
    harm = Counter(lost=0, executed=0, crashed=0)
    for name, (_, tries) in FAULTS.items():
        counts = attempt(name, int(tries * share))
        print(f"| {name} | {counts.pop('tried', 0)} | {counts.pop('held', 0)} |", flush=True)
        harm.update(counts)
    print("\n" + ", ".join(f"{verdict}: {number}" for verdict, number in harm.items()))
    return int(any(harm.values()))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)  # make says so, in a line
