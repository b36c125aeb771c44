"""The command: pictures -> gradient_descent -> weights, and a score on the test pictures."""

import os
import signal
import sys
from importlib.util import find_spec

LAUNCHED = int(os.environ.get("PMI_SIZE") or os.environ.get("OMPI_COMM_WORLD_SIZE") or 1)  # processes, by mpiexec

if __name__ == "__main__":  # before NumPy is loaded, which takes long and reads the number of threads
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the process without a word
    if LAUNCHED > 1 and not find_spec("mpi4py"):
        sys.exit("train.py: to train on many processes, first: .venv/bin/python -m pip install --group mpi")
    if LAUNCHED > 1 and "mpi4py" not in sys.modules:  # it ends all processes when one of them fails
        os.execv(sys.executable, [sys.executable, "-m", "mpi4py", *sys.argv])
    # a second thread gains little, and beside a busy program makes each product wait for it
    os.environ.setdefault("OPENBLAS_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))

import argparse
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TypeAlias, TypeVar, cast

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

import nn
from data.augment import DRAWS, STRENGTHS, Strengths, deform
from data.load import CLASSES, load, scale_pixels

Pictures: TypeAlias = tuple[npt.NDArray[np.uint8], nn.Labels]  # (N, 784) 0..255 and (N,)
Beginning: TypeAlias = tuple[Pictures, Pictures, nn.State, float]  # to train on, to score on, and from; seconds spent
T = TypeVar("T")

SCHEDULES: dict[str, Callable[[float, int, int], float]] = {  # peak rate, step from 1, steps in all -> rate
    "constant": lambda peak, step, steps: peak,
    "cosine": lambda peak, step, steps: peak * 0.5 * (1 + math.cos(math.pi * (step - 1) / steps)),  # Loshchilov 2017
}
HELD_OUT = 10_000  # the last training pictures, which --hold-out keeps for measuring
FREE = ("weights", "resume", "evaluate", "min_accuracy")  # flags that do not bear on the parameters


class Comm:
    """The processes that train together: what is used of mpi4py's MPI.COMM_WORLD, and here one process by itself."""

    rank, size = 0, 1

    def bcast(self, value: T) -> T:
        """What rank 0 gives, to all."""
        return value

    def Allreduce(self, part: nn.Array, total: nn.Array) -> None:
        """Makes total the sum of everybody's part, to all."""


def find_comm() -> Comm:
    """All processes that were launched together, or this one alone."""
    if "mpi4py" not in sys.modules:
        return Comm()
    from mpi4py import MPI

    if MPI.COMM_WORLD.size < LAUNCHED:  # each would train alone, and all write the same files
        sys.exit("train.py: this mpiexec is of another MPI than mpi4py; take the one beside python, .venv/bin/mpiexec")
    return cast(Comm, MPI.COMM_WORLD)


class Settings(argparse.Namespace):
    """The flags of parse_settings, typed."""

    dataset: str
    layers: list[int]
    activation: str
    init: str
    loss: str
    optimizer: str
    learning_rate: float
    schedule: str
    weight_decay: float
    batch_size: int
    epochs: int
    pictures: int
    augment: dict[str, float]  # strengths by name
    seed: int
    hold_out: bool
    weights: Path
    resume: bool
    evaluate: bool
    min_accuracy: float


def parse_settings(arguments: Sequence[str] | None) -> Settings:
    """The settings of a run; their defaults were chosen on held-out training pictures, for about ten seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = parser.add_argument
    add("--dataset", choices=CLASSES, default="mnist", help="digits or clothes")
    add("--layers", type=int, nargs="+", default=[784, 256, 128, 10], metavar="UNITS", help="pixels, hidden, classes")
    add("--activation", choices=nn.ACTIVATIONS, default="relu", help="of every hidden layer")
    add("--init", choices=nn.INITS, default="by activation", help="the distribution that weights are drawn from")
    add("--loss", choices=nn.LOSSES, default="cross_entropy", help="on softmax, or on the activation's own function")
    add("--optimizer", choices=nn.OPTIMIZERS, default="adam", help="what makes a step of the gradients")
    add("--learning-rate", type=positive, default=0.003, metavar="RATE", help="of a step, at its highest")
    add("--schedule", choices=SCHEDULES, default="cosine", help="how the learning rate goes from step to step")
    add("--weight-decay", type=share, default=0.0, metavar="SHARE", help="of parameters taken off a step, times rate")
    add("--batch-size", type=count, default=128, metavar="N", help="pictures a step; 1 is each alone, 0 all at once")
    add("--epochs", type=count, default=6, metavar="N", help="passes over the training pictures")
    add("--pictures", type=count, default=0, metavar="N", help="train on the first N alone; 0 is all of them")
    add("--augment", type=strengths, default="by dataset", metavar="NAME=VALUE,...",
        help="how far every picture is deformed anew each epoch (data/augment.py); none is not at all")
    add("--seed", type=count, default=0, metavar="N", help="of the weights and of the pictures' order")
    add("--hold-out", action="store_true", help=f"measure on the last {HELD_OUT} training pictures, not on the test's")
    add("--weights", type=Path, metavar="FILE", help="where they are kept; weights/DATASET.pkl if not given")
    add("--resume", action="store_true", help="go on from the last epoch of a run that was stopped")
    add("--evaluate", action="store_true", help="score the weights as they are, without training")
    add("--min-accuracy", type=share, default=0.0, metavar="SHARE", help="exit with status 1 below it, in 0..1")
    settings = parser.parse_args(arguments, namespace=Settings())
    settings.weights = settings.weights or Path("weights") / f"{settings.dataset}.pkl"
    if settings.init == "by activation":
        settings.init = nn.ACTIVATIONS[settings.activation].init
    settings.augment = STRENGTHS[settings.dataset]._replace(**settings.augment)._asdict()
    return settings


def count(text: str) -> int:
    """A flag's value: an integer of 0 or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number, 0 or more, got {text!r}")
    return int(text)


def positive(text: str) -> float:
    """A flag's value: a number above 0."""
    if not 0 < float(text) < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text!r}")
    return float(text)


