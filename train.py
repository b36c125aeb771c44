"""The command: images -> gradient_descent -> weights, and a score on the test set."""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while NumPy is loaded ends the process without a word

import math
import sys
import time
from argparse import ArgumentTypeError
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

import nn
from data.augment import Images, Strengths, parse_strengths, usual_strengths
from data.batches import make_batches, scale_parts
from data.checkpoint import Checkpoint, checkpoint_path, load_checkpoint
from data.datasets import PIXELS
from data.files import check_writable
from data.flags import flag, parse_flags, printable
from data.formats import save_predictions
from data.load import Dataset, Sets, is_same, load_measured, load_sets, parse_dataset, scale_pixels, weights_name
from data.pickles import save_tree
from data.progress import tqdm
from data.weights import check_replaceable, load_weights, save_weights

if TYPE_CHECKING:
    from mpi4py import MPI

MICRO_BATCH = 1000  # rows whose gradients are taken at once
SCHEDULES: dict[str, Callable[[float], float]] = {  # progress from 0 to 1 -> factor of the learning rate
    "constant": lambda progress: 1.0,
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),  # Loshchilov & Hutter 2017
    "linear": lambda progress: min(0.1 + 9 * progress, 1) * (1 - progress),  # after a warm-up, Goyal et al. 2017
}


@dataclass
class Config:
    """The flags; their defaults were chosen on the validation set, for about ten seconds of training."""

    dataset: str = flag("mnist", "mnist, fashion-mnist or a path to one's own", type=parse_dataset)
    layers: list[int] = flag([PIXELS, 256, 128, 0], "units; a last 0 stands for the classes", type=int, nargs="+")
    activation: str = flag("relu", "of every hidden layer", choices=nn.ACTIVATIONS)
    init: str = flag("by activation", "the distribution that weights are drawn from", choices=nn.INITS)
    loss: str = flag("cross_entropy", "on softmax, or the squared error on sigmoid outputs", choices=nn.LOSSES)
    label_smoothing: float = flag(0.05, "share of each target that is spread evenly over all classes", high=1)
    optimizer: str = flag("adam", "update rule", choices=nn.OPTIMIZERS)
    learning_rate: float = flag(0.006, "step size, which the schedule multiplies by 0 to 1", low=1e-30)
    schedule: str = flag("linear", "how the learning rate goes from step to step", choices=SCHEDULES)
    weight_decay: float = flag(0.0, "decoupled, as in AdamW", high=1)
    batch_size: int = flag(256, "samples per step; 0 is all of them")
    epochs: int = flag(10, "passes over the training set", low=1)
    samples: int = flag(0, "train on so many of the training samples; 0 is all of them")
    augment: dict[str, float] = flag({}, "rotation=10,... to change the dataset's own, or none", type=parse_strengths)
    seed: int = flag(0, "of the weights, the order and the augmentation")
    validation: bool = flag(False, "keep the last sixth of the training set to measure on", action="store_true")
    weights: Path = flag(Path("weights/DATASET.pkl"), "saved there, or read to --evaluate; DATASET stands for its name")
    resume: bool = flag(False, "go on from the last epoch of a run that was stopped", action="store_true")
    evaluate: bool = flag(False, "score the weights as they are, without training", action="store_true")
    predictions: str | None = flag(None, "predict the test set into this CSV file; implies --evaluate", type=str)
    min_accuracy: float = flag(0.0, "exit with status 1 below it", high=1)

    def __post_init__(self) -> None:
        self.evaluate = self.evaluate or self.predictions is not None
        self.weights = Path(str(self.weights).replace("DATASET", weights_name(self.dataset)))
        self.augment = usual_strengths(self.dataset)._replace(**self.augment)._asdict()
        if self.init not in nn.INITS:
            self.init = {"sigmoid": "lecun", "tanh": "xavier"}.get(self.activation, "he")

    def hyperparameters(self) -> dict[str, object]:
        """What the trained parameters depend on."""
        others = "weights", "resume", "evaluate", "predictions", "min_accuracy"
        return {k: v for k, v in asdict(self).items() if k not in others}


def parse_config(arguments: Sequence[str] | None = None) -> Config:
    """The flags. SystemExit with status 2, after a message, for wrong ones."""
    return parse_flags(Config, arguments, __doc__)


def accumulate(gradients: nn.Gradients, micro_batch: int) -> nn.Gradients:
    """Gradient accumulation: the same mean loss and gradients, micro_batch rows at a time, which fit a CPU's cache."""

    def accumulated(params: nn.Params, X: nn.Samples, T: nn.Array) -> tuple[float, nn.Params]:
        loss, grads = 0.0, {k: np.zeros_like(A) for k, A in params.items()}
        for i in range(0, len(T), micro_batch):
            x, t = X[i : i + micro_batch], T[i : i + micro_batch]
            part_loss, part_grads = gradients(params, x, t)
            loss += len(t) / len(T) * part_loss
            for k, G in grads.items():
                G += len(t) / len(T) * part_grads[k]
        return loss, grads

    return accumulated


