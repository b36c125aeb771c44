"""Tests of the command, end to end, on tiny made-up images: no network, no downloaded dataset."""

import itertools
import math
import os
import re
import runpy
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pytest

import data.load
import nn
import train
from data.augment import NOISE, Images, Strengths, augment, usual_strengths
from data.batches import make_batches
from data.datasets import DATASETS
from data.load import Dataset, scale_pixels
from data.pickles import load_tree, save_tree
from data.weights import check_replaceable, load_weights, save_weights

pytestmark = pytest.mark.filterwarnings("error")  # an overflow is a failure
each = pytest.mark.parametrize
Result = TypeVar("Result")
Command = Callable[..., tuple[int, str, str]]
WEIGHTS, CHECKPOINT = Path("weights/mnist.pkl"), Path("weights/mnist.checkpoint.pkl")
SMALL = "--layers 784 8 10 --batch-size 16 --epochs 3 --learning-rate 0.002".split()
TRAINING, VALIDATION, TEST = 60, 10, 40  # images
TIMES = re.compile(r", \d+\.\d s$|   +\d+\.\d s   +\d+ s left$", re.MULTILINE)  # at the end of a line


def made_up(count: int) -> Dataset:
    """Images of noise, each with a mark for its label, and the labels in no order."""
    rng = np.random.default_rng(count)
    images, labels = rng.integers(0, 256, (count, 784), np.uint8), rng.integers(0, 10, count)
    images[:, :10] = 255 * np.eye(10, dtype=np.uint8)[labels]
    return images, labels


def main(*flags: str) -> int | str | None:
    """The exit status of the command."""
    try:
        return train.main([*SMALL, *flags])
    except SystemExit as ended:
        return ended.code


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command in a folder of its own: exit status, output, errors. Fashion-MNIST has no test set there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data.load, "HOME", tmp_path / "data")
    for split, count in ("mnist/train", TRAINING), ("mnist/t10k", TEST), ("fashion-mnist/train", TRAINING):
        (images, labels), path = made_up(count), tmp_path / "data" / split
        path.parent.mkdir(parents=True, exist_ok=True)
        headers = struct.pack(">4I", 2051, count, 28, 28), struct.pack(">2I", 2049, count)
        path.with_name(f"{path.name}-images-idx3-ubyte").write_bytes(headers[0] + images.tobytes())
        path.with_name(f"{path.name}-labels-idx1-ubyte").write_bytes(headers[1] + labels.astype(np.uint8).tobytes())

    def run(*flags: str) -> tuple[int, str, str]:
        status, said = main(*flags), capsys.readouterr()
        assert isinstance(status, int)
        return status, said.out, said.err

    return run


def failed(command: Command, message: str, *flags: str) -> None:
    """The command ends with exit status 1 and one line, nothing before it."""
    status, out, err = command(*flags)
    assert (status, out) == (1, "") and err.startswith("train.py: ") and message in err and err.count("\n") == 1


def bits(params: nn.Params) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """The dtype, shape and bytes of each array: equal where all is equal bit for bit."""
    return {k: (A.dtype.str, A.shape, A.tobytes()) for k, A in params.items()}


class Run(NamedTuple):
    """What flags should come to; the defaults are those of the command with SMALL."""

    layers: tuple[int, ...] = (784, 8, 10)
    activation: str = "relu"
    init: str = "he"
    loss: str = "cross_entropy"
    smoothing: float = 0.05
    optimizer: str = "adam"
    rate: float = 0.002
    schedule: str = "linear"
    decay: float = 0.0
    batch: int = 16
    epochs: int = 3
    samples: int = TRAINING
    strengths: Strengths = usual_strengths("mnist")
    seed: int = 0
    measured_on: str = "test"
    dataset: str = "mnist"


