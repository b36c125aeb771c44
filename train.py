"""The command: images -> gradient_descent -> weights, and a score on the test set."""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while NumPy is loaded ends the process without a word

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np
from tqdm import tqdm

import nn
from data.augment import STRENGTHS, Strengths, parse_strengths
from data.batches import make_batches
from data.checkpoint import Checkpoint, checkpoint_path, load_checkpoint, save_checkpoint
from data.load import CLASSES, Dataset, load_sets, scale_pixels
from data.weights import load_weights, save_weights

if TYPE_CHECKING:
    from mpi4py import MPI


Value = TypeVar("Value")
MICRO_BATCH = 1000  # rows whose gradients are taken at once
SCHEDULES: dict[str, Callable[[float], float]] = {  # progress from 0 to 1 -> factor of the learning rate
    "constant": lambda progress: 1.0,
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),  # Loshchilov & Hutter 2017
}


def flag(default: Value, help: str, low: float = 0, high: float = 1e30, **options: object) -> Value:
    """A field of Config, and the flag of the command that sets it; a number must lie in low..high."""
    own = {"default": default, "help": help} | ({} if "action" in options else {"type": type(default)})
    return cast(Value, field(metadata={"options": own | options, "bounds": (low, high)}))


@dataclass
class Config:
    """The flags; their defaults were chosen on the validation set, for about ten seconds of training."""

    dataset: str = flag("mnist", "digits or clothes", choices=CLASSES)
    layers: list[int] = flag([784, 256, 128, 10], "units: pixels, hidden ones, classes", low=1, type=int, nargs="+")
    activation: str = flag("relu", "of every hidden layer", choices=nn.ACTIVATIONS)
    init: str = flag("by activation", "the distribution that weights are drawn from", choices=nn.INITS)
    loss: str = flag("cross_entropy", "on softmax, or the squared error on sigmoid outputs", choices=nn.LOSSES)
    label_smoothing: float = flag(0.0, "share of a target that is spread over all classes", high=1)
    optimizer: str = flag("adam", "what makes updates of gradients", choices=nn.OPTIMIZERS)
    learning_rate: float = flag(0.003, "of a step, at its highest", low=1e-30)
    schedule: str = flag("cosine", "how the learning rate goes from step to step", choices=SCHEDULES)
    weight_decay: float = flag(0.0, "share of the parameters taken off a step, times the learning rate", high=1)
    batch_size: int = flag(128, "samples a step; 0 is all of them")
    epochs: int = flag(6, "passes over the training set", low=1)
    samples: int = flag(0, "train on the first so many alone; 0 is all of them")
    augment: dict[str, float] = flag({}, "NAME=VALUE,... (data/augment.py), or none", type=parse_strengths)
    seed: int = flag(0, "of the weights, the order and the augmentation")
    validation: bool = flag(False, "keep the last 10,000 training images to measure on", action="store_true")
    weights: Path = flag(Path("weights/DATASET.pkl"), "where they are kept")
    resume: bool = flag(False, "go on from the last epoch of a run that was stopped", action="store_true")
    evaluate: bool = flag(False, "score the weights as they are, without training", action="store_true")
    min_accuracy: float = flag(0.0, "exit with status 1 below it", high=1)

    def hyperparameters(self) -> dict[str, object]:
        """What the trained parameters depend on."""
        return {k: v for k, v in asdict(self).items() if k not in ("weights", "resume", "evaluate", "min_accuracy")}