def all_reduce(gradients: nn.Gradients, comm: "MPI.Comm") -> nn.Gradients:
    """The mean over the rows of all ranks: one Allreduce of their sums, with the loss and the number of rows last."""

    def reduced(params: nn.Params, X: nn.Samples, T: nn.Array) -> tuple[float, nn.Params]:
        loss, grads = gradients(params, X, T) if len(T) else (0.0, params)  # no rows count for nothing
        flat = np.concatenate([np.ravel(grads[k]) for k in params] + [[loss, 1]], dtype=params["W1"].dtype) * len(T)
        comm.Allreduce(flat, total := np.empty_like(flat))
        *parts, (loss, rows) = np.split(total, np.cumsum([A.size for A in params.values()]))
        return float(loss / rows), {k: part.reshape(params[k].shape) / rows for k, part in zip(params, parts)}

    return reduced


def make_gradients(config: Config, comm: "MPI.Comm | None" = None) -> nn.Gradients:
    """The loss and gradients of images (N, 784) as the flags say, over the rows of all ranks."""
    activation, loss = nn.ACTIVATIONS[config.activation], nn.LOSSES[config.loss]
    one: nn.Gradients = lambda params, X, T: nn.loss_and_gradients(params, scale_pixels(X), T, activation, loss)
    local = one if 0 < config.batch_size <= MICRO_BATCH else accumulate(one, MICRO_BATCH)
    return all_reduce(local, comm) if comm else local


def start(config: Config) -> tuple[Sets, Checkpoint]:
    """The sets, and where to begin: before the first epoch or, with --resume, where a run of the same flags stopped.

    A last 0 in layers becomes the number of classes. ArgumentTypeError for unfit layers, OSError for unfit paths.
    """
    check_writable(config.weights)
    check_writable(checkpoint_path(config.weights))
    sets = load_sets(config.dataset, config.validation, config.samples)
    K = len(sets.classes)
    config.layers = [*config.layers[:-1], config.layers[-1] or K]
    if (config.layers[0], config.layers[-1]) != (PIXELS, K) or 0 in config.layers:
        raise ArgumentTypeError(f"--layers must go from {PIXELS} to {K}, the pixels and classes, got {config.layers}")
    params = nn.init_params(config.layers, nn.INITS[config.init], np.random.default_rng(config.seed))
    flags = {**config.hyperparameters(), "classes": list(sets.classes)}
    fresh = Checkpoint(state=nn.init_state(params, nn.OPTIMIZERS[config.optimizer]), epoch=0, seconds=0.0, config=flags)
    return sets, load_checkpoint(checkpoint_path(config.weights), fresh) if config.resume else fresh


def train_epoch(config: Config, data: Dataset, state: nn.State, epoch: int, comm: "MPI.Comm | None" = None) -> nn.State:
    """The state after epoch, counted from 1; its loss is the mean over the steps. ArithmeticError where not finite."""
    (X, Y), (rank, ranks), losses = data, (comm.rank, comm.size) if comm else (0, 1), list[float]()
    T, rng = nn.one_hot(Y, config.layers[-1], config.label_smoothing), np.random.default_rng([config.seed, epoch])
    strengths = Strengths(**config.augment).at((epoch - 1) / config.epochs)
    batches = make_batches(X, T, config.batch_size or len(X), rng, strengths, rank, ranks)
    steps, optimizer = math.ceil(len(X) / (config.batch_size or len(X))), nn.OPTIMIZERS[config.optimizer]
    rate = lambda step: config.learning_rate * SCHEDULES[config.schedule]((step - 1) / (steps * config.epochs))
    bar = tqdm(batches, total=steps, unit="step", delay=1, leave=False, disable=rank > 0 or None)
    for state in nn.gradient_descent(state, bar, optimizer, rate, make_gradients(config, comm), config.weight_decay):
        losses.append(state["loss"])
        ended = [state["params"], *state["moments"].values()] if len(losses) == steps else []
        finite = math.isfinite(state["loss"]) and all(np.vdot(A, A) < math.inf for tree in ended for A in tree.values())
        if rank == 0 and not finite:
            found = f"the loss is {state['loss']} and training diverges at epoch {epoch}, step {state['step']}"
            raise ArithmeticError(f"{found}; try --learning-rate {config.learning_rate / 10:g}")
    return {**state, "loss": math.fsum(losses) / steps}


def predict(params: nn.Params, activation: str, X: Images) -> nn.Labels:
    """The predictions (N,) for images (N, 784)."""
    return np.concatenate([nn.make_predictions(params, x, nn.ACTIVATIONS[activation]) for x in scale_parts(X)])


