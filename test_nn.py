"""Tests of nn.py, each against an independent way to the answer."""

import copy
import itertools
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import nn

settings.register_profile("repeatable", derandomize=True, deadline=None)  # the same examples in every run
settings.load_profile("repeatable")
pytestmark = pytest.mark.filterwarnings("error")  # an overflow is a failure

each = pytest.mark.parametrize
SOFTPLUS: nn.Activation = (lambda Z: np.log1p(np.exp(Z)), lambda Z, A: nn.sigmoid(Z))
ACTIVATIONS = nn.ACTIVATIONS | {"softplus": SOFTPLUS}  # one more entry, for which all must hold as well
PAIRS = list(itertools.product(ACTIVATIONS, nn.LOSSES))
DTYPES = (np.float32, np.float64)


class Network(NamedTuple):
    """Parameters with a batch and functions that fit them."""

    params: nn.Params
    X: nn.Array
    T: nn.Array
    activation: nn.Activation
    loss: nn.Loss


def network(pair: tuple[str, str], layers: Sequence[int], N: int, seed: int, dtype: type = np.float64) -> Network:
    """A network with random weights and biases and a batch of N, its targets smoothed or not, all of it read-only."""
    rng = np.random.default_rng(seed)
    params = nn.init_params(layers, lambda rng, m, n: rng.normal(0, 1.4 / math.sqrt(m), (m, n)), rng, dtype)
    params |= {k: rng.normal(0, 0.5, A.shape).astype(dtype) for k, A in params.items() if k[0] == "b"}
    X: nn.Array = rng.normal(0, 1, (N, layers[0])).astype(dtype)
    T = nn.one_hot(rng.integers(0, layers[-1], N), layers[-1], float(rng.choice([0, 0.2])), dtype)
    frozen([params, X, T])
    return Network(params, X, T, ACTIVATIONS[pair[0]], nn.LOSSES[pair[1]])


def arrays(tree: Any) -> list[Any]:
    """All arrays and NumPy scalars in a tree of dicts, lists and tuples."""
    if isinstance(tree, dict | list | tuple):
        return [A for branch in (tree.values() if isinstance(tree, dict) else tree) for A in arrays(branch)]
    return [tree] if isinstance(tree, np.ndarray | np.generic) else []


def frozen(tree: Any) -> Any:
    """The tree, its arrays read-only: a function that wrote into its argument would raise."""
    for A in arrays(tree):
        A.flags.writeable = False
    return tree


def bits(tree: Any) -> Any:
    """The tree with dtype, shape and bytes in the place of each array: equal where all is equal bit for bit."""
    if isinstance(tree, dict):
        return {k: bits(branch) for k, branch in tree.items()}
    if isinstance(tree, list | tuple):
        return [bits(branch) for branch in tree]
    return (tree.dtype.str, tree.shape, tree.tobytes()) if isinstance(tree, np.ndarray) else tree


def assert_close(ours: nn.Params, theirs: nn.Params) -> None:
    assert ours.keys() == theirs.keys()
    for k in ours:
        np.testing.assert_allclose(ours[k], theirs[k], rtol=1e-11, atol=1e-13, err_msg=k)


def logits(net: Network) -> nn.Array:
    return nn.forward_propagation(net.params, net.X, net.activation)[f"Z{len(net.params) // 2}"]


def loss_of(net: Network) -> Any:
    return net.loss(logits(net), net.T)[0]


def of_batch(net: Network) -> nn.Gradients:
    """The loss and gradients of any batch by the network's functions."""
    return partial(nn.loss_and_gradients, activation=net.activation, loss=net.loss)


def gradients(net: Network) -> nn.Params:
    return of_batch(net)(net.params, net.X, net.T)[1]