def textbook(run: Run) -> Iterator[tuple[nn.Params, float]]:
    """A run in one loop: after each epoch the parameters, and the mean loss of its steps."""
    X, Y = made_up(TRAINING)
    params = nn.init_params(run.layers, nn.INITS[run.init], np.random.default_rng(run.seed))
    moments = {name: {k: np.zeros_like(A) for k, A in params.items()} for name in ("m", "v")}
    steps = math.ceil(run.samples / run.batch)
    for epoch in range(1, run.epochs + 1):
        rng, losses = np.random.default_rng([run.seed, epoch]), list[float]()
        order = rng.permutation(run.samples)
        if run.batch == run.samples:
            order.sort()
        for step, i in enumerate(range(0, run.samples, run.batch), start=(epoch - 1) * steps):
            x, y = X[order[i : i + run.batch]], Y[order[i : i + run.batch]]
            if run.strengths != Strengths():
                x = augment(x, 2 * rng.random((len(x), NOISE), np.float32) - 1, run.strengths)
            functions = nn.ACTIVATIONS[run.activation], nn.LOSSES[run.loss]
            loss, grads = nn.loss_and_gradients(params, scale_pixels(x), nn.one_hot(y, 10, run.smoothing), *functions)
            updates, moments = nn.OPTIMIZERS[run.optimizer][1](grads, moments, step + 1)
            progress = step / (steps * run.epochs)
            warm = 0.1 + 9 * progress if progress < 0.1 else 1.0
            cosine = 0.5 * (1 + math.cos(math.pi * progress))
            rate = run.rate * {"constant": 1, "cosine": cosine, "linear": warm * (1 - progress)}[run.schedule]
            params = nn.update_params(params, updates, rate, run.decay)
            losses.append(loss)
        yield params, sum(losses) / steps


@each(("flags", "run"), [
    ("", Run()),
    ("--seed 7", Run(seed=7)),
    ("--augment none", Run(strengths=Strengths())),
    ("--augment shift=1,flip=1", Run(strengths=usual_strengths("mnist")._replace(shift=1, flip=1))),
    ("--weight-decay 0.5", Run(decay=0.5)),
    ("--label-smoothing 0", Run(smoothing=0)),
    ("--schedule constant", Run(schedule="constant")),
    ("--schedule cosine", Run(schedule="cosine")),
    ("--learning-rate 0.01 --epochs 1", Run(rate=0.01, epochs=1)),
    ("--batch-size 0", Run(batch=TRAINING)),
    ("--batch-size 61", Run(batch=TRAINING)),
    ("--batch-size 1 --epochs 1", Run(batch=1, epochs=1)),
    ("--batch-size 7 --optimizer sgd", Run(batch=7, optimizer="sgd")),
    ("--samples 41", Run(samples=41)),
    ("--validation", Run(samples=TRAINING - VALIDATION, measured_on="validation")),
    ("--validation --samples 30 --batch-size 0", Run(samples=30, batch=30, measured_on="validation")),
    ("--optimizer momentum", Run(optimizer="momentum")),
    ("--activation tanh", Run(activation="tanh", init="xavier")),
    ("--activation sigmoid --loss mean_squared_error", Run((784, 8, 10), "sigmoid", "lecun", "mean_squared_error")),
    ("--activation gelu --init small", Run(activation="gelu", init="small")),
    ("--layers 784 10", Run(layers=(784, 10))),
    ("--validation --dataset fashion-mnist", Run(
        dataset="fashion-mnist", strengths=Strengths(), samples=TRAINING - VALIDATION, measured_on="validation")),
])  # fmt: skip
def test_a_run_is_the_textbook_s_loop_bit_for_bit(command: Command, flags: str, run: Run) -> None:
    """Parameters, losses, accuracies, and what is kept beside them."""
    X, Y = (A[-VALIDATION:] for A in made_up(TRAINING)) if run.measured_on == "validation" else made_up(TEST)
    lines, accuracy = list[str](), math.nan
    for epoch, (params, loss) in enumerate(textbook(run), start=1):
        accuracy = float(np.mean(nn.make_predictions(params, scale_pixels(X), nn.ACTIVATIONS[run.activation]) == Y))
        shown = f"  validation {accuracy:.2%}" if run.measured_on == "validation" else ""
        lines.append(f"epoch   {epoch}/{run.epochs}  loss {loss:.4f}{shown}")
    lines.append(f"{run.measured_on} accuracy {accuracy:.2%} ({round((1 - accuracy) * len(Y))} errors in {len(Y)})")
    status, out, err = command(*flags.split())
    assert (status, TIMES.sub("", out).splitlines(), err) == (0, lines, "")
    weights, tree = load_weights(f"weights/{run.dataset}.pkl"), load_tree(Path(f"weights/{run.dataset}.pkl"))
    assert bits(weights["params"]) == bits(params) and weights["params"]["W1"].dtype == np.float32
    expected = {"dataset": run.dataset, "classes": list(DATASETS[run.dataset].classes), "layers": list(run.layers),
                "activation": run.activation, "loss": run.loss, "accuracy": accuracy, "measured_on": run.measured_on,
                "seed": run.seed, "augment": run.strengths._asdict()}  # fmt: skip
    assert {k: tree[k] for k in expected} == expected