def share(text: str) -> float:
    """A flag's value: a number from 0 to 1."""
    if not 0 <= float(text) <= 1:
        raise argparse.ArgumentTypeError(f"must lie in 0..1, got {text!r}")
    return float(text)


def strengths(text: str) -> dict[str, float]:
    """A flag's value: strengths of data.augment by name, as in rotation=10,shift=2, or none of any."""
    if text in ("none", "by dataset"):
        return Strengths()._asdict() if text == "none" else {}
    values = {name: float(value) for name, value in (pair.split("=") for pair in text.split(","))}
    if not values.keys() <= set(Strengths._fields) or not all(0 <= value < math.inf for value in values.values()):
        known = ", ".join(Strengths._fields)
        raise argparse.ArgumentTypeError(f"must give numbers of 0 or more to some of {known}, got {text!r}")
    return values


def shaping(settings: Settings) -> dict[str, object]:
    """The settings on which the trained parameters depend."""
    return {name: value for name, value in vars(settings).items() if name not in FREE}


def read_pictures(settings: Settings) -> tuple[Pictures, Pictures]:
    """The pictures to train on, and those to score on, each with its labels."""
    X, Y = load(settings.dataset, "train")
    if settings.hold_out:
        scored, X, Y = (X[-HELD_OUT:], Y[-HELD_OUT:]), X[:-HELD_OUT], Y[:-HELD_OUT]
    else:
        scored = load(settings.dataset, "test")
    n = settings.pictures or len(X)
    if n > len(X):
        raise ValueError(f"--pictures {n} is more than the {len(X)} there are")
    return (X[:n], Y[:n]), scored


def checkpoint_of(settings: Settings) -> Path:
    """Where the state of an unfinished run is kept: beside its weights."""
    return settings.weights.with_name(settings.weights.name.removesuffix(".pkl") + ".checkpoint.pkl")


def functions_of(about: Mapping[str, object]) -> tuple[nn.Activation, nn.Loss]:
    """The activation and the loss that settings or weights name. ValueError for unknown ones."""
    activation, loss = str(about.get("activation")), str(about.get("loss"))
    if activation not in nn.ACTIVATIONS or loss not in nn.LOSSES:
        raise ValueError(f"the weights need activation {activation} and loss {loss}, which are not known here")
    return nn.ACTIVATIONS[activation], nn.LOSSES[loss](nn.ACTIVATIONS[activation])


def count_errors(params: nn.Params, about: Mapping[str, object], pictures: Pictures) -> int:
    """How many pictures are misread; they are taken a thousand at a time, to spare memory."""
    X, Y = pictures
    batches = ((scale_pixels(X[i : i + 1000]), Y[i : i + 1000]) for i in range(0, len(X), 1000))
    return sum(int(np.sum(nn.make_predictions(params, x, *functions_of(about)) != y)) for x, y in batches)


def outline(tree: object) -> object:
    """The form of a state: keys, dtypes, shapes and types without the values."""
    if isinstance(tree, dict):
        return {k: outline(v) for k, v in tree.items()}
    return (tree.dtype, tree.shape) if isinstance(tree, np.ndarray) else type(tree)


