"""The multilayer perceptron in NumPy: pure functions over plain dicts of arrays.

N samples in a batch, D features, H hidden units, K classes, L layers counted l = 1..L. Rows are samples: X (N, D),
labels Y (N,), targets T (N, K), W{l} (fan_in, fan_out), b{l} (fan_out,). With A0 = X, a layer computes
Z{l} = A{l-1} @ W{l} + b{l} and A{l} = f(Z{l}); the last Z are the logits. dZ is short for d loss / dZ.

The dtype follows the parameters: float32 to train, float64 to check gradients. No function prints, changes an array it
is given, or draws a random number but from a generator it is given. A wrong shape, dtype or value is a ValueError. Not
here: files, images and the command line (data/, train.py); convolutions, GPUs, automatic differentiation.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias, TypedDict

import numpy as np
from numpy.random import Generator
from numpy.typing import DTypeLike, NDArray

Array: TypeAlias = NDArray[np.floating]
Samples: TypeAlias = NDArray[np.number]  # X (N, D) of any dtype
Labels: TypeAlias = NDArray[np.integer]
Params: TypeAlias = dict[str, Array]  # {"W1": ..., "b1": ..., ..., "WL": ..., "bL": ...}; gradients and updates alike
Moments: TypeAlias = dict[str, Params]  # an optimiser's memory, such as {"m": ..., "v": ...}
State = TypedDict("State", {"params": Params, "moments": Moments, "step": int, "loss": float})
Init: TypeAlias = Callable[[Generator, int, int], Array]  # rng, fan_in, fan_out -> W (fan_in, fan_out)
Activation: TypeAlias = tuple[Callable[[Array], Array], Callable[[Array, Array], Array | NDArray[np.bool_]]]
Loss: TypeAlias = Callable[[Array, Array], tuple[np.floating, Array]]  # logits, targets -> mean loss, its gradient dZ
Gradients: TypeAlias = Callable[[Params, Samples, Array], tuple[float, Params]]  # params, X, T -> mean loss, gradients
Optimizer: TypeAlias = tuple[tuple[str, ...], Callable[[Params, Moments, int], tuple[Params, Moments]]]


def relu(Z: Array) -> Array:
    """max(0, z), entry by entry."""
    return np.maximum(Z, 0)


def sigmoid(Z: Array) -> Array:
    """1 / (1 + exp(-z)), entry by entry, as (1 + tanh(z/2)) / 2: no z overflows."""
    return 0.5 * (1 + np.tanh(np.multiply(0.5, Z)))


tanh = np.tanh
GELU = math.sqrt(8 / math.pi)
ACTIVATIONS: dict[str, Activation] = {  # f of Z, and its derivative of Z and A = f(Z), whichever is cheaper
    "relu": (relu, lambda Z, A: Z > 0),
    "leaky_relu": (lambda Z: np.maximum(Z, 0.01 * Z), lambda Z, A: np.where(Z > 0, 1, 0.01)),
    "sigmoid": (sigmoid, lambda Z, A: A * (1 - A)),
    "tanh": (tanh, lambda Z, A: 1 - A * A),
    "silu": (lambda Z: Z * sigmoid(Z), lambda Z, A: sigmoid(Z) * (1 + Z - A)),
    "gelu": (  # Hendrycks & Gimpel 2016, tanh's form: z sigmoid(2u), 2u = sqrt(8/pi) (z + 0.044715 z^3)
        lambda Z: Z * sigmoid(GELU * (Z + 0.044715 * Z**3)),
        lambda Z, A: sigmoid(GELU * (Z + 0.044715 * Z**3)) * (1 + GELU * (Z - A) * (1 + 0.134145 * Z**2)),
    ),
}


def one_hot(Y: Labels, K: int, smoothing: float = 0.0, dtype: DTypeLike = np.float32) -> Array:
    """Labels (N,) to targets (N, K): 1 - smoothing for the label and smoothing / K for all alike; smoothing in 0..1."""
    Y = np.asarray(Y)
    if Y.ndim != 1 or Y.dtype.kind not in "iu" or ((Y < 0) | (Y >= K)).any() or not 0 <= smoothing <= 1:
        raise ValueError(f"labels must be integers (N,) in 0..{K - 1}, smoothing in 0..1, got {Y!r:.200}, {smoothing}")
    return ((1 - smoothing) * np.eye(K) + smoothing / K).astype(dtype)[Y]


def softmax(Z: Array) -> Array:
    """exp(z_k) / sum_j exp(z_j) along each row of Z (N, K); the row's maximum is subtracted first and cancels out."""
    E: Array = np.exp(Z - np.max(Z, axis=1, keepdims=True))
    E /= E.sum(axis=1, keepdims=True)
    return E