def train(config: Config, comm: "MPI.Comm | None") -> int:
    """Trains and keeps the weights, with a checkpoint an epoch; rank 0 alone reads, writes and prints. Exit status."""
    rank = comm.rank if comm else 0
    sent = (*start(config), config) if rank == 0 else None
    if sent and not config.resume:
        check_replaceable(config.weights, config.layers, config.dataset)
    (data, (X, Y), which, _), run, config = comm.bcast(sent) if comm else cast(tuple[Sets, Checkpoint, Config], sent)
    state, seconds, started = cast(nn.State, run["state"]), run["seconds"], time.perf_counter()
    score: Callable[[], float] = lambda: nn.get_accuracy(predict(state["params"], config.activation, X), Y)
    for epoch in range(run["epoch"] + 1, config.epochs + 1):
        state = train_epoch(config, data, state, epoch, comm)
        if rank == 0:
            seconds = run["seconds"] + time.perf_counter() - started
            save_tree(checkpoint_path(config.weights), run | {"state": state, "epoch": epoch, "seconds": seconds})
            shown = f"  validation {score():.2%}" if which == "validation" else ""
            line = f"epoch {epoch:3}/{config.epochs}  loss {state['loss']:.4f}{shown}  {seconds:6.1f} s"
            print(f"{line}  {seconds / epoch * (config.epochs - epoch):5.0f} s left", flush=True)
    if rank > 0:
        return 0
    trained = {"params": state["params"], "accuracy": (accuracy := score()), "measured_on": which}
    save_weights(config.weights, {**run["config"], **trained})
    return report(which, accuracy, len(Y), seconds, config.min_accuracy)


def evaluate(config: Config) -> int:
    """Scores the weights as they are, and writes what they predict if asked. Returns the exit status of report."""
    weights, started = load_weights(config.weights), time.perf_counter()
    if not is_same(weights["dataset"], config.dataset) or weights["activation"] not in nn.ACTIVATIONS:
        raise ValueError(f"{config.weights} needs --dataset {weights['dataset']}, activation {weights['activation']}")
    (X, Y), which = load_measured(config.dataset, config.validation, weights["classes"], config.predictions is not None)
    predictions = predict(weights["params"], weights["activation"], X)
    if config.predictions is not None:
        save_predictions(Path(config.predictions), [weights["classes"][k] for k in predictions])
        print(f"{len(X)} predictions in {config.predictions}")
    if len(Y) == 0:
        return 0
    return report(which, nn.get_accuracy(predictions, Y), len(Y), time.perf_counter() - started, config.min_accuracy)


def report(which: str, accuracy: float, samples: int, seconds: float, minimum: float) -> int:
    """Prints the result. Returns 1 where it is below the minimum, else 0."""
    print(f"{which} accuracy {accuracy:.2%} ({round((1 - accuracy) * samples)} errors in {samples}), {seconds:.1f} s")
    if accuracy < minimum:
        print(f"train.py: that is below --min-accuracy {minimum}", file=sys.stderr)
    return int(accuracy < minimum)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit status: 0, 1 for an error or low accuracy, 2 for unfit layers. Else SystemExit."""
    comm, config = None, None
    if "mpi4py" in sys.modules:  # as in mpiexec -n 4 python -m mpi4py train.py
        from mpi4py import MPI

        comm = MPI.COMM_WORLD
    rank = comm.rank if comm else 0
    try:
        config = parse_config(arguments) if rank == 0 else None
    finally:
        config = comm.bcast(config) if comm else config
    if config is None or config.evaluate and rank > 0:
        return 0
    for number in (signal.SIGINT, signal.SIGTERM) if rank > 0 else ():
        signal.signal(number, signal.SIG_IGN)  # rank 0 alone hears and says so, and its end is that of all
    try:
        with np.errstate(all="ignore"):  # of numbers that overflow, the loss tells
            return evaluate(config) if config.evaluate else train(config, comm)
    except (OSError, ValueError, ArithmeticError, MemoryError, ArgumentTypeError) as error:
        print("train.py:", printable(error), file=sys.stderr)  # it may quote a file
        return 2 if isinstance(error, ArgumentTypeError) else 1
    except SystemExit:
        how = "; the same command with --resume goes on from the last whole epoch, if one was done"
        print(f"train.py: stopped{'' if config.evaluate else how}", file=sys.stderr)
        raise


def stop(number: int, frame: object) -> None:
    """Ends the run with status 130 for Ctrl-C, 143 for SIGTERM; from now on, a second such signal does so at once."""
    signal.signal(number, signal.SIG_DFL)
    raise SystemExit(128 + number)  # unlike KeyboardInterrupt, no traceback wherever it comes


if __name__ == "__main__":
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    sys.exit(main())