def test_activations_at_known_points() -> None:
    points, root = [-2.0, -0.5, 0.0, 0.5, 3.0], math.sqrt(2 / math.pi)
    formulas: dict[str, Callable[[float], float]] = {
        "relu": lambda z: max(0.0, z),
        "leaky_relu": lambda z: z if z > 0 else z / 100,
        "sigmoid": lambda z: 1 / (1 + math.exp(-z)),
        "tanh": math.tanh,
        "silu": lambda z: z / (1 + math.exp(-z)),
        "gelu": lambda z: z * (1 + math.tanh(root * (z + 0.044715 * z**3))) / 2,
    }
    for name, formula in formulas.items():
        found = nn.ACTIVATIONS[name][0](np.array([points]))
        np.testing.assert_allclose(found, [[formula(z) for z in points]], rtol=1e-14, atol=1e-16, err_msg=name)
    Z = np.linspace(-6, 6, 1001)
    exact = [z * (1 + math.erf(z / math.sqrt(2))) / 2 for z in Z]
    np.testing.assert_allclose(nn.ACTIVATIONS["gelu"][0](Z), exact, atol=5e-4)  # tanh's form is as near as that
    assert nn.ACTIVATIONS["relu"][0] is nn.relu and nn.ACTIVATIONS["tanh"][0] is nn.tanh
    zero = np.zeros(1)  # there the derivative is that of what is below
    assert [nn.ACTIVATIONS[name][1](zero, zero)[0] for name in ("relu", "leaky_relu")] == [0, 0.01]


def test_targets_predictions_and_accuracy_at_known_points() -> None:
    np.testing.assert_array_equal(nn.one_hot(np.array([2, 0]), 4), [[0, 0, 1, 0], [1, 0, 0, 0]])
    np.testing.assert_allclose(nn.one_hot(np.array([1]), 4, 0.2, np.float64), [[0.05, 0.85, 0.05, 0.05]], rtol=1e-15)
    np.testing.assert_array_equal(nn.one_hot(np.array([1, 0]), 2, 1.0), np.full((2, 2), 0.5))
    np.testing.assert_array_equal(nn.get_predictions(np.array([[0.1, 0.2, 0.7], [0.6, 0.1, 0.3]])), [2, 0])
    params: Any = {"W1": np.array([[1, -1], [0, 1]]), "b1": np.array([0, 0.5])}  # integers do not cut X off
    np.testing.assert_array_equal(nn.make_predictions(params, np.array([[0, 0], [0.9, 0.2], [0.1, 0.6]])), [1, 0, 1])
    assert nn.get_accuracy(np.array([2, 0, 1, 1]), np.array([2, 0, 1, 0])) == 0.75


def test_losses_worked_by_hand() -> None:
    Z, T = np.array([[0.0, math.log(3)], [0.0, 0.0]]), np.array([[0.1, 0.9], [1, 0]])
    value, dZ = nn.cross_entropy(Z, T)  # softmax is (1/4, 3/4), (1/2, 1/2)
    assert value == pytest.approx((-0.1 * math.log(0.25) - 0.9 * math.log(0.75) + math.log(2)) / 2, rel=1e-14)
    np.testing.assert_allclose(dZ, [[0.075, -0.075], [-0.25, 0.25]], rtol=1e-13)
    value, dZ = nn.mean_squared_error(Z, T)  # sigmoid is (1/2, 3/4), (1/2, 1/2)
    assert value == pytest.approx((0.16 + 0.0225 + 0.25 + 0.25) / 4, rel=1e-14)
    np.testing.assert_allclose(dZ, [[0.05, -0.0140625], [-0.0625, 0.0625]], rtol=1e-13)