@each("flags", [(), ("--validation",)])
def test_training_ends_with_a_line_for_scripts_and_evaluating_agrees(command: Command, flags: tuple[str, ...]) -> None:
    last = command(*flags)[1].splitlines()[-1]
    weights, before = load_weights(WEIGHTS), WEIGHTS.read_bytes()
    status, out, err = command(*flags, "--evaluate", "--min-accuracy", str(weights["accuracy"]))
    assert (status, TIMES.sub("", out), err) == (0, TIMES.sub("", f"{last}\n"), "")
    assert float(out.split()[-2]) < 60 and train.start(train.parse_config([]))[1]["seconds"] == 0
    status, out, err = command(*flags, "--evaluate", "--min-accuracy", "0.999")
    assert status == 1 and TIMES.sub("", last) in out and "below --min-accuracy 0.999" in err
    assert WEIGHTS.read_bytes() == before and command("--min-accuracy", "0.999")[0] == 1 and WEIGHTS.exists()


def test_accuracy_is_of_every_image_and_errors_are_counted_exactly(capsys: pytest.CaptureFixture[str]) -> None:
    """2,500 images, more than are taken at once; the last are misread."""
    params, X = nn.init_params([784, 10], nn.INITS["small"], np.random.default_rng(0)), made_up(2500)[0]
    Y = nn.make_predictions(params, scale_pixels(X)).astype(np.int64)
    Y[-100:] = (Y[-100:] + 1) % 10
    assert nn.get_accuracy(train.predict(params, "relu", X), Y) == 0.96
    for errors in range(2500):
        train.report("test", (2500 - errors) / 2500, 2500, 1.0, 0.0)
    assert re.findall(r"\((\d+) errors in 2500", capsys.readouterr().out) == list(map(str, range(2500)))


@each(("N", "flags", "sizes"), [
    (10, "--batch-size 0 --activation tanh", [4, 4, 2]), (9, "--batch-size 5 --loss mean_squared_error", [4, 4, 1]),
    (8, "--batch-size 0", [4, 4]), (3, "--batch-size 0", [3]), (4, "--batch-size 4", [4]),
])  # fmt: skip
def test_gradients_accumulated_over_micro_batches_are_those_of_the_batch(
    monkeypatch: pytest.MonkeyPatch, N: int, flags: str, sizes: list[int]
) -> None:
    config, taken = train.parse_config(flags.split()), list[int]()

    def recording(X: Images) -> nn.Array:
        taken.append(len(X))
        return scale_pixels(X)

    monkeypatch.setattr(train, "scale_pixels", recording)
    monkeypatch.setattr(train, "MICRO_BATCH", 4)
    params = nn.init_params([784, 8, 10], nn.INITS["he"], np.random.default_rng(0), np.float64)
    (X, Y), functions = made_up(N), (nn.ACTIVATIONS[config.activation], nn.LOSSES[config.loss])
    loss, grads = train.make_gradients(config)(params, X, nn.one_hot(Y, 10))
    whole_loss, whole = nn.loss_and_gradients(params, scale_pixels(X), nn.one_hot(Y, 10), *functions)
    assert taken == sizes and loss == pytest.approx(whole_loss, rel=1e-12) and grads.keys() == whole.keys()
    for k in whole:
        np.testing.assert_allclose(grads[k], whole[k], rtol=1e-12, atol=1e-15)


class Together:
    """What train.py uses of MPI.COMM_WORLD, among threads that play the ranks."""

    def __init__(self, size: int) -> None:
        self.size, self.thread, self.barrier = size, threading.local(), threading.Barrier(size)
        self.parts: list[object] = [None] * size
        self.calls = [0] * size

    @property
    def rank(self) -> int:
        return int(self.thread.rank)

    def run(self, work: Callable[[], Result]) -> list[Result]:
        """What work returns on each rank."""

        def ranked(rank: int) -> Result:
            self.thread.rank = rank
            return work()

        with ThreadPoolExecutor(self.size) as pool:
            return list(pool.map(ranked, range(self.size)))

    def gather(self, part: object) -> list[object]:
        self.parts[self.rank] = part
        self.barrier.wait(10)
        parts = list(self.parts)
        self.barrier.wait(10)
        return parts

    def bcast(self, value: object) -> object:
        return self.gather(value)[0]

    def Allreduce(self, part: nn.Array, total: nn.Array) -> None:
        assert part.ndim == total.ndim == 1 and part.dtype == total.dtype
        self.calls[self.rank] += 1
        total[:] = sum(np.asarray(part) for part in self.gather(part))