def start(settings: Settings) -> tuple[nn.State, float]:
    """The state to train from and the seconds spent on it: fresh, or the checkpoint's if it is of a run like this."""
    optimizer, rng = nn.OPTIMIZERS[settings.optimizer], np.random.default_rng(settings.seed)
    fresh = nn.init_state(nn.init_params(settings.layers, nn.INITS[settings.init], rng), optimizer, rng)
    if not settings.resume:
        return fresh, 0.0
    path = checkpoint_of(settings)
    if not path.exists():
        raise ValueError(f"there is nothing to resume: {path} does not exist; start without --resume")
    params, about = nn.load_params(path)
    for name, value in shaping(settings).items():
        if about.get(name) != value:
            raise ValueError(f"{path} is of a run with {name} {about.get(name)}, not {value}; resume with its flags")
    rest, seconds = about.get("state"), about.get("seconds")
    state = {"params": params, **rest} if isinstance(rest, dict) else {}
    if outline(state) != outline(fresh) or not isinstance(seconds, float):
        raise ValueError(f"{path} does not hold the state of such a run; start without --resume")
    return cast(nn.State, state), seconds


def preparation(settings: Settings) -> tuple[Callable[[npt.NDArray[np.uint8], nn.Array], nn.Array], int]:
    """What makes pictures ready to learn from, and how many random numbers it needs for each."""
    chosen = Strengths(**settings.augment)
    if chosen == Strengths():
        return lambda batch, chance: scale_pixels(batch), 0
    return lambda batch, chance: scale_pixels(deform(batch, chance, chosen)), DRAWS


def share_batches(comm: Comm) -> nn.Average:
    """mean_gradients for many processes: each takes a share of the rows, and all get the mean, in one Allreduce."""

    def average(gradients: Callable[[slice], nn.Gradients], n: int) -> nn.Gradients:
        first, end = n * comm.rank // comm.size, n * (comm.rank + 1) // comm.size
        share = max(end - first, 1)  # a process too many takes a row, which then counts for nothing
        value, grads = nn.mean_gradients(lambda rows: gradients(slice(first + rows.start, first + rows.stop)), share)
        part = np.concatenate([*map(np.ravel, grads.values()), [value]], dtype=grads["W1"].dtype)  # the loss comes last
        part *= (end - first) / n
        total = np.empty_like(part)
        comm.Allreduce(part, total)
        sums = np.split(total, np.cumsum([g.size for g in grads.values()]))
        return float(total[-1]), {k: A.reshape(g.shape) for (k, g), A in zip(grads.items(), sums)}

    return average if comm.size > 1 else nn.mean_gradients


def run(
    settings: Settings, state: nn.State, X: npt.NDArray[np.uint8], Y: nn.Labels, comm: Comm = Comm()
) -> Iterator[nn.State]:
    """The fold with the settings' functions, and movement within an epoch that takes long."""
    batch_size = settings.batch_size or len(X)
    steps = math.ceil(len(X) / batch_size)  # in an epoch

    def learning_rate(step: int) -> float:
        return SCHEDULES[settings.schedule](settings.learning_rate, step, steps * settings.epochs)

    def watch(step: int, loss: float) -> None:
        if comm.rank == 0 and not math.isfinite(loss):
            epoch, rate = (step - 1) // steps + 1, settings.learning_rate
            place = f"step {step} (epoch {epoch})"
            raise ArithmeticError(f"the loss is {loss} at {place}; try --learning-rate {rate / 10:g}")
        bar.update()

    with tqdm(total=steps, unit="step", delay=1, leave=False, disable=comm.rank > 0 or None) as bar:
        for state in nn.gradient_descent(
            state, X, Y, *functions_of(vars(settings)), nn.OPTIMIZERS[settings.optimizer], learning_rate,
            batch_size, settings.epochs, *preparation(settings), watch, share_batches(comm), settings.weight_decay,
        ):
            bar.reset()
            yield state


def begin(settings: Settings) -> Beginning:
    """What a run needs from files, all of it checked before the work."""
    trained, scored = read_pictures(settings)
    state, seconds = start(settings)
    if settings.weights.is_dir():
        raise ValueError(f"{settings.weights} is a folder; name a file with --weights")
    settings.weights.parent.mkdir(parents=True, exist_ok=True)
    return trained, scored, state, seconds