@each("dtype", DTYPES)
@each(("Z", "Y", "probabilities", "loss"), [
    ([[1000, 0, 0, 0]], [0], [[1, 0, 0, 0]], 0),
    ([[1000, 0, 0, 0]], [1], [[1, 0, 0, 0]], 1000),
    ([[-1e4, -1e4]], [1], [[0.5, 0.5]], math.log(2)),
    ([[1e30, 0], [1, 1], [-1e4, -1e4]], [0, 0, 1], [[1, 0], [0.5, 0.5], [0.5, 0.5]], math.log(2) / 1.5),
    ([[-700, 700], [0, math.log(3)]], [0, 1], [[0, 1], [0.25, 0.75]], (1400 - math.log(0.75)) / 2),
])  # fmt: skip
def test_softmax_and_cross_entropy_at_extremes(Z: Any, Y: Any, probabilities: Any, loss: float, dtype: type) -> None:
    T = nn.one_hot(np.array(Y), len(Z[0]), dtype=dtype)
    with np.errstate(all="raise", under="ignore"):  # exp(-1000) is 0
        np.testing.assert_allclose(nn.softmax(np.array(Z, dtype)), probabilities, rtol=1e-6)
        value, dZ = nn.cross_entropy(np.array(Z, dtype), T)
    np.testing.assert_allclose(value, loss, rtol=1e-6)
    np.testing.assert_allclose(dZ, (probabilities - T) / len(Z), rtol=1e-6)


@each("dtype", DTYPES)
def test_sigmoid_at_extremes(dtype: type) -> None:
    with np.errstate(all="raise"):
        np.testing.assert_array_equal(nn.sigmoid(np.array([[-1000, 0, 1000]], dtype)), [[0, 0.5, 1]])


# Gradients


def moved_loss(net: Network, k: str, i: tuple[int, ...], h: Any) -> Any:
    """The loss with h, a float or a complex number, added to one entry of one parameter."""
    params: Any = {name: A.astype(type(h)) for name, A in net.params.items()}
    params[k][i] += h
    return loss_of(net._replace(params=params))


def by_difference(net: Network, k: str, i: tuple[int, ...]) -> float:
    h = 5e-4  # in the central difference of fourth order, whose error is h^4 / 30 times the fifth derivative
    one, two = (float(moved_loss(net, k, i, d) - moved_loss(net, k, i, -d)) for d in (h, 2 * h))
    return (8 * one - two) / (12 * h)


def by_complex_step(net: Network, k: str, i: tuple[int, ...]) -> float:
    h = 1e-30  # Squire & Trapp 1998: nothing is subtracted, so h can be as small as that
    return float(moved_loss(net, k, i, 1j * h).imag / h)


WAYS = {by_difference: 1e-7, by_complex_step: 1e-12}  # the largest relative errors allowed


def relative_error(net: Network, way: Callable[[Network, str, tuple[int, ...]], float]) -> float:
    """The worst |ours - theirs| of all entries, in parts of the largest in the gradient of the same W or b.

    Where all of those are below 0.01, in parts of 0.01: what is left of p - 1 or of a difference of losses is rounding.
    """
    ours, worst = gradients(net), 0.0
    assert {k: A.shape for k, A in ours.items()} == {k: A.shape for k, A in net.params.items()}
    for k, A in ours.items():
        theirs = np.array([way(net, k, i) for i in np.ndindex(A.shape)]).reshape(A.shape)
        worst = max(worst, float(np.abs(A - theirs).max() / max(0.01, np.abs(theirs).max())))
    return worst