@each(("ranks", "flags"), [(1, ""), (2, "--weight-decay 0.1"), (3, "--batch-size 0"), (7, "--batch-size 3 --seed 5")])
def test_ranks_take_the_steps_of_one_process(monkeypatch: pytest.MonkeyPatch, ranks: int, flags: str) -> None:
    """In float64; shards of unequal size, some of none; augmentation is on; one Allreduce a step."""
    config = train.parse_config([*SMALL, *flags.split()])
    params = nn.init_params([784, 8, 10], nn.INITS["he"], np.random.default_rng(1), np.float64)
    state, comm, images = nn.init_state(params, nn.OPTIMIZERS["adam"]), Together(ranks), made_up(23)
    alone = train.train_epoch(config, images, state, 1)
    monkeypatch.setattr(train, "MICRO_BATCH", 3)
    rank: Any = comm  # in the place of a Comm
    first, *others = comm.run(lambda: train.train_epoch(config, images, state, 1, rank))
    assert comm.calls == [alone["step"]] * ranks and alone["step"] == math.ceil(23 / (config.batch_size or 23))
    assert first["step"] == alone["step"] and first["loss"] == pytest.approx(alone["loss"], rel=1e-12)
    for k in params:
        np.testing.assert_allclose(first["params"][k], alone["params"][k], rtol=1e-10, atol=1e-12)
    assert all((bits(other["params"]), other["loss"]) == (bits(first["params"]), first["loss"]) for other in others)


