"""The same network in each framework, on the same images, as fast as the framework's users can train on a CPU.

All start from the same weights, and take the samples in a new order each epoch: the same one, but for scikit-learn.
Ours and JAX hold grey levels in uint8 and scale each batch; PyTorch and scikit-learn hold float32, scaled before the
clock starts: each has what served it best.
"""

import functools
import itertools
import math
import statistics
import timeit
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

import nn
import train
from data.augment import Images
from data.load import load, scale_pixels

SEED = 0  # of the weights, the same in every framework, and of the order of the samples
REPEATED = 1000  # predictions, of which the median is told
BOUND = "matmul bound"

Labels: TypeAlias = NDArray[np.int64]  # (N,)
Product: TypeAlias = tuple[nn.Array, nn.Array, nn.Array]  # left, right, out


class Work(NamedTuple):
    """What every framework is asked to do alike, with ReLU, softmax and cross-entropy."""

    layers: tuple[int, ...]
    optimizer: str
    batch: int  # samples a step
    rate: float  # learning rate
    samples: int = 60_000  # the first ones; an epoch is one pass over them
    unit: Literal["s/epoch", "µs/step", "µs/image"] = "s/epoch"  # in which its time is told


class Trainer(NamedTuple):
    """A network in one framework, ready to be trained."""

    epoch: Callable[[], object]  # trains on each sample once; has done it when it returns
    array: Callable[[nn.Array], Any]  # images (N, 784) in 0..1 as the framework's own array
    predict: Callable[[Any], Any]  # such an array to its labels; has done it when it returns


def initial_params(work: Work) -> nn.Params:
    """The weights that every framework starts from."""
    return nn.init_params(work.layers, nn.INITS["he"], np.random.default_rng(SEED))


def orders(samples: int) -> Iterator[NDArray[np.intp]]:
    """The order of the samples in each epoch, the same as in train.train_epoch."""
    return (np.random.default_rng([SEED, epoch]).permutation(samples) for epoch in itertools.count(1))


def ours(work: Work, X: Images, Y: Labels) -> Trainer:
    """This project: the epochs of train.py."""
    flags = f"--optimizer {work.optimizer} --batch-size {work.batch} --learning-rate {work.rate} --schedule constant"
    layers = " ".join(map(str, work.layers))
    config = train.parse_config(f"{flags} --augment none --label-smoothing 0 --seed {SEED} --layers {layers}".split())
    state, epochs = nn.init_state(initial_params(work), nn.OPTIMIZERS[work.optimizer]), itertools.count(1)

    def epoch() -> None:
        nonlocal state
        state = train.train_epoch(config, (X, Y), state, next(epochs))

    return Trainer(epoch, lambda A: A, lambda A: nn.make_predictions(state["params"], A))


def products(layers: tuple[int, ...], rows: int) -> list[Product]:
    """The matrix products of a step on so many rows, in order, each with a buffer for what comes out.

    A @ W from the first layer to the last; back again A.T @ dZ and, except for the images, dZ @ W.T.
    """
    rng, L = np.random.default_rng(SEED), len(layers) - 1
    A, dZ = ([rng.standard_normal((rows, n), np.float32) for n in layers] for _ in "AZ")
    W, dW = ([rng.standard_normal((m, n), np.float32) / math.sqrt(m) for m, n in zip(layers, layers[1:])] for _ in "Wd")
    forward = [(A[l], W[l], A[l + 1]) for l in range(L)]
    backward = [((A[l].T, dZ[l + 1], dW[l]), (dZ[l + 1], W[l].T, dZ[l])) for l in reversed(range(L))]
    return [*forward, *itertools.chain(*backward)][:-1]


def multiply(steps: list[Product]) -> None:
    """Carries the products out, by np.dot: on a single row np.matmul does without BLAS, and takes ten times as long."""
    for left, right, out in steps:
        np.dot(left, right, out=out)


def lower_bound(work: Work, X: Images, Y: Labels) -> Trainer:
    """The matrix products alone, on the same numbers in every step: no images, activations, losses or updates."""
    make = functools.cache(functools.partial(products, work.layers))
    steps = [make(len(X[i : i + work.batch])) for i in range(0, len(X), work.batch)]
    forward = functools.cache(lambda rows: make(rows)[: len(work.layers) - 1])

    def epoch() -> None:
        for step in steps:
            multiply(step)

    return Trainer(epoch, lambda A: A, lambda A: multiply(forward(len(A))))


def pytorch(work: Work, X: Images, Y: Labels) -> Trainer:
    """PyTorch, eager: tensors made beforehand, a fused optimizer, no modules."""
    import torch
    from torch.nn.functional import cross_entropy, linear, relu

    params = {k: torch.from_numpy(A.T.copy()).requires_grad_() for k, A in initial_params(work).items()}
    images, targets, order, L = torch.from_numpy(scale_pixels(X)), torch.from_numpy(Y), orders(len(X)), len(params) // 2
    make_optimizer = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[work.optimizer]
    optimizer = make_optimizer(params.values(), lr=work.rate, fused=True)

    def forward(A: Any) -> Any:
        for l in range(1, L):
            A = relu(linear(A, params[f"W{l}"], params[f"b{l}"]))
        return linear(A, params[f"W{L}"], params[f"b{L}"])

    def epoch() -> None:
        for rows in torch.from_numpy(next(order)).split(work.batch):
            optimizer.zero_grad()
            cross_entropy(forward(images.index_select(0, rows)), targets.index_select(0, rows)).backward()
            optimizer.step()

    return Trainer(epoch, torch.from_numpy, torch.inference_mode()(lambda A: forward(A).argmax(1)))