def far_from_kinks(net: Network) -> bool:
    """Whether no hidden Z is so near to a jump of f' that a finite difference would straddle it."""
    f, derivative = net.activation
    cache, h = nn.forward_propagation(net.params, net.X, net.activation), 0.01
    hidden = [cache[f"Z{l}"] for l in range(1, len(net.params) // 2)]
    slopes = [[derivative(Z + d, f(Z + d)) * 1.0 for d in (-h, h)] for Z in hidden]
    return all(np.abs(before - after).max() < 0.1 for before, after in slopes)


def test_gradient_of_the_neuron_worked_by_hand() -> None:
    """z1 = x w, z2 = z1 + b, z3 = y - z2, L = z3^2: with x = 2, y = 1 and z3 = 1.27, dL/db = -2.54, dL/dw = -5.08."""
    squared: nn.Loss = lambda Z, T: (((T - Z) ** 2).sum(), -2 * (T - Z))
    params: nn.Params = {"W1": np.array([[-0.5]]), "b1": np.array([0.73])}
    loss, grads = nn.loss_and_gradients(params, np.array([[2.0]]), np.array([[1.0]]), loss=squared)
    assert [loss, grads["b1"][0], grads["W1"][0, 0]] == pytest.approx([1.27**2, -2.54, -5.08], rel=1e-15)


@each("pair", PAIRS)
@each("way", WAYS)
def test_gradient_of_a_network_of_unequal_sizes(pair: tuple[str, str], way: Any) -> None:
    net = network(pair, [5, 7, 4, 3], 6, 2)
    assert far_from_kinks(net) and relative_error(net, way) <= WAYS[way]


@each("dtype", DTYPES)
@each("pair", PAIRS)
def test_arguments_stay_and_results_have_their_dtype(pair: tuple[str, str], dtype: type) -> None:
    net = network(pair, [5, 4, 3], 6, 0, dtype)
    given_to = [net.params, net.X, net.T]
    before = copy.deepcopy(given_to)
    cache = frozen(nn.forward_propagation(net.params, net.X, net.activation))
    value, dZ = net.loss(cache["Z2"], net.T)
    grads = frozen(nn.backward_propagation(net.params, cache, frozen(dZ), net.activation))
    found: list[object] = [nn.softmax(net.X), net.activation[0](net.X), value, dZ, grads]
    found += [{k: A for k, A in cache.items() if k != "A0"}, nn.one_hot(np.array([1]), 3, 0.1, dtype)]
    found += [nn.init_params([5, 3], nn.INITS["he"], np.random.default_rng(0), dtype)]
    wide = [(net.X.astype(np.float64), net.T.astype(np.float64))] * 2  # the dtype follows the parameters alone
    for optimizer in nn.OPTIMIZERS.values():
        fresh = frozen(nn.init_state(net.params, optimizer))
        first, second = nn.gradient_descent(fresh, wide, optimizer, lambda step: np.float64(0.1), of_batch(net), 0.1)
        found += [first["params"], second["params"], first["moments"], second["moments"]]
    assert {A.dtype for A in arrays(found)} == {np.dtype(dtype)}
    assert not any(np.shares_memory(A, B) for A in arrays(found) for B in arrays(given_to))
    assert bits(given_to) == bits(before) and cache.keys() == {"A0", "Z1", "A1", "Z2"}


@each(("name", "variance"), [
    ("he", 2 / 400), ("xavier", 2 / 700), ("lecun", 1 / 400), ("small", 1e-4), ("uniform", 1 / 3)])  # fmt: skip
def test_init_has_the_variance_of_its_paper(name: str, variance: float) -> None:
    params = nn.init_params([400, 300, 2], nn.INITS[name], np.random.default_rng(0), np.float64)
    W = params["W1"]
    assert {k: A.shape for k, A in params.items()} == {"W1": (400, 300), "b1": (300,), "W2": (300, 2), "b2": (2,)}
    assert abs(W.mean()) < 5 * math.sqrt(variance / W.size)
    assert W.var() == pytest.approx(variance, rel=5 * math.sqrt(2 / W.size))
    farthest = np.abs(W).max() / math.sqrt(3 * variance)  # the edge of a uniform distribution; a Gaussian goes beyond
    assert farthest <= 1 if name == "uniform" else farthest > 2
    assert not params["b1"].any() and not params["b2"].any()
    narrow, other = (nn.init_params([400, 300, 2], nn.INITS[name], np.random.default_rng(seed)) for seed in (0, 1))
    assert bits({k: A.astype(np.float32) for k, A in params.items()}) == bits(narrow) != bits(other)


CURVATURE, ORIGIN = np.array([1.0, 0.25, 8.0]), np.array([3.0, -2.0, 0.5])  # of a quadratic, 1/2 c x^2


def descend(name: str) -> list[nn.Array]:
    """The points that an optimiser visits on the quadratic in 20 steps from ORIGIN, at a rate of 1/8."""
    (names, update), params = nn.OPTIMIZERS[name], {"x": ORIGIN}
    moments: nn.Moments = {moment: {"x": np.zeros(3)} for moment in names}
    visited = []
    for step in range(1, 21):
        updates, moments = update({"x": CURVATURE * params["x"]}, moments, step)
        params = nn.update_params(params, updates, 1 / 8)
        visited.append(params["x"])
    return visited


def test_sgd_on_a_quadratic_is_a_geometric_series() -> None:
    for t, x in enumerate(descend("sgd"), start=1):
        np.testing.assert_allclose(x, ORIGIN * (1 - CURVATURE / 8) ** t, rtol=1e-13)


def test_momentum_on_a_quadratic_is_a_recurrence_of_second_order() -> None:
    """x[t+1] = (1 + 0.9 - rate c) x[t] - 0.9 x[t-1], in fractions."""
    for i, (c, before) in enumerate(zip(map(Fraction, CURVATURE), map(Fraction, ORIGIN), strict=True)):
        x = before * (1 - c / 8)
        for ours in descend("momentum"):
            assert ours[i] == pytest.approx(float(x), rel=1e-12)
            before, x = x, (Fraction(19, 10) - c / 8) * x - Fraction(9, 10) * before


def test_adam_on_a_quadratic_is_the_paper_s_algorithm_in_decimals() -> None:
    with localcontext() as context:
        context.prec = 50
        beta1, beta2, eps = Decimal("0.9"), Decimal("0.999"), Decimal("1e-8")
        for i, (c, x) in enumerate(zip(map(Decimal, CURVATURE), map(Decimal, ORIGIN), strict=True)):
            m = v = Decimal(0)
            for t, ours in enumerate(descend("adam"), start=1):
                m = beta1 * m + (1 - beta1) * (c * x)
                v = beta2 * v + (1 - beta2) * (c * x) ** 2
                x -= (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + eps) / 8
                assert ours[i] == pytest.approx(float(x), rel=1e-10)


@each("dtype", DTYPES)
def test_weight_decay_is_of_weights_and_biases_and_apart_from_the_updates(dtype: type) -> None:
    params: nn.Params = {"W1": np.full((1, 2), 8, dtype), "b1": np.array([-4, 2], dtype)}
    updates: nn.Params = {"W1": np.array([[1, -2]], dtype), "b1": np.array([0, 1], dtype)}
    updated = nn.update_params(params, updates, np.float64(0.5), np.float64(0.25))
    assert updated["W1"].dtype == dtype and updated["W1"].tolist() == [[8 - 0.5 * 3, 8 - 0.5 * 0]]
    assert updated["b1"].tolist() == [-4 - 0.5 * -1, 2 - 0.5 * 1.5]
    assert bits(nn.update_params(params, updates, 0.0, 0.25)) == bits(params)


@each("optimizer", nn.OPTIMIZERS)
def test_the_fold_is_the_textbook_s_loop_and_goes_on_from_any_state(optimizer: str) -> None:
    net, (names, update) = network(("tanh", "cross_entropy"), [4, 5, 3], 12, 0), nn.OPTIMIZERS[optimizer]
    batches = frozen([(net.X[i : i + 5], net.T[i : i + 5]) for i in (0, 5, 10, 3)])
    rest = nn.OPTIMIZERS[optimizer], lambda step: 0.1 / step, of_batch(net), 0.3
    fresh = frozen(nn.init_state(net.params, nn.OPTIMIZERS[optimizer]))
    assert math.isnan(fresh["loss"]) and fresh["step"] == 0 and list(fresh["moments"]) == list(names)
    states, params, moments = (
        frozen(list(nn.gradient_descent(fresh, iter(batches), *rest))),
        net.params,
        fresh["moments"],
    )
    for step, (state, (X, T)) in enumerate(zip(states, batches, strict=True), start=1):
        loss, grads = of_batch(net)(params, X, T)
        updates, moments = update(grads, moments, step)
        params = nn.update_params(params, updates, 0.1 / step, 0.3)
        assert bits(state) == bits(nn.State(params=params, moments=moments, step=step, loss=loss))
    assert bits(list(nn.gradient_descent(states[1], batches[2:], *rest))) == bits(states[2:])


def test_ten_pinned_losses() -> None:
    """Computed apart, one number at a time in 60 digits; every weight and feature is a sine."""
    pinned = [0.605797422773, 0.455048258086, 0.359386398488, 0.274430395387, 0.195395387897,
              0.130241736068, 0.082916454818, 0.051523617138, 0.031774029783, 0.019665165599]  # fmt: skip
    W1, W2, X = (np.sin(1 + n * np.arange(m)[:, None] + np.arange(n)) for m, n in ((4, 3), (3, 2), (5, 4)))
    params: nn.Params = {"W1": W1, "b1": np.zeros(3), "W2": W2, "b2": np.zeros(2)}
    grads = partial(nn.loss_and_gradients, activation=nn.ACTIVATIONS["tanh"])
    adam, batch = nn.OPTIMIZERS["adam"], (X, nn.one_hot(np.array([0, 1, 1, 0, 1]), 2))
    states = nn.gradient_descent(nn.init_state(params, adam), [batch] * 10, adam, lambda step: 0.1, grads)
    assert [state["loss"] for state in states] == pytest.approx(pinned, abs=1e-11)


@each("pair", PAIRS)
def test_a_tiny_set_is_learnt_by_heart(pair: tuple[str, str]) -> None:
    rng, adam = np.random.default_rng(0), nn.OPTIMIZERS["adam"]
    X, Y = rng.normal(0, 1, (20, 16)).astype(np.float32), rng.integers(0, 4, 20)
    state = nn.init_state(nn.init_params([16, 32, 4], nn.INITS["he"], rng), adam)
    net = Network(state["params"], X, nn.one_hot(Y, 4), ACTIVATIONS[pair[0]], nn.LOSSES[pair[1]])
    *_, state = nn.gradient_descent(state, [(net.X, net.T)] * 300, adam, lambda step: 0.01, of_batch(net))
    assert nn.get_accuracy(nn.make_predictions(state["params"], X, net.activation), Y) == 1


NET = network(("relu", "cross_entropy"), [4, 5, 3], 6, 0)
Y: Any = np.array([0, 1, 2])
RNG, RELU, ADAM, HE = np.random.default_rng(0), nn.ACTIVATIONS["relu"], nn.OPTIMIZERS["adam"], nn.INITS["he"]
init: Any = nn.init_params


def forward(X: Any = NET.X, **change: Any) -> nn.Params:
    """Forward propagation with some parameters changed; those that are None are left out."""
    return nn.forward_propagation({k: A for k, A in (NET.params | change).items() if A is not None}, X, RELU)


def step(made_for: str = "sgd", used_by: str = "sgd", rate: float = 0.1, decay: float = 0.0) -> nn.State:
    state, optimizer = nn.init_state(NET.params, nn.OPTIMIZERS[made_for]), nn.OPTIMIZERS[used_by]
    return next(nn.gradient_descent(state, [(NET.X, NET.T)], optimizer, lambda step: rate, weight_decay=decay))


BAD = math.nan, math.inf, -1.0
HALF, MIXED = ({"W1": np.ones((2, 1), W), "b1": np.ones(1, b)} for W, b in (("f2", "f2"), ("f8", "f4")))
REFUSED: dict[str, list[Callable[[], object]]] = {
    "labels must be integers (N,) in 0..2": [partial(nn.one_hot, y, 3) for y in (Y - 1, Y + 1, Y[:, None], Y / 1)],
    "smoothing in 0..1, got array([0, 1, 2])": [partial(nn.one_hot, Y, 3, s) for s in (1.1, -0.1, math.nan)],
    "targets (1, 3) must both be (N, K)": [partial(f, NET.T, NET.T[:1]) for f in nn.LOSSES.values()],
    "targets (0, 3) must both be (N, K), N > 0": [partial(f, NET.T[:0], NET.T[:0]) for f in nn.LOSSES.values()],
    "targets (3,) must both be (N, K)": [partial(f, Z, Y) for f in nn.LOSSES.values() for Z in (Y, NET.T)],
    "layers must be two or more": [partial(init, n, HE, RNG) for n in ([], [4], [4, 0, 3], [4, 2.5])],
    "dtype must be float32 or float64": [partial(init, [4, 3], HE, RNG, dtype) for dtype in ("i4", "f2")],
    "do not fit: for 1 layers": [partial(nn.forward_propagation, {}, NET.X, RELU), partial(nn.init_state, {}, ADAM)],
    "do not fit: for 2 layers": [partial(forward, b1=np.zeros(1)), partial(forward, W2=np.zeros((4, 3)))],
    "W1 (4,) and b1 (5,) do not fit: for 2 layers": [partial(forward, W1=np.zeros(4))],
    "W3 () and b3 () do not fit: for 3 layers": [partial(forward, more=np.zeros(3))],
    "b2 () do not fit: for 2 layers": [partial(forward, b2=b) for b in (None, [0, 0, 0])],
    "W2 () and b2 (3,) do not fit: for 2 layers": [partial(forward, W2=None)],
    "W1 (4, 5) and b1 (5, 1) do not fit: for 2 layers": [partial(forward, b1=np.zeros((5, 1)))],
    "does not fit W1 (4, 5): it must be (N, 4)": [partial(forward, X) for X in (NET.X[:, :3], NET.X[0])],
    "numbers (N, K), got (1, 2) with 1 NaN": [partial(nn.get_predictions, np.array([[0.5, math.nan]]))],
    "numbers (N, K), got (3,) with 0 NaN": [partial(nn.get_predictions, Y)],
    "must both be (N,), N > 0": [partial(nn.get_accuracy, y, Y[:n]) for y, n in ((Y, 1), (Y[:, None], 3), (Y[:0], 0))],
    "those of b1 differ": [partial(nn.update_params, NET.params, NET.params | {"b1": np.ones(1)}, 0.1)],
    "those of W1, b1, W2, b2 differ": [partial(nn.update_params, NET.params, {}, 0.1)],
    "learning_rate and weight_decay must be finite, >= 0, got ": [partial(step, rate=rate) for rate in BAD],
    "learning_rate and weight_decay must be finite, >= 0, got 0.1": [partial(step, decay=decay) for decay in BAD],
    "the state holds moments [], the optimiser needs ['m', 'v']": [partial(step, "sgd", "adam")],
    "the state holds moments ['m', 'v'], the optimiser needs ['v']": [partial(step, "adam", "momentum")],
    "all float32 or all float64": [partial(nn.init_state, p, ADAM) for p in (HALF, MIXED)],
}


@each(("message", "call"), [(message, call) for message, calls in REFUSED.items() for call in calls])
def test_what_does_not_fit_is_a_value_error_that_names_it(message: str, call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_lists_are_taken_for_arrays() -> None:
    lists: Any = [[1.0, 3.0]], [[0.0, 1.0]], [1, 2], [1, 3]
    Z, T, *_ = map(np.array, lists)
    for f in (nn.relu, nn.sigmoid, nn.tanh, nn.softmax):
        assert bits(f(lists[0])) == bits(f(Z))
    assert all(bits(loss(*lists[:2])[1]) == bits(loss(Z, T)[1]) for loss in nn.LOSSES.values())
    assert nn.get_predictions(lists[0]).tolist() == [1] and nn.get_accuracy(lists[2], lists[3]) == 0.5


@st.composite
def networks(draw: st.DrawFn, losses: Sequence[str] = tuple(nn.LOSSES), layers: int = 2, most: int = 6) -> Network:
    """Any activation, depth 1 to 5, widths 1 to 9, a batch of 1 to 7."""
    pair = draw(st.sampled_from([pair for pair in PAIRS if pair[1] in losses]))
    sizes = draw(st.lists(st.integers(1, 9), min_size=layers, max_size=most))
    return network(pair, sizes, draw(st.integers(1, 7)), draw(st.integers(0, 2**32)))


@given(st.lists(st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3), min_size=1, max_size=5), st.floats(-1e3, 1e3))
def test_softmax_s_rows_sum_to_1_and_ignore_an_added_constant(Z: list[list[float]], constant: float) -> None:
    A = nn.softmax(np.array(Z))
    np.testing.assert_allclose(A.sum(axis=1), 1, rtol=1e-15)
    np.testing.assert_allclose(nn.softmax(np.array(Z) + constant), A, rtol=1e-11, atol=1e-300)


@given(networks())
def test_a_batch_is_the_mean_of_its_rows(net: Network) -> None:
    alone = [net._replace(X=net.X[n : n + 1], T=net.T[n : n + 1]) for n in range(len(net.X))]
    assert loss_of(net) == pytest.approx(np.mean([loss_of(row) for row in alone]), rel=1e-12)
    row_grads = [gradients(row) for row in alone]
    assert_close(gradients(net), {k: np.mean([grads[k] for grads in row_grads], axis=0) for k in net.params})


@given(networks(), st.randoms(use_true_random=False))
def test_the_order_of_a_batch_changes_nothing_but_rounding(net: Network, dice: random.Random) -> None:
    order = dice.sample(range(len(net.X)), len(net.X))
    permuted = net._replace(X=net.X[order], T=net.T[order])
    assert loss_of(permuted) == pytest.approx(loss_of(net), rel=1e-12)
    assert_close(gradients(permuted), gradients(net))


@given(networks(layers=3), st.randoms(use_true_random=False))
def test_the_order_of_hidden_units_is_the_parameters_alone(net: Network, dice: random.Random) -> None:
    order = dice.sample(range(net.params["b1"].size), net.params["b1"].size)

    def permuted(params: nn.Params) -> nn.Params:
        return params | {"W1": params["W1"][:, order], "b1": params["b1"][order], "W2": params["W2"][order]}

    other = net._replace(params=permuted(net.params))
    assert_close({"Z": logits(other)}, {"Z": logits(net)})
    assert_close(gradients(other), permuted(gradients(net)))


@given(networks(losses=["cross_entropy"], most=2))
def test_one_layer_is_multinomial_logistic_regression(net: Network) -> None:
    E = np.exp(net.X @ net.params["W1"] + net.params["b1"])
    D = (E / E.sum(axis=1, keepdims=True) - net.T) / len(net.X)
    assert_close(gradients(net), {"W1": net.X.T @ D, "b1": D.sum(axis=0)})


def test_gradient_of_random_networks(capsys: pytest.CaptureFixture[str]) -> None:
    """Both ways; the worst errors are printed."""
    worst, tried = dict.fromkeys(WAYS, 0.0), Counter[nn.Activation]()

    @settings(max_examples=300)
    @given(networks())
    def check(net: Network) -> None:
        assume(far_from_kinks(net))
        tried[net.activation] += 1
        for way, allowed in WAYS.items():
            worst[way] = max(worst[way], relative_error(net, way))
            assert worst[way] <= allowed

    check()
    assert len(tried) == len(ACTIVATIONS) and min(tried.values()) >= 8
    figures = " and ".join(f"{error:.1e} {way.__name__}" for way, error in worst.items())
    with capsys.disabled():
        print(f"\nworst relative error of gradients over {tried.total()} random networks: {figures}")


def test_the_example_of_the_readme_learns(capsys: pytest.CaptureFixture[str]) -> None:
    """It prints what it has learnt: a disc."""
    page = Path(nn.__file__).with_name("README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(import numpy.*?)```", page, re.DOTALL)
    assert example.count("\n") <= 20
    exec(compile(example, "README.md", "exec"), {})
    rows = capsys.readouterr().out.splitlines()
    inside = [
        "".join("#" if (x / 20 - 1) ** 2 + (y / 10 - 1) ** 2 < 0.5 else "." for x in range(41)) for y in range(21)
    ]
    wrong = sum(a != b for row, expected in zip(rows, inside, strict=True) for a, b in zip(row, expected, strict=True))
    assert wrong < 0.04 * 41 * 21
