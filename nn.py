"""The multilayer perceptron in NumPy: pure functions over plain dicts of arrays.

Legend: N pictures in a batch, D pixels a picture, H hidden units, K classes, L layers, counted by l = 1..L.
Rows are samples: X (N, D), Y (N,) integer labels, W{l} (fan_in, fan_out), b{l} (fan_out,), and with A0 = X
Z{l} = A{l-1} @ W{l} + b{l}, A{l} = f(Z{l}), both (N, fan_out). dZ is short for d loss / dZ; theta is any W or b.

The dtype follows the parameters: float32 to train, float64 to prove the gradients. No function changes an argument,
prints, reads a clock or makes its own randomness; reading and writing weights stands apart at the end of the file.
Not here: pictures (data/), the command line (train.py), convolutions, GPUs, automatic differentiation.
"""

import io
import math
import os
import pickle
import pickletools
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeAlias, TypedDict, TypeVar

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.floating]
Labels: TypeAlias = npt.NDArray[np.integer]
Params: TypeAlias = dict[str, Array]
Moments: TypeAlias = dict[str, Params]
Gradients: TypeAlias = tuple[float, Params]  # a mean loss and its gradients
Average: TypeAlias = Callable[[Callable[[slice], Gradients], int], Gradients]  # gradients of a slice, rows -> mean
Init: TypeAlias = Callable[[np.random.Generator, int, int], Array]  # rng, fan_in, fan_out -> W (fan_in, fan_out)
Pixel = TypeVar("Pixel", bound=np.generic)  # uint8 as a rule
SMOOTHING = 0.1  # share of a target that is spread over all classes
PIECE = 1000  # rows whose gradients are taken at once


def relu(Z: Array) -> Array:
    """max(0, z), entry by entry."""
    A: Array = np.maximum(Z, 0)
    return A


def sigmoid(Z: Array) -> Array:
    """1 / (1 + exp(-z)), entry by entry, as (1 + tanh(z/2)) / 2: no z overflows."""
    A: Array = 0.5 * (1 + np.tanh(0.5 * Z))
    return A


def tanh(Z: Array) -> Array:
    """(exp(z) - exp(-z)) / (exp(z) + exp(-z)), entry by entry."""
    return np.tanh(Z)


def softmax(Z: Array) -> Array:
    """exp(z_k) / sum_j exp(z_j) along each row of Z (N, K); the row's maximum, taken off first, cancels out."""
    E: Array = np.exp(Z - Z.max(axis=1, keepdims=True))
    E /= E.sum(axis=1, keepdims=True)
    return E


def one_hot(Y: Labels, classes: int, dtype: npt.DTypeLike = np.float32) -> Array:
    """Labels (N,) in 0..classes-1 to rows (N, classes): 1 at the label, 0 elsewhere."""
    return np.eye(classes, dtype=dtype)[Y]


def cross_entropy(Z: Array, Y: Labels) -> np.floating:
    """mean_n -log softmax(Z)[n, Y[n]] from the logits Z (N, K), as log(sum_j exp(z_j)) - z_Y: never the log of 0."""
    shifted: Array = Z - Z.max(axis=1, keepdims=True)
    loss: np.floating = (np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(Y)), Y]).sum() / len(Y)
    return loss


def smoothed_cross_entropy(Z: Array, Y: Labels) -> np.floating:
    """cross_entropy + s mean_n (z_Y - z_mean): a share s of the target goes to all classes (Szegedy et al. 2016)."""
    spread: np.floating = (Z[np.arange(len(Y)), Y] - Z.mean(axis=1)).sum() / len(Y)
    return cross_entropy(Z, Y) + SMOOTHING * spread


def mean_squared_error(A: Array, Y: Labels) -> np.floating:
    """mean_n 1/2 |A[n] - one_hot(Y[n])|^2 from the outputs A (N, K)."""
    loss: np.floating = 0.5 * ((A - one_hot(Y, A.shape[1], A.dtype)) ** 2).sum() / len(Y)
    return loss


# Functions are values: one more start, activation, loss or optimiser is one more entry in a table.