def test_augmentation_fades_from_epoch_to_epoch(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    shifts = list[float]()

    def spied(X: Images, T: nn.Array, size: int, rng: Any, strengths: Strengths, *ranks: int) -> Iterator[Any]:
        shifts.append(strengths.shift)
        return make_batches(X, T, size, rng, strengths, *ranks)

    monkeypatch.setattr(train, "make_batches", spied)
    command("--epochs", "4", "--augment", "shift=2,fade=0.75")
    assert shifts == pytest.approx([2, 2, 4 / 3, 2 / 3])


def test_rank_0_alone_speaks(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package, comm = ModuleType("mpi4py"), Together(3)
    monkeypatch.setattr(package, "MPI", SimpleNamespace(COMM_WORLD=comm), raising=False)
    monkeypatch.setitem(sys.modules, "mpi4py", package)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # threads cannot set handlers
    for flags, statuses, lines in (
        ("--optimizer sgd", [0, 0, 0], 4), ("--optimizer sgd --resume", [0, 0, 0], 1), ("--evaluate", [0, 0, 0], 1),
        ("--epochs 0", [2, 0, 0], 0), ("--evaluate --min-accuracy 0.999", [1, 0, 0], 1),
    ):  # fmt: skip
        assert comm.run(partial(main, *flags.split())) == statuses
        assert capsys.readouterr().out.count("\n") == lines


@each("flags", ["--optimizer adam", "--optimizer momentum --schedule constant", "--batch-size 0", "--augment none"])
def test_a_run_interrupted_and_resumed_is_the_run_uninterrupted(
    command: Command, monkeypatch: pytest.MonkeyPatch, flags: str
) -> None:
    command(*flags.split(), "--weights", "whole.pkl")
    calls, update = itertools.count(1), nn.update_params

    def interrupted(params: nn.Params, updates: nn.Params, rate: float, decay: float) -> nn.Params:
        if next(calls) == (2 if "batch" in flags else 6):  # in the second epoch
            train.stop(signal.SIGCHLD, None)
        return update(params, updates, rate, decay)

    with monkeypatch.context() as patched:
        patched.setattr(nn, "update_params", interrupted)
        status, out, err = command(*flags.split())
    assert (status, out.count("epoch")) == (128 + signal.SIGCHLD, 1) and not WEIGHTS.exists()
    assert "with --resume goes on" in err and err.count("\n") == 1
    for epochs in (2, 0):  # then nothing is left to do
        status, out, err = command(*flags.split(), "--resume")
        assert (status, out.count("epoch"), err) == (0, epochs, "")
        assert WEIGHTS.read_bytes() == Path("whole.pkl").read_bytes()


def test_a_run_at_a_constant_rate_can_be_made_longer_and_its_seconds_are_carried_on(command: Command) -> None:
    constant = "--schedule", "constant", "--epochs"
    command(*constant, "8", "--weights", "eight.pkl")
    command(*constant, "6")
    save_tree(CHECKPOINT, load_tree(CHECKPOINT) | {"seconds": 6000.0})
    status, out, err = command(*constant, "8", "--resume")
    assert (status, out.count("epoch"), err) == (0, 2, "") and out.startswith("epoch   7/8  loss ")
    assert re.findall(r"(60\d\d)\.\d s", out) == 3 * ["6000"] and "857 s left" in out and "  0 s left" in out
    assert WEIGHTS.read_bytes() == Path("eight.pkl").read_bytes()
    assert command(*constant, "8", "--resume")[1].split(", ")[-1].startswith("6000."), "nothing is left to do"
    failed(command, f"{CHECKPOINT} has 8 epochs behind it, more than --epochs 7", *constant, "7", "--resume")


def test_resume_names_the_flag_that_differs(command: Command) -> None:
    command()
    for flags, was in (
        ("--epochs 8", "epochs 3, not 8, and the linear schedule or fade is laid out for those; resume with its flags"),
        ("--seed 7", "seed 0, not 7"), ("--validation", "validation False, not True"), ("--init small", "init he, not"),
        ("--layers 784 9 10", "layers [784, 8, 10], not [784, 9, 10]"), ("--optimizer sgd", "optimizer adam, not sgd"),
        ("--augment rotation=6", "augment {'rotation': 10"), ("--samples 59", "samples 0, not 59"),
    ):  # fmt: skip
        failed(command, f"{CHECKPOINT} is of a run with {was}", "--resume", *flags.split())


@each("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_and_a_second_one_the_process(
    command: Command, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    before = signal.signal(number, train.stop)
    monkeypatch.setattr(nn, "update_params", lambda *arguments: signal.raise_signal(number))
    try:
        goes_on = "the same command with --resume goes on from the last whole epoch, if one was done"
        assert command() == (128 + number, "", f"train.py: stopped; {goes_on}\n")
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_a_signal_during_the_imports_ends_the_process_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, train.__file__], env=environment, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")


@each(("end", "status", "said"), [(">&-", 0, ""), ("| true", 1, "train.py: [Errno 32] Broken pipe\n")])
def test_an_output_that_is_closed_is_no_traceback(command: Command, end: str, status: int, said: str) -> None:
    flags = "--dataset data/mnist --layers 784 0 --epochs 2"
    script = f"set -o pipefail; {sys.executable} {train.__file__} {flags} {end}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (status, said)


def test_the_script_takes_both_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = signal.SIGINT, signal.SIGTERM
    before = [signal.getsignal(number) for number in numbers]
    monkeypatch.setattr(sys, "argv", ["train.py", "--samples", "-1"])
    try:
        with pytest.raises(SystemExit):
            runpy.run_path(train.__file__, run_name="__main__")
        for number in numbers:
            with pytest.raises(SystemExit) as caught:
                signal.raise_signal(number)
            assert caught.value.code == 128 + number
    finally:
        for number, handler in zip(numbers, before):
            signal.signal(number, handler)


def test_training_needs_no_tqdm(command: Command) -> None:
    """It trains alike, and no module of the command, nor of data.fetch, asks for it."""
    expected = command()
    program = "import sys; sys.modules['tqdm'] = None; import data.fetch, data.load, pathlib, train; "
    program += "data.load.HOME = pathlib.Path.cwd() / 'data'; sys.exit(train.main(sys.argv[1:]))"
    line, home = [sys.executable, "-c", program, *SMALL], {"PYTHONPATH": str(Path(train.__file__).parent)}
    done = subprocess.run(line, env=os.environ | home, capture_output=True, text=True)
    assert (done.returncode, TIMES.sub("", done.stdout), done.stderr) == (0, TIMES.sub("", expected[1]), "")


@each(("given", "threads"), [("", "1"), ("OMP_NUM_THREADS=3", "3"), ("OPENBLAS_NUM_THREADS=2 OMP_NUM_THREADS=3", "2")])
def test_make_runs_on_one_thread_unless_the_user_says_more(given: str, threads: str) -> None:
    rest = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    make = ["make", "--silent", "--eval", "threads: ; @echo $$OPENBLAS_NUM_THREADS", "threads"]
    environment = rest | dict(pair.split("=") for pair in given.split())
    done = subprocess.run(make, cwd=Path(train.__file__).parent, env=environment, capture_output=True, text=True)
    assert done.stdout == f"{threads}\n"


@each(("flags", "message"), [
    ("--samples 61", "there are 60 training samples, fewer than the 61 asked for"),
    ("--samples 51 --validation", "there are 50 training samples, fewer than the 51 asked for"),
    ("--dataset fashion-mnist", "fashion-mnist holds no test set: found no IDX files"),
    ("--resume", f"there is nothing to resume: {CHECKPOINT} does not exist"),
    ("--evaluate", f"there are no weights at {WEIGHTS}; to make them: make train"),
    ("--layers 784 400000000000 10", "Unable to allocate"),
    ("--weights data/mnist/t10k-labels-idx1-ubyte/w.pkl", "cannot write data/mnist/t10k-labels-idx1-ubyte/w"),
    ("--weights data", "cannot write data: "), ("--weights .", "cannot write .: "),
    ("--evaluate --weights data/mnist/t10k-labels-idx1-ubyte", "t10k-labels-idx1-ubyte does not hold weights"),
])  # fmt: skip
def test_an_error_is_one_line_and_exit_status_1(command: Command, flags: str, message: str) -> None:
    failed(command, message, *flags.split())
    assert not list(Path().glob("**/*.pkl"))


@each(("flags", "message"), [
    ("--activation swish", "invalid choice: 'swish'"), ("--dataset cifar", "one's own samples, got 'cifar'"),
    ("--loss hinge", "invalid choice"), ("--optimizer lion", "invalid choice"), ("--init zero", "invalid choice"),
    ("--schedule step", "invalid choice"), ("--faster", "--faster"), ("--layers a", "'a'"), ("--seed 1.5", "'1.5'"),
    ("--epochs 0", "--epochs must lie in 1..1e+30, got 0"), ("--epochs -1", "must lie in 1..1e+30, got -1"),
    ("--seed -1", "--seed must lie in 0..1e+30, got -1"), (f"--seed -{10**40}", "--seed must lie in 0..1e+30"),
    ("--samples -1", "--samples must lie in 0..1e+30"), ("--batch-size -1", "--batch-size must lie in 0..1e+30"),
    ("--learning-rate 0", "must lie in 1e-30..1e+30, got 0"), ("--learning-rate nan", "got nan"),
    ("--learning-rate inf", "got inf"), ("--weight-decay -0.1", "--weight-decay must lie in 0..1, got -0.1"),
    ("--weight-decay 1.5", "got 1.5"), ("--label-smoothing -0.1", "--label-smoothing must lie in 0..1, got -0.1"),
    ("--min-accuracy high", "'high'"), ("--min-accuracy 98", "0..1, got 98"), ("--augment shift", "NAME=VALUE"),
    ("--layers 784", "must go from 784 to 10, the pixels and classes, got [784]"), ("--layers 784 5", "[784, 5]"),
    ("--layers 784 0 10", "classes, got [784, 0, 10]"), ("--layers 700 10", "got [700, 10]"),
    ("--augment twist=1", "must give numbers in 0..1000 to some of rot"), ("--augment shift=-1", "got 'shift=-1'"),
    ("--augment shift=nan", "'shift=nan'"), ("--augment smoothness=0", "ness=0"),
])  # fmt: skip
def test_wrong_usage_is_exit_status_2(command: Command, flags: str, message: str) -> None:
    status, out, err = command(*flags.split())
    assert (status, out) == (2, "") and message in err and "Traceback" not in err


def test_ones_own_samples_are_trained_on_and_what_is_read_is_written(command: Command) -> None:
    """Three classes, named by their labels; a test set with labels, and one without."""
    (X, Y), folder = made_up(60), Path("own", "letters")
    folder.mkdir(parents=True)
    np.savetxt(folder / "train.csv", np.column_stack([Y % 3 + 7, X]), "%d", ",")
    for test, which, N in (np.column_stack([Y % 3 + 7, X])[:9], "test", 9), (X[:9], "validation", 10):
        np.savetxt(folder / "test.csv", test, "%d", ",")
        flags = "--dataset", str(folder), "--layers", "784", "8", "0"
        assert re.search(rf"\n{which} accuracy .* errors in {N}\), ", command(*flags)[1])
        weights = load_weights("weights/own_letters.pkl")
        assert (weights["classes"], weights["layers"], weights["measured_on"]) == (["7", "8", "9"], [784, 8, 3], which)
        assert f"{which} accuracy {weights['accuracy']:.2%} (" in command(*flags, "--evaluate")[1]
        status, out, err = command(*flags, "--predictions", "read.csv")
        scored = [f"test accuracy {weights['accuracy']:.2%}"] if which == "test" else []
        assert (status, err) == (0, "") and [line.split(" (")[0] for line in out.splitlines()] == [
            "9 predictions in read.csv", *scored]  # fmt: skip
        read = nn.make_predictions(weights["params"], scale_pixels(X[:9]), nn.ACTIVATIONS["relu"]) + 7
        lines = [f"{i},{label}" for i, label in enumerate(read, start=1)]
        assert Path("read.csv").read_text().splitlines() == ["ImageId,Label", *lines]
    assert command("--dataset", f"{folder}/../letters", "--evaluate", "--weights", "weights/own_letters.pkl")[0] == 0
    assert command("--dataset", str(folder), "--layers", "784", "8", "4")[0] == 2
    np.savetxt(folder / "train.csv", np.column_stack([Y % 3 + 6, X]), "%d", ",")
    failed(command, "run with classes ['7', '8', '9'], not ['6', '7', '8']", *flags, "--resume")
    failed(command, "leave out --validation", *flags, "--predictions", "read.csv", "--validation")


def test_a_network_of_another_shape_or_dataset_replaces_no_weights(command: Command) -> None:
    command()
    before = WEIGHTS.read_bytes(), CHECKPOINT.read_bytes()
    held = f"{WEIGHTS} holds a network for mnist, of layers [784, 8, 10]; name other --weights"
    failed(command, held, "--layers", "784", "10")
    with pytest.raises(FileExistsError, match=re.escape(held)):
        check_replaceable(WEIGHTS, [784, 8, 10], "fashion-mnist")
    assert (WEIGHTS.read_bytes(), CHECKPOINT.read_bytes()) == before
    assert command("--seed", "1")[0] == 0 and WEIGHTS.read_bytes() != before[0]
    WEIGHTS.write_bytes(b"no weights")
    assert command("--layers", "784", "10")[0] == 0 and load_weights(WEIGHTS)["layers"] == [784, 10]


def test_weights_of_something_else_are_not_scored(command: Command) -> None:
    command()
    weights, content = load_weights(WEIGHTS), WEIGHTS.read_bytes()
    flags = f"--evaluate --dataset fashion-mnist --weights {WEIGHTS}"
    failed(command, f"{WEIGHTS} needs --dataset mnist, activation relu", *flags.split())
    save_weights(WEIGHTS, {**weights, "activation": "swish"})
    failed(command, f"{WEIGHTS} needs --dataset mnist, activation swish", "--evaluate")
    named = 199 * "\x1b[2J\n" + "mnist"  # would wipe the terminal
    save_weights(WEIGHTS, {**weights, "dataset": named, "activation": named})
    assert re.fullmatch(r"train.py: [\x20-\x7e]{1000}\n", command("--evaluate")[2])
    WEIGHTS.write_bytes(content.replace(b"format", b"former"))  # as if written before there was one
    failed(command, "train again: make train", "--evaluate")


@each(("flags", "loss", "place", "rate"), [
    ("--optimizer sgd --learning-rate 1e30 --activation leaky_relu", "nan", "epoch 1, step [23]", "1e+29"),
    ("--optimizer sgd --learning-rate 1e30 --batch-size 0", r"\d\S+", "epoch 1, step 1", "1e+29"),  # norm overflows
    ("--learning-rate 1e10 --layers 784 64 32 10", r"\d\S+", "epoch 1, step 4", "1e+09"),  # the moments are not finite
])  # fmt: skip
def test_a_run_that_diverges_stops_with_its_place_and_a_lower_rate(
    command: Command, flags: str, loss: str, place: str, rate: str
) -> None:
    status, out, err = command(*flags.split())
    said = f"train.py: the loss is {loss} and training diverges at {place}; try --learning-rate {re.escape(rate)}\n"
    assert status == 1 and re.fullmatch(said, err) and not WEIGHTS.exists()
    assert out.count("epoch") == ("epoch 2" in place) == CHECKPOINT.exists()