def cross_entropy(Z: Array, T: Array) -> tuple[np.floating, Array]:
    """mean_n -sum_k T_nk log softmax(Z)_nk, for rows of T that sum to 1, and dZ = (softmax(Z) - T) / N."""
    if np.ndim(Z) != 2 or np.shape(Z) != np.shape(T) or not len(T):
        raise ValueError(f"logits {np.shape(Z)} and targets {np.shape(T)} must both be (N, K), N > 0")
    shifted: Array = Z - np.max(Z, axis=1, keepdims=True)
    E = np.exp(shifted)
    total = E.sum(axis=1, keepdims=True)
    return (np.log(total).sum() - (T * shifted).sum()) / len(T), (E / total - T) / len(T)  # never the log of 0


def mean_squared_error(Z: Array, T: Array) -> tuple[np.floating, Array]:
    """mean_n 1/2 |A_n - T_n|^2 with A = sigmoid(Z), and dZ = (A - T) A (1 - A) / N."""
    if np.ndim(Z) != 2 or np.shape(Z) != np.shape(T) or not len(T):
        raise ValueError(f"logits {np.shape(Z)} and targets {np.shape(T)} must both be (N, K), N > 0")
    A = sigmoid(Z)
    return 0.5 * ((A - T) ** 2).sum() / len(T), (A - T) * A * (1 - A) / len(T)


LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy, "mean_squared_error": mean_squared_error}
INITS: dict[str, Init] = {
    "he": lambda rng, m, n: rng.normal(0, math.sqrt(2 / m), (m, n)),  # He et al. 2015
    "xavier": lambda rng, m, n: rng.normal(0, math.sqrt(2 / (m + n)), (m, n)),  # Glorot & Bengio 2010
    "lecun": lambda rng, m, n: rng.normal(0, math.sqrt(1 / m), (m, n)),  # LeCun et al. 1998
    "small": lambda rng, m, n: rng.normal(0, 0.01, (m, n)),
    "uniform": lambda rng, m, n: rng.uniform(-1, 1, (m, n)),
}


def init_params(layers: Sequence[int], init: Init, rng: Generator, dtype: DTypeLike = np.float32) -> Params:
    """Weights drawn by init, biases 0, for layers [D, H, ..., K]; dtype is float32 or float64."""
    if len(layers) < 2 or not all(isinstance(n, int | np.integer) and n >= 1 for n in layers):
        raise ValueError(f"layers must be two or more whole numbers, each at least 1, got {list(layers)}")
    if np.dtype(dtype) not in (np.float32, np.float64):
        raise ValueError(f"dtype must be float32 or float64, got {np.dtype(dtype)}")
    params: Params = {}
    for l, (m, n) in enumerate(zip(layers, layers[1:]), start=1):
        params |= {f"W{l}": init(rng, m, n).astype(dtype), f"b{l}": np.zeros(n, dtype)}
    return params