def train(settings: Settings, comm: Comm) -> int:
    """Trains, with a line and a checkpoint each epoch, and keeps the weights. Returns the exit status of report.

    Rank 0 alone reads and writes files, prints and scores; the others take their shares of every batch.
    """
    trained, scored, state, seconds = cast(Beginning, comm.bcast(begin(settings) if comm.rank == 0 else None))
    about = shaping(settings) | {"classes": list(CLASSES[settings.dataset])}
    started = time.perf_counter() - seconds
    for state in run(settings, state, *trained, comm):
        if comm.rank > 0:
            continue
        seconds = time.perf_counter() - started
        rest = {k: v for k, v in state.items() if k != "params"}
        nn.save_params(checkpoint_of(settings), state["params"], about | {"state": rest, "seconds": seconds})
        left = seconds / state["epoch"] * (settings.epochs - state["epoch"])
        held_out = f"  held-out {1 - count_errors(state['params'], about, scored) / HELD_OUT:.2%}" * settings.hold_out
        tqdm.write(f"epoch {state['epoch']:3}/{settings.epochs}  loss {state['loss']:.4f}{held_out}"
                   f"  {seconds:6.1f} s  {left:5.0f} s left")
        sys.stdout.flush()  # mpiexec's is a pipe
    if comm.rank > 0:
        return 0
    errors = count_errors(state["params"], about, scored)
    nn.save_params(settings.weights, state["params"], about | {"accuracy": (len(scored[1]) - errors) / len(scored[1])})
    return report(settings, errors, len(scored[1]), seconds)


def evaluate(settings: Settings) -> int:
    """Scores the weights as they are. Returns the exit status of report."""
    params, about = nn.load_params(settings.weights)
    if about.get("dataset") != settings.dataset:
        raise ValueError(f"{settings.weights} reads {about.get('dataset')}, not {settings.dataset}; name its --dataset")
    scored, started = read_pictures(settings)[1], time.perf_counter()
    errors = count_errors(params, about, scored)
    return report(settings, errors, len(scored[1]), time.perf_counter() - started)


def report(settings: Settings, errors: int, pictures: int, seconds: float) -> int:
    """Prints the result. Returns 1 where it is below --min-accuracy, else 0."""
    accuracy = (pictures - errors) / pictures  # 1 - errors / pictures can miss --min-accuracy by a rounding
    which = "held-out" if settings.hold_out else "test"
    print(f"{which} accuracy {accuracy:.2%} ({errors} errors in {pictures}), {seconds:.1f} s")
    if accuracy < settings.min_accuracy:
        print(f"train.py: that is below --min-accuracy {settings.min_accuracy}", file=sys.stderr)
    return int(accuracy < settings.min_accuracy)


def keep_freed_memory() -> None:
    """Has glibc keep what training frees and asks for again at once, instead of returning it to the system each step:

    a freed block raises malloc's mmap threshold to its size, up to 32 MiB, and its trim threshold to twice that.
    """
    np.empty(30_000_000, np.uint8)


@contextmanager
def later(comm: Comm) -> Iterator[None]:
    """Has other ranks fail after rank 0, one by one: whoever fails first tells why, and its end is that of all."""
    try:
        yield
    except BaseException:
        time.sleep(1 + comm.rank / comm.size if comm.rank else 0)
        raise


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit status: 0, or 1 for an error or low accuracy. SystemExit where stop raises it."""
    comm, settings = find_comm(), None
    try:
        settings = parse_settings(arguments) if comm.rank == 0 else None
    finally:
        settings = comm.bcast(settings)
    if settings is None or settings.evaluate and comm.rank > 0:
        return 0
    keep_freed_memory()
    try:
        with np.errstate(all="ignore"), later(comm):  # of numbers that overflow, the loss tells
            return evaluate(settings) if settings.evaluate else train(settings, comm)
    except OSError as error:
        where = f"{error.filename}: {error.strerror}; check that folder, or name another with --weights"
        print(f"train.py: {where if error.filename else error}", file=sys.stderr)
        return 1
    except (ValueError, ArithmeticError, MemoryError) as error:
        said = "".join(filter(str.isprintable, str(error)))  # it may quote a file from a stranger
        print(f"train.py: {said:.1000}", file=sys.stderr)
        return 1
    except SystemExit:
        how = "the same command with --resume goes on from the last whole epoch"
        print(f"train.py: stopped; {how if checkpoint_of(settings).exists() else 'no epoch was done'}", file=sys.stderr)
        raise


def stop(number: int, frame: FrameType | None) -> None:
    """Ends the run with status 130 for Ctrl-C, 143 for SIGTERM; from now on, a second such signal does so at once."""
    signal.signal(number, signal.SIG_DFL)
    raise SystemExit(128 + number)  # unlike KeyboardInterrupt, no traceback wherever it comes


if __name__ == "__main__":
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    sys.exit(main())