def parse_config(arguments: Sequence[str] | None = None) -> Config:
    """The flags. SystemExit with status 2, after a message, for wrong ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    for each in fields(Config):
        parser.add_argument(f"--{each.name.replace('_', '-')}", **each.metadata["options"])
    config = Config(**vars(parser.parse_args(arguments)))
    for each in fields(Config):
        (low, high), value = each.metadata["bounds"], getattr(config, each.name)
        if not all(low <= v <= high for v in np.array(value, object).ravel() if isinstance(v, int | float)):
            parser.error(f"--{each.name.replace('_', '-')} must lie in {low:g}..{high:g}, got {value}")
    K = len(CLASSES[config.dataset])
    if config.layers[0] != 784 or config.layers[-1] != K:
        parser.error(f"--layers must go from 784 pixels to the {K} classes of {config.dataset}, got {config.layers}")
    config.weights = Path(str(config.weights).replace("DATASET", config.dataset))
    if config.weights.is_dir():
        parser.error(f"--weights must name a file, and {config.weights} is a folder")
    config.augment = STRENGTHS[config.dataset]._replace(**config.augment)._asdict()
    if config.init not in nn.INITS:
        config.init = {"sigmoid": "lecun", "tanh": "xavier"}.get(config.activation, "he")
    return config


def accumulate(gradients: nn.Gradients, micro_batch: int) -> nn.Gradients:
    """Gradient accumulation: the same mean loss and gradients, micro_batch rows at a time, which stay in the cache."""

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


def start(config: Config) -> Checkpoint:
    """Where to begin: before the first epoch or, with --resume, where a run with the same hyperparameters stopped."""
    params = nn.init_params(config.layers, nn.INITS[config.init], np.random.default_rng(config.seed))
    state = nn.init_state(params, nn.OPTIMIZERS[config.optimizer])
    fresh = Checkpoint(state=state, epoch=0, seconds=0.0, config=config.hyperparameters())
    return load_checkpoint(checkpoint_path(config.weights), fresh) if config.resume else fresh


def train_epoch(config: Config, data: Dataset, state: nn.State, epoch: int, comm: "MPI.Comm | None" = None) -> nn.State:
    """The state after epoch, counted from 1; its loss is the mean over the steps. ArithmeticError where not finite."""
    (X, Y), (rank, ranks), losses = data, (comm.rank, comm.size) if comm else (0, 1), list[float]()
    T, rng = nn.one_hot(Y, config.layers[-1], config.label_smoothing), np.random.default_rng([config.seed, epoch])
    batches = make_batches(X, T, config.batch_size or len(X), rng, Strengths(**config.augment), rank, ranks)
    steps, optimizer = math.ceil(len(X) / (config.batch_size or len(X))), nn.OPTIMIZERS[config.optimizer]
    rate = lambda step: config.learning_rate * SCHEDULES[config.schedule]((step - 1) / (steps * config.epochs))
    bar = tqdm(batches, total=steps, unit="step", delay=1, leave=False, disable=rank > 0 or None)
    for state in nn.gradient_descent(state, bar, optimizer, rate, make_gradients(config, comm), config.weight_decay):
        losses.append(state["loss"])
        ended = [state["params"], *state["moments"].values()] if len(losses) == steps else []
        finite = math.isfinite(state["loss"]) and all(np.isfinite(A).all() for tree in ended for A in tree.values())
        if rank == 0 and not finite:
            found = f"the loss is {state['loss']} and training diverges at epoch {epoch}, step {state['step']}"
            raise ArithmeticError(f"{found}; try --learning-rate {config.learning_rate / 10:g}")
    return {**state, "loss": math.fsum(losses) / steps}


def measure(params: nn.Params, activation: str, data: Dataset) -> float:
    """The accuracy in [0, 1] on images and labels, five hundred at a time to spare memory."""
    parts = (scale_pixels(data[0][i : i + 500]) for i in range(0, len(data[0]), 500))
    predictions = [nn.make_predictions(params, x, nn.ACTIVATIONS[activation]) for x in parts]
    return nn.get_accuracy(np.concatenate(predictions), data[1])


def train(config: Config, comm: "MPI.Comm | None") -> int:
    """Trains and keeps the weights, with a checkpoint an epoch; rank 0 alone reads, writes and prints. Exit status."""
    rank = comm.rank if comm else 0
    ready = (*load_sets(config.dataset, config.validation, config.samples), start(config)) if rank == 0 else None
    data, measured, begun = comm.bcast(ready) if comm else cast(tuple[Dataset, Dataset, Checkpoint], ready)
    state, seconds, started = cast(nn.State, begun["state"]), begun["seconds"], time.perf_counter()
    for epoch in range(begun["epoch"] + 1, config.epochs + 1):
        state = train_epoch(config, data, state, epoch, comm)
        if rank == 0:
            seconds = begun["seconds"] + time.perf_counter() - started
            done = Checkpoint(state=state, epoch=epoch, seconds=seconds, config=config.hyperparameters())
            save_checkpoint(checkpoint_path(config.weights), done)
            shown = f"  validation {measure(state['params'], config.activation, measured):.2%}" * config.validation
            line = f"epoch {epoch:3}/{config.epochs}  loss {state['loss']:.4f}{shown}  {seconds:6.1f} s"
            print(f"{line}  {seconds / epoch * (config.epochs - epoch):5.0f} s left", flush=True)
    if rank > 0:
        return 0
    accuracy = measure(state["params"], config.activation, measured)
    result = {"accuracy": accuracy, "measured_on": "validation" if config.validation else "test"}
    classes = list(CLASSES[config.dataset])
    save_weights(config.weights, {"params": state["params"], "classes": classes, **config.hyperparameters(), **result})
    return report(config, accuracy, len(measured[1]), seconds)


def evaluate(config: Config) -> int:
    """Scores the weights as they are. Returns the exit status of report."""
    weights, started = load_weights(config.weights), time.perf_counter()
    if weights["dataset"] != config.dataset or weights["activation"] not in nn.ACTIVATIONS:
        raise ValueError(f"{config.weights} is for {weights['dataset']}, {weights['activation']}; name its --dataset")
    _, measured = load_sets(config.dataset, config.validation)
    accuracy = measure(weights["params"], weights["activation"], measured)
    return report(config, accuracy, len(measured[1]), time.perf_counter() - started)


def report(config: Config, accuracy: float, samples: int, seconds: float) -> int:
    """Prints the result. Returns 1 where it is below --min-accuracy, else 0."""
    which, errors = "validation" if config.validation else "test", round((1 - accuracy) * samples)
    print(f"{which} accuracy {accuracy:.2%} ({errors} errors in {samples}), {seconds:.1f} s")
    if accuracy < config.min_accuracy:
        print(f"train.py: that is below --min-accuracy {config.min_accuracy}", file=sys.stderr)
    return int(accuracy < config.min_accuracy)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit status: 0, or 1 for an error or low accuracy. SystemExit for usage and signals."""
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
    np.empty(30_000_000, np.uint8)  # once freed, it has glibc keep what steps free, up to 30 MB: a fifteenth less time
    try:
        with np.errstate(all="ignore"):  # of numbers that overflow, the loss tells
            return evaluate(config) if config.evaluate else train(config, comm)
    except (OSError, ValueError, ArithmeticError, MemoryError) as error:
        print("train.py:", "".join(filter(str.isprintable, str(error)))[:1000], file=sys.stderr)  # it may quote a file
        return 1
    except SystemExit:
        kept = checkpoint_path(config.weights).exists()
        how = "the same command with --resume goes on from the last whole epoch" if kept else "no epoch was done"
        print(f"train.py: stopped; {how}", file=sys.stderr)
        raise


def stop(number: int, frame: object) -> None:
    """Ends the run with status 130 for Ctrl-C, 143 for SIGTERM; from now on, a second such signal does so at once."""
    signal.signal(number, signal.SIG_DFL)
    raise SystemExit(128 + number)  # unlike KeyboardInterrupt, no traceback wherever it comes


if __name__ == "__main__":
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    sys.exit(main())