def count_layers(params: Params) -> int:
    """L. ValueError unless params are arrays W1, b1, ..., WL, bL whose shapes fit together."""
    L = max(1, math.ceil(len(params) / 2))
    fan_in = np.shape(params.get("W1", 0))[:1]
    for l in range(1, L + 1):
        W, b = getattr(params.get(f"W{l}"), "shape", ()), getattr(params.get(f"b{l}"), "shape", ())
        if len(W) != 2 or W != fan_in + b:
            raise ValueError(f"W{l} {W} and b{l} {b} do not fit: for {L} layers they must be (fan_in, n) and (n,)")
        fan_in = b
    return L


def forward_propagation(params: Params, X: Samples, activation: Activation) -> Params:
    """{"A0": X, "Z1": ..., "A1": ..., ..., "ZL": logits}: Z{l} = A{l-1} @ W{l} + b{l}, A{l} = f(Z{l})."""
    L = count_layers(params)
    A: Array = np.asarray(X, np.result_type(params["W1"], np.float32))
    if A.ndim != 2 or A.shape[1] != len(params["W1"]):
        raise ValueError(f"X {A.shape} does not fit W1 {params['W1'].shape}: it must be (N, {len(params['W1'])})")
    f, _ = activation
    cache = {"A0": A}
    for l in range(1, L + 1):
        cache[f"Z{l}"] = Z = A @ params[f"W{l}"]
        Z += params[f"b{l}"]
        if l < L:
            cache[f"A{l}"] = A = f(Z)
    return cache