class Activation(NamedTuple):
    """A hidden layer's function, its derivative in terms of its own output, and the start that suits it."""

    function: Callable[[Array], Array]  # Z -> A
    derivative: Callable[[Array], Array]  # A -> f'(Z)
    init: str


class Loss(NamedTuple):
    """The last layer's function, and a batch's mean loss with its gradient."""

    output: Callable[[Array], Array]  # Z (N, K) -> A (N, K)
    value: Callable[[Array, Labels], np.floating]  # Z, Y -> scalar
    gradient: Callable[[Array, Labels], Array]  # A, Y -> dZ (N, K)


INITS: dict[str, Init] = {
    "he": lambda rng, m, n: rng.normal(0, math.sqrt(2 / m), (m, n)),  # He et al. 2015
    "xavier": lambda rng, m, n: rng.normal(0, math.sqrt(2 / (m + n)), (m, n)),  # Glorot & Bengio 2010
    "lecun": lambda rng, m, n: rng.normal(0, math.sqrt(1 / m), (m, n)),  # LeCun et al. 1998
    "small": lambda rng, m, n: rng.normal(0, 0.01, (m, n)),
    "uniform": lambda rng, m, n: rng.uniform(-1, 1, (m, n)),
}

ACTIVATIONS = {
    "relu": Activation(relu, lambda A: (A > 0).astype(A.dtype), init="he"),
    "sigmoid": Activation(sigmoid, lambda A: A * (1 - A), init="lecun"),
    "tanh": Activation(tanh, lambda A: 1 - A * A, init="xavier"),
}

LOSSES: dict[str, Callable[[Activation], Loss]] = {  # f is the hidden activation
    "cross_entropy": lambda f: Loss(
        softmax, cross_entropy, lambda A, Y: (A - one_hot(Y, A.shape[1], A.dtype)) / len(Y)
    ),
    "smoothed_cross_entropy": lambda f: Loss(
        softmax,
        smoothed_cross_entropy,
        lambda A, Y: (A - (1 - SMOOTHING) * one_hot(Y, A.shape[1], A.dtype) - SMOOTHING / A.shape[1]) / len(Y),
    ),
    "mean_squared_error": lambda f: Loss(
        f.function,
        lambda Z, Y: mean_squared_error(f.function(Z), Y),
        lambda A, Y: (A - one_hot(Y, A.shape[1], A.dtype)) * f.derivative(A) / len(Y),
    ),
}