def jax_trainer(work: Work, X: Images, Y: Labels, scanned: bool) -> Trainer:
    """JAX: each step is a call, or all the full batches of an epoch are one. State is donated."""
    import jax
    from jax import numpy as jnp

    tree, L = jax.tree.map, len(work.layers) - 1
    params, m, v = (tree(jnp.asarray, initial_params(work)) for _ in range(3))
    moments = (*tree(jnp.zeros_like, (m, v)), jnp.float32(0)) if work.optimizer == "adam" else ()
    state, shuffled = (params, *moments), orders(len(X))
    data = jnp.asarray(X), jnp.asarray(nn.one_hot(Y, work.layers[-1]))

    def forward(params: Any, A: Any) -> Any:
        for l in range(1, L):
            A = jax.nn.relu(A @ params[f"W{l}"] + params[f"b{l}"])
        return A @ params[f"W{L}"] + params[f"b{L}"]

    def loss(params: Any, A: Any, T: Any) -> Any:
        return -(T * jax.nn.log_softmax(forward(params, A))).sum(1).mean()

    def step(state: Any, data: Any, rows: Any) -> Any:
        (params, *moments), A, T = state, data[0][rows].astype(jnp.float32) / 255, data[1][rows]
        g = jax.grad(loss)(params, A, T)
        if work.optimizer == "sgd":
            return (tree(lambda p, g: p - work.rate * g, params, g),)
        m, v, t = moments
        m, v, t = tree(lambda m, g: 0.9 * m + 0.1 * g, m, g), tree(lambda v, g: 0.999 * v + 0.001 * g * g, v, g), t + 1
        rate, unbias = work.rate / (1 - 0.9**t), 1 / (1 - 0.999**t)
        return tree(lambda p, m, v: p - rate * m / (jnp.sqrt(unbias * v) + 1e-8), params, m, v), m, v, t

    def scan(state: Any, data: Any, order: Any) -> Any:
        return jax.lax.scan(lambda state, rows: (step(state, data, rows), None), state, order)[0]

    one, many = jax.jit(step, donate_argnums=0), jax.jit(scan, donate_argnums=0)
    predict = jax.jit(lambda params, A: forward(params, A).argmax(1))

    def epoch() -> None:
        nonlocal state
        order, done = next(shuffled).astype(np.int32), len(X) // work.batch * work.batch * scanned
        state = many(state, data, order[:done].reshape(-1, work.batch)) if scanned else state
        for i in range(done, len(X), work.batch):
            state = one(state, data, order[i : i + work.batch])
        jax.block_until_ready(state)

    return Trainer(epoch, jnp.asarray, lambda A: predict(state[0], A).block_until_ready())


def scikit_learn(work: Work, X: Images, Y: Labels) -> Trainer:
    """MLPClassifier, a partial_fit an epoch, without the penalty and the momentum that are its defaults."""
    from sklearn.neural_network import MLPClassifier

    images, start = scale_pixels(X), initial_params(work)
    same = {"solver": work.optimizer, "learning_rate_init": work.rate, "batch_size": work.batch}
    plain = {"alpha": 0, "momentum": 0, "nesterovs_momentum": False}
    model = MLPClassifier(work.layers[1:-1], **same, **plain)
    model.partial_fit(images[: work.batch], Y[: work.batch], classes=range(work.layers[-1]))  # makes its arrays
    for l, arrays in enumerate(zip(model.coefs_, model.intercepts_), start=1):
        for array, name in zip(arrays, "Wb"):
            array[...] = start[f"{name}{l}"]
    return Trainer(lambda: model.partial_fit(images, Y), lambda A: A, model.predict)


FRAMEWORKS: dict[str, tuple[str, Callable[[Work, Images, Labels], Trainer]]] = {  # name -> package, trainer
    "ours": ("numpy", ours),
    BOUND: ("numpy", lower_bound),
    "PyTorch": ("torch", pytorch),
    "JAX, step": ("jax", functools.partial(jax_trainer, scanned=False)),
    "JAX, scan": ("jax", functools.partial(jax_trainer, scanned=True)),
    "scikit-learn": ("scikit-learn", scikit_learn),
}


@functools.cache  # so that a process goes on with the network that it has
def make_trainer(name: str, work: Work, dataset: str) -> Trainer:
    """The trainer of a framework on the first images of a dataset."""
    X, Y = load(dataset, "train")
    return FRAMEWORKS[name][1](work, X[: work.samples], Y[: work.samples])


def elapsed(name: str, work: Work, dataset: str) -> float:
    """The time, in the work's unit, of one more epoch or its mean step, or the median of predictions after a first."""
    trainer = make_trainer(name, work, dataset)
    if work.unit == "µs/image":
        array = trainer.array(scale_pixels(load(dataset, "test")[0][:1]))
        return 1e6 * statistics.median(timeit.repeat(lambda: trainer.predict(array), number=1, repeat=REPEATED)[1:])
    seconds = timeit.timeit(trainer.epoch, number=1)
    return seconds if work.unit == "s/epoch" else 1e6 * seconds / math.ceil(work.samples / work.batch)


def score(name: str, work: Work, dataset: str) -> float:
    """The share of the test images that are read right, in [0, 1]."""
    trainer, (X, Y) = make_trainer(name, work, dataset), load(dataset, "test")
    return nn.get_accuracy(np.asarray(trainer.predict(trainer.array(scale_pixels(X)))), Y)