def backward_propagation(params: Params, cache: Params, dZ: Array, activation: Activation) -> Params:
    """d loss / d params, keyed and shaped as params, from the cache and the gradient dZ (N, K) of the logits."""
    _, derivative = activation
    grads: Params = {}
    for l in range(len(params) // 2, 0, -1):
        A = cache[f"A{l - 1}"]
        grads[f"W{l}"] = np.dot(A.T, dZ)  # as A.T @ dZ it is slow where N is 1
        grads[f"b{l}"] = dZ.sum(axis=0)
        if l > 1:  # dZ{l-1} = (dZ{l} @ W{l}.T) * f'(Z{l-1}); the gradient of X itself is of no use
            dZ = dZ @ params[f"W{l}"].T
            dZ *= derivative(cache[f"Z{l - 1}"], A)
    return grads


def loss_and_gradients(
    params: Params, X: Samples, T: Array, activation: Activation = ACTIVATIONS["relu"], loss: Loss = cross_entropy
) -> tuple[float, Params]:
    """The mean loss of a batch X (N, D) with targets T (N, K), and its gradients."""
    cache = forward_propagation(params, X, activation)
    value, dZ = loss(cache[f"Z{len(params) // 2}"], np.asarray(T, cache["A0"].dtype))
    return float(value), backward_propagation(params, cache, dZ, activation)


def get_predictions(Z: Array) -> Labels:
    """The likeliest class of each row of Z (N, K), logits or probabilities: labels (N,)."""
    if np.ndim(Z) != 2 or np.count_nonzero(np.isnan(Z)):
        raise ValueError(f"Z must be numbers (N, K), got {np.shape(Z)} with {np.isnan(Z).sum()} NaN")
    labels: Labels = np.asarray(Z).argmax(axis=1)
    return labels


def get_accuracy(predictions: Labels, Y: Labels) -> float:
    """The fraction of predictions (N,) that equal the labels Y (N,), in [0, 1]."""
    if np.ndim(Y) != 1 or np.shape(predictions) != np.shape(Y) or not len(Y):
        raise ValueError(f"predictions {np.shape(predictions)} and labels {np.shape(Y)} must both be (N,), N > 0")
    return float(np.mean(np.equal(predictions, Y)))


def make_predictions(params: Params, X: Samples, activation: Activation = ACTIVATIONS["relu"]) -> Labels:
    """The class of each sample of X (N, D): labels (N,)."""
    return get_predictions(forward_propagation(params, X, activation)[f"Z{len(params) // 2}"])


def momentum(grads: Params, moments: Moments, step: int) -> tuple[Params, Moments]:
    """Polyak 1964: v = 0.9 v + g is both the moment and the update."""
    v: Params = {k: 0.9 * moments["v"][k] + g for k, g in grads.items()}
    return v, {"v": v}


def adam(grads: Params, moments: Moments, step: int) -> tuple[Params, Moments]:
    """Kingma & Ba 2015, algorithm 1: m_hat / (sqrt(v_hat) + eps); m and v are sums, m_hat = m / c1, v_hat = v / c2."""
    beta1, beta2, eps = 0.9, 0.999, 1e-8
    c1, c2 = (1 - beta1**step) / (1 - beta1), (1 - beta2**step) / (1 - beta2)  # bias correction: sums of past weights
    m, v, updates = (dict[str, Array]() for _ in range(3))
    for k, g in grads.items():  # what was just made is changed in place: fewer passes over memory
        m[k] = beta1 * moments["m"][k]
        m[k] += g
        v[k] = beta2 * moments["v"][k]
        v[k] += g * g
        root = np.sqrt(v[k])
        root *= c1 / math.sqrt(c2)
        root += c1 * eps
        updates[k] = np.divide(m[k], root, out=root)
    return updates, {"m": m, "v": v}


OPTIMIZERS: dict[str, Optimizer] = {  # moments, zero at first; gradients, moments, step from 1 -> updates, moments
    "sgd": ((), lambda grads, moments, step: (grads, moments)),
    "momentum": (("v",), momentum),
    "adam": (("m", "v"), adam),
}


def update_params(params: Params, updates: Params, learning_rate: float, weight_decay: float = 0.0) -> Params:
    """theta - learning_rate (update + weight_decay theta): decoupled weight decay, Loshchilov & Hutter 2019."""
    if not (0 <= learning_rate < math.inf and 0 <= weight_decay < math.inf):
        raise ValueError(f"learning_rate and weight_decay must be finite, >= 0, got {learning_rate} and {weight_decay}")
    if wrong := [k for k in params | updates if np.shape(params.get(k, 0)) != np.shape(updates.get(k, 0))]:
        raise ValueError(f"updates must have the keys and shapes of params, those of {', '.join(wrong)} differ")
    rate, kept = float(learning_rate), float(1 - learning_rate * weight_decay)  # a NumPy float64 would widen float32
    return {k: (kept * A if weight_decay else A) - rate * updates[k] for k, A in params.items()}


def init_state(params: Params, optimizer: Optimizer) -> State:
    """The state before step 1. A state's loss is that of the last batch, before its update; here it is NaN."""
    count_layers(params)
    if len(dtypes := {A.dtype for A in params.values()}) > 1 or not dtypes <= {np.dtype("f4"), np.dtype("f8")}:
        raise ValueError(f"params must be all float32 or all float64, got {', '.join(map(str, dtypes))}")
    moments = {name: {k: np.zeros_like(A) for k, A in params.items()} for name in optimizer[0]}
    return State(params=params, moments=moments, step=0, loss=math.nan)


def gradient_descent(
    state: State,
    batches: Iterable[tuple[Samples, Array]],
    optimizer: Optimizer,
    learning_rate: Callable[[int], float],
    gradients: Gradients = loss_and_gradients,
    weight_decay: float = 0.0,
) -> Iterator[State]:
    """Yields the state after a step on each batch (X, T); learning_rate is a function of the step, counted from 1."""
    names, update = optimizer
    params, moments = state["params"], state["moments"]
    if moments.keys() != set(names):
        raise ValueError(f"the state holds moments {list(moments)}, the optimiser needs {list(names)}")
    for step, (X, T) in enumerate(batches, start=state["step"] + 1):
        loss, grads = gradients(params, X, T)
        updates, moments = update(grads, moments, step)
        params = update_params(params, updates, learning_rate(step), weight_decay)
        yield State(params=params, moments=moments, step=step, loss=loss)