def shapes_of(layers: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """{"W1": (D, H), "b1": (H,), ...} for layers [D, H, ..., K]. ValueError for fewer than two, or one below 1."""
    if len(layers) < 2 or min(layers) < 1:
        raise ValueError(f"layers must be two or more sizes, each at least 1, got {list(layers)}")
    pairs = enumerate(zip(layers, layers[1:]), start=1)
    return {k: shape for l, (m, n) in pairs for k, shape in ((f"W{l}", (m, n)), (f"b{l}", (n,)))}


def init_params(
    layers: Sequence[int], init: Init, rng: np.random.Generator, dtype: npt.DTypeLike = np.float32
) -> Params:
    """Parameters with the shapes of shapes_of(layers): weights drawn by init, biases 0."""
    shapes = shapes_of(layers).items()
    return {k: (init(rng, *shape) if k[0] == "W" else np.zeros(shape)).astype(dtype) for k, shape in shapes}


def forward_propagation(params: Params, X: Array, activation: Activation, loss: Loss) -> Params:
    """Z{l} = A{l-1} @ W{l} + b{l}, A{l} = f(Z{l}): X (N, D) to {"A0": X, ..., "AL", "ZL"}. ValueError for another D."""
    if X.ndim != 2 or X.shape[1] != len(params["W1"]):
        raise ValueError(f"X {X.shape} does not fit W1 {params['W1'].shape}: X must be (N, {len(params['W1'])})")
    L = len(params) // 2
    cache = {"A0": X}
    for l in range(1, L + 1):
        Z: Array = cache[f"A{l - 1}"] @ params[f"W{l}"]
        Z += params[f"b{l}"]
        cache[f"A{l}"] = activation.function(Z) if l < L else loss.output(Z)
    return cache | {f"Z{L}": Z}


def backward_propagation(params: Params, cache: Params, Y: Labels, activation: Activation, loss: Loss) -> Params:
    """d loss / d theta, keyed and shaped as params, by the chain rule from the last layer to the first:

    dW{l} = A{l-1}.T @ dZ{l}, db{l} = sum_n dZ{l}[n], dZ{l-1} = (dZ{l} @ W{l}.T) * f'(Z{l-1}).
    """
    L = len(params) // 2
    grads: Params = {}
    dZ = loss.gradient(cache[f"A{L}"], Y)
    for l in range(L, 0, -1):
        A = cache[f"A{l - 1}"]
        grads[f"W{l}"] = np.dot(A.T, dZ)  # A.T @ dZ is slow where N is 1
        grads[f"b{l}"] = dZ.sum(axis=0)
        if l > 1:  # the gradient of the pictures themselves is of no use
            dZ = dZ @ params[f"W{l}"].T
            dZ *= activation.derivative(A)
    return grads


def get_predictions(A: Array) -> Labels:
    """The likeliest class of each row of A (N, K): labels (N,)."""
    labels: Labels = A.argmax(axis=1)
    return labels


def get_accuracy(predictions: Labels, Y: Labels) -> float:
    """The share of predictions (N,) that equal the labels Y (N,), in [0, 1]."""
    return float(np.mean(predictions == Y))


def make_predictions(params: Params, X: Array, activation: Activation, loss: Loss) -> Labels:
    """The class of each picture of X (N, D): labels (N,). ValueError where X does not fit W1."""
    return get_predictions(forward_propagation(params, X, activation, loss)[f"A{len(params) // 2}"])


class Optimizer(NamedTuple):
    """The direction to step in, from the gradients and from moments kept from step to step, zero at first."""

    moments: tuple[str, ...]
    direction: Callable[[Params, Moments, int], tuple[Params, Moments]]  # grads, moments, step counted from 1


def momentum(grads: Params, moments: Moments, step: int) -> tuple[Params, Moments]:
    """Polyak 1964: v = 0.9 v + g is both the moment and the direction."""
    v: Params = {k: 0.9 * moments["v"][k] + g for k, g in grads.items()}
    return v, {"v": v}


def adam(grads: Params, moments: Moments, step: int) -> tuple[Params, Moments]:
    """Kingma & Ba 2015, algorithm 1. The moments are weighted sums over the past, m = beta1 m + g, v = beta2 v + g^2;

    divided by the sums of their weights, (1 - beta^step) / (1 - beta), they are the paper's means m_hat and v_hat,
    and m_hat / (sqrt(v_hat) + eps) is the direction.
    """
    beta1, beta2, eps = 0.9, 0.999, 1e-8
    weight1, weight2 = ((1 - beta**step) / (1 - beta) for beta in (beta1, beta2))
    m, v, direction = (dict[str, Array]() for _ in range(3))
    for k, g in grads.items():  # what was just made is changed in place: fewer passes over memory
        m[k] = beta1 * moments["m"][k]
        m[k] += g
        v[k] = beta2 * moments["v"][k]
        v[k] += g * g
        root = np.sqrt(v[k])
        root *= weight1 / math.sqrt(weight2)
        root += weight1 * eps
        direction[k] = m[k] / root
    return direction, {"m": m, "v": v}


OPTIMIZERS = {
    "sgd": Optimizer((), lambda grads, moments, step: (grads, moments)),
    "momentum": Optimizer(("v",), momentum),
    "adam": Optimizer(("m", "v"), adam),
}


def update_params(params: Params, direction: Params, learning_rate: float, weight_decay: float = 0.0) -> Params:
    """theta - learning_rate * (direction + weight_decay * theta), the decay apart from any moments (Loshchilov 2019).

    The direction of plain gradient descent is the gradients themselves. ValueError, naming both sides, where the
    direction has other keys, shapes or dtypes than the parameters.
    """
    ours, theirs = ({k: (A.dtype, A.shape) for k, A in tree.items()} for tree in (params, direction))
    if ours != theirs:
        k = next(k for k in ours | theirs if ours.get(k) != theirs.get(k))
        raise ValueError(f"{k}: the parameter is {ours.get(k)}, its gradient {theirs.get(k)}")
    # a NumPy float64 would make float64 of float32 parameters
    rate, kept = float(learning_rate), float(1 - learning_rate * weight_decay)
    decayed = {k: kept * A for k, A in params.items()} if weight_decay else params
    return {k: decayed[k] - rate * direction[k] for k in params}


class State(TypedDict):
    """A training in progress, whole: a plain dict of builtins and arrays."""

    params: Params
    moments: Moments
    step: int  # updates done
    epoch: int  # epochs done
    loss: float  # mean over the last epoch, each batch's taken before its update
    generator: dict[str, object]  # the state of numpy.random.default_rng()'s bit generator


def init_state(params: Params, optimizer: Optimizer, rng: np.random.Generator) -> State:
    """The state before the first step, with rng as it stands."""
    moments = {name: {k: np.zeros_like(A) for k, A in params.items()} for name in optimizer.moments}
    generator = dict(rng.bit_generator.state)
    return State(params=params, moments=moments, step=0, epoch=0, loss=math.nan, generator=generator)


def check_data(params: Params, X: npt.NDArray[Pixel], Y: Labels, batch_size: int) -> None:
    """ValueError unless X (N, D) is finite, Y (N,) holds integers in 0..K-1 and batch_size lies in 1..N."""
    N, K = len(X), len(params[f"b{len(params) // 2}"])
    if not 1 <= batch_size <= N:
        raise ValueError(f"batch_size must lie in 1..{N}, the number of pictures, got {batch_size}")
    if not np.isfinite([X.min(), X.max()]).all():
        raise ValueError("X holds NaN or infinity: every pixel must be a number")
    if Y.shape != (N,) or not np.issubdtype(Y.dtype, np.integer):
        raise ValueError(f"Y must be {N} integers, a label for each row of X, got {Y.dtype} {Y.shape}")
    if Y.min() < 0 or Y.max() >= K:
        raise ValueError(f"labels must lie in 0..{K - 1}, the units of the last layer, got {Y.min()}..{Y.max()}")


def mean_gradients(gradients: Callable[[slice], Gradients], n: int) -> Gradients:
    """The mean loss of n rows and its gradients, as the running mean over pieces that take little memory.

    gradients tells both for a slice of the rows.
    """
    value, mean = gradients(slice(0, min(PIECE, n)))
    for i in range(PIECE, n, PIECE):
        j = min(i + PIECE, n)
        next_value, grads = gradients(slice(i, j))
        share = (j - i) / j
        value += share * (next_value - value)
        mean = {k: M + share * (grads[k] - M) for k, M in mean.items()}
    return value, mean


def gradient_descent(
    state: State, X: npt.NDArray[Pixel], Y: Labels, activation: Activation, loss: Loss, optimizer: Optimizer,
    learning_rate: Callable[[int], float], batch_size: int, epochs: int,
    prepare: Callable[[npt.NDArray[Pixel], Array], Array], draws: int = 0,
    watch: Callable[[int, float], None] = lambda step, value: None,
    average: Average = mean_gradients,
    weight_decay: float = 0.0,
) -> Iterator[State]:
    """Yields the state after every epoch until epochs are done; from any of them it goes on as if it had never stopped.

    X (N, D), Y (N,), batch_size pictures a step in an order drawn anew each epoch. prepare makes X (n, D) of n pictures
    and of as many numbers in [-1, 1) for each as draws says, (n, draws), their chance. learning_rate is a function of
    the step, counted from 1; watch is told each step and its batch's loss; average stands for mean_gradients where many
    processes share a batch; weight_decay is that of update_params. ValueError where check_data finds fault.
    """
    check_data(state["params"], X, Y, batch_size)
    rng = np.random.default_rng()
    rng.bit_generator.state = state["generator"]
    params, moments, step = state["params"], state["moments"], state["step"]
    for epoch in range(state["epoch"] + 1, epochs + 1):
        total, order = 0.0, rng.permutation(len(X))
        for rows in (order[i : i + batch_size] for i in range(0, len(X), batch_size)):
            step += 1
            chance = 2 * rng.random((len(rows), draws), np.float32) - 1

            def gradients(part: slice) -> Gradients:
                x, y = prepare(X[rows[part]], chance[part]), Y[rows[part]]
                cache = forward_propagation(params, x, activation, loss)
                grads = backward_propagation(params, cache, y, activation, loss)
                return float(loss.value(cache[f"Z{len(params) // 2}"], y)), grads

            value, grads = average(gradients, len(rows))
            direction, moments = optimizer.direction(grads, moments, step)
            params = update_params(params, direction, learning_rate(step), weight_decay)
            watch(step, value)
            total += value * len(rows)
        generator = dict(rng.bit_generator.state)
        yield State(params=params, moments=moments, step=step, epoch=epoch, loss=total / len(X), generator=generator)


# Weights on disk: a pickle of builtins alone, so that loading one can run nothing.

MAX_BYTES, MAX_OPCODES = 250_000_000, 10_000  # an array takes 15 opcodes or so
PLAIN_OPCODES = set(
    "PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT SHORT_BINUNICODE BINUNICODE "
    "SHORT_BINBYTES BINBYTES EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS".split()
)


def pack(tree: object) -> object:
    """A tree of dicts with every array in it as a dict of dtype, shape and bytes."""
    if isinstance(tree, np.ndarray):
        return {"dtype": tree.dtype.str, "shape": list(tree.shape), "bytes": tree.tobytes()}
    return {k: pack(v) for k, v in tree.items()} if isinstance(tree, dict) else tree


def unpack(tree: object) -> object:
    """The inverse of pack. KeyError, TypeError or ValueError for an array that is not of finite floats."""
    if isinstance(tree, list):
        return [unpack(v) for v in tree]
    if not isinstance(tree, dict):
        return tree
    if tree.keys() != {"dtype", "shape", "bytes"}:
        return {k: unpack(v) for k, v in tree.items()}
    dtype = {"<f4": np.float32, "<f8": np.float64}[tree["dtype"]]
    A = np.frombuffer(tree["bytes"], dtype).reshape(tree["shape"]).copy()
    if not np.isfinite(A).all():
        raise ValueError("NaN or infinity among the numbers")
    return A


def decode(data: bytes) -> object:
    """The tree of which a file holds the pickle. ValueError, or nearly any other, unless it is plain and small."""
    opcodes = [op.name for op, _, _ in islice(pickletools.genops(data), MAX_OPCODES)]
    if alien := set(opcodes) - PLAIN_OPCODES:
        raise ValueError(f"it uses {', '.join(alien)}, where weights are plain numbers, texts and bytes")
    if len(data) > MAX_BYTES or opcodes[-1] != "STOP":
        raise ValueError(f"it has more than {MAX_BYTES} bytes or {MAX_OPCODES} opcodes: too many for weights")
    return unpack(pickle.loads(data))


def save_params(path: Path, params: Params, about: dict[str, object]) -> None:
    """Writes params and about, builtins and arrays that tell how to use them, to path: whole or not at all.

    ValueError for what load_params would refuse, such as NaN; OSError that names path.
    """
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, protocol=4)
    pickler.fast = True  # no memo: nothing in the file refers to another part of it
    pickler.dump(pack({"params": params, **about}))
    decode(buffer.getvalue())
    temporary = path.with_name(f"{path.name}.{os.urandom(8).hex()}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def load_params(path: Path) -> tuple[Params, dict[str, object]]:
    """Reads (params, about) as save_params wrote them; their shapes follow from about["layers"].

    ValueError for a file that is damaged, that asks to run anything, or that holds something else.
    """
    with open(path, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    try:
        about = decode(data)
        assert isinstance(about, dict), "no dict"
        params: Params = about.pop("params")
        shapes, expected = {k: A.shape for k, A in params.items()}, shapes_of(about["layers"])
    except Exception as error:  # a damaged file can raise nearly any
        raise ValueError(f"{path} does not hold weights: {error!r:.500}") from error
    if shapes != expected:
        raise ValueError(f"{path} holds {shapes}, but its layers {about['layers']} need {expected}")
    return params, about
