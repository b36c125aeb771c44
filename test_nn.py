"""Tests of nn.py and train.py, each against an independent way to the answer; no network, no downloaded pictures."""

import copy
import copyreg
import errno
import io
import itertools
import math
import os
import pickle
import pickletools
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal, localcontext
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import data.load
import nn
import train

settings.register_profile("repeatable", derandomize=True, deadline=None)  # the same networks in every run
settings.load_profile("repeatable")
pytestmark = pytest.mark.filterwarnings("error")  # an overflow is a failure

each = pytest.mark.parametrize
PAIRS = list(itertools.product(nn.ACTIVATIONS, nn.LOSSES))
every_pair = each(("activation", "loss"), PAIRS)
DTYPES = (np.float32, np.float64)


class Network(NamedTuple):
    """Parameters with data and functions that fit them."""

    params: nn.Params
    X: nn.Array
    Y: nn.Labels
    activation: nn.Activation
    loss: nn.Loss


def network(activation: str, loss: str, layers: Sequence[int], N: int, seed: int, dtype: type = np.float64) -> Network:
    """A network with random weights and biases and a batch of N, all of it read-only."""
    rng = np.random.default_rng(seed)
    shapes = nn.shapes_of(layers).items()
    params: nn.Params = {k: rng.normal(0, 1.4 / math.sqrt(shape[0]), shape).astype(dtype) for k, shape in shapes}
    X: nn.Array = rng.normal(0, 1, (N, layers[0])).astype(dtype)
    Y = rng.integers(0, layers[-1], N)
    for A in (X, Y, *params.values()):
        A.flags.writeable = False
    return Network(params, X, Y, nn.ACTIVATIONS[activation], nn.LOSSES[loss](nn.ACTIVATIONS[activation]))


def loss_of(net: Network) -> Any:
    cache = nn.forward_propagation(net.params, net.X, net.activation, net.loss)
    return net.loss.value(cache[f"Z{len(net.params) // 2}"], net.Y)


def gradients(net: Network) -> nn.Params:
    cache = nn.forward_propagation(net.params, net.X, net.activation, net.loss)
    return nn.backward_propagation(net.params, cache, net.Y, net.activation, net.loss)


def rows(net: Network, chosen: Any) -> Network:
    return net._replace(X=net.X[chosen], Y=net.Y[chosen])


def assert_close(ours: nn.Params, theirs: nn.Params) -> None:
    assert ours.keys() == theirs.keys()
    for k in ours:
        np.testing.assert_allclose(ours[k], theirs[k], rtol=1e-11, atol=1e-13, err_msg=k)


def bits(tree: Any) -> Any:
    """A tree of dicts, lists and tuples with dtype, shape and bytes in the place of each array."""
    if isinstance(tree, dict):
        return {k: bits(branch) for k, branch in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [bits(branch) for branch in tree]
    return (tree.dtype.str, tree.shape, tree.tobytes()) if isinstance(tree, np.ndarray) else tree


def assert_same(ours: object, theirs: object) -> None:
    """Equal bit for bit."""
    assert bits(ours) == bits(theirs)


def arrays(tree: Any) -> list[Any]:
    """All arrays in a tree of dicts, lists and tuples."""
    if isinstance(tree, (dict, list, tuple)):
        return [A for branch in (tree.values() if isinstance(tree, dict) else tree) for A in arrays(branch)]
    return [tree] if isinstance(tree, (np.ndarray, np.generic)) else []


# Functions, at ordinary and at extreme inputs

def test_activations_at_known_points() -> None:
    Z = np.array([[-2.0, 0.0, 0.5]])
    np.testing.assert_array_equal(nn.relu(Z), [[0, 0, 0.5]])
    np.testing.assert_allclose(nn.sigmoid(Z), [[1 / (1 + math.exp(-z)) for z in Z[0]]], rtol=1e-15)
    np.testing.assert_allclose(nn.tanh(Z), [[math.tanh(z) for z in Z[0]]], rtol=1e-15)


@each("name", nn.ACTIVATIONS)
def test_derivative_takes_the_output(name: str) -> None:
    f, Z, h = nn.ACTIVATIONS[name], np.array([[-3.0, -0.7, 0.4, 2.0]]), 1e-6
    np.testing.assert_allclose(f.derivative(f.function(Z)), (f.function(Z + h) - f.function(Z - h)) / (2 * h), atol=1e-9)
    assert nn.ACTIVATIONS["relu"].derivative(np.zeros((1, 1)))[0, 0] == 0, "a unit that is off passes nothing back"


@each("dtype", DTYPES)
@each(("Z", "expected"), [
    ([[1000, 0, 0, 0]], [[1, 0, 0, 0]]),
    ([[-1e4, -1e4]], [[0.5, 0.5]]),
    ([[1e30, -1e30], [1, 1], [-1e4, -1e4]], [[1, 0], [0.5, 0.5], [0.5, 0.5]]),
    ([[math.log(1), math.log(3)]], [[0.25, 0.75]]),
])
def test_softmax_at_extremes(Z: list[list[float]], expected: list[list[float]], dtype: type) -> None:
    with np.errstate(all="raise", under="ignore"):  # exp(-1000) is 0
        np.testing.assert_allclose(nn.softmax(np.array(Z, dtype)), expected, rtol=1e-6)


@each("dtype", DTYPES)
@each(("Z", "Y", "expected"), [
    ([[1000, 0, 0, 0]], [0], 0),
    ([[1000, 0, 0, 0]], [1], 1000),
    ([[-1e4, -1e4]], [1], math.log(2)),
    ([[1e30, 0], [1, 1]], [0, 0], math.log(2) / 2),
    ([[-700, 700], [0, math.log(3)]], [0, 1], (1400 - math.log(0.75)) / 2),
])
def test_cross_entropy_at_extremes(Z: list[list[float]], Y: list[int], expected: float, dtype: type) -> None:
    with np.errstate(all="raise", under="ignore"):
        np.testing.assert_allclose(nn.cross_entropy(np.array(Z, dtype), np.array(Y)), expected, rtol=1e-6)


@each("dtype", DTYPES)
def test_sigmoid_at_extremes(dtype: type) -> None:
    with np.errstate(all="raise"):
        np.testing.assert_array_equal(nn.sigmoid(np.array([[-1000, 0, 1000]], dtype)), [[0, 0.5, 1]])


def test_labels_and_predictions() -> None:
    Y = np.array([2, 0])
    np.testing.assert_array_equal(nn.one_hot(Y, 4), [[0, 0, 1, 0], [1, 0, 0, 0]])
    np.testing.assert_array_equal(nn.get_predictions(np.array([[0.1, 0.2, 0.7], [0.6, 0.1, 0.3]])), Y)
    assert nn.get_accuracy(np.array([2, 0, 1, 1]), np.array([2, 0, 1, 0])) == 0.75
    # 1/2 |A - Y|^2 a picture: (0.25 + 1 + 0.25) / 2 and (1 + 4 + 0) / 2, their mean
    assert nn.mean_squared_error(np.array([[0.5, 1.0, 0.5], [2.0, 2.0, 0.0]]), Y) == (0.75 + 2.5) / 2


def test_make_predictions_takes_the_likeliest_class() -> None:
    net = network("relu", "cross_entropy", [4, 5, 3], 50, 8)
    H = np.maximum(net.X @ net.params["W1"] + net.params["b1"], 0)
    expected = (H @ net.params["W2"] + net.params["b2"]).argmax(axis=1)
    np.testing.assert_array_equal(nn.make_predictions(net.params, net.X, net.activation, net.loss), expected)
    assert len(set(expected.tolist())) == 3


# Gradients

def moved_loss(net: Network, k: str, i: tuple[int, ...], h: Any) -> Any:
    """The loss with h, a float or a complex number, added to one entry of one parameter."""
    params: Any = net.params | {k: net.params[k].astype(type(h))}
    params[k][i] += h
    X: Any = net.X.astype(type(h))
    return loss_of(net._replace(params=params, X=X))


def by_difference(net: Network, k: str, i: tuple[int, ...]) -> float:
    h = 5e-4  # in the central difference of fourth order, whose error is h^4 / 30 times the fifth derivative
    one, two = (float(moved_loss(net, k, i, d) - moved_loss(net, k, i, -d)) for d in (h, 2 * h))
    return (8 * one - two) / (12 * h)


def by_complex_step(net: Network, k: str, i: tuple[int, ...]) -> float:
    h = 1e-30  # Squire & Trapp 1998: nothing is subtracted, so h can be as small as that
    return float(moved_loss(net, k, i, 1j * h).imag / h)


WAYS = {by_difference: 1e-7, by_complex_step: 1e-12}  # the largest relative errors allowed


def relative_error(net: Network, way: Callable[[Network, str, tuple[int, ...]], float]) -> float:
    """The worst |ours - theirs| of all entries, in parts of the largest entry of the gradient of the same W or b."""
    ours, worst = gradients(net), 0.0
    assert {k: A.shape for k, A in ours.items()} == {k: A.shape for k, A in net.params.items()}
    for k, A in ours.items():
        theirs = np.array([way(net, k, i) for i in np.ndindex(A.shape)]).reshape(A.shape)
        worst = max(worst, float(np.abs(A - theirs).max() / (np.abs(theirs).max() or 1)))
    return worst


def far_from_kinks(net: Network) -> bool:
    """No hidden unit so near 0 that a finite difference would straddle the kink of the relu."""
    cache = nn.forward_propagation(net.params, net.X, net.activation, net.loss)
    hidden = range(1, len(net.params) // 2)
    Z = [cache[f"A{l - 1}"] @ net.params[f"W{l}"] + net.params[f"b{l}"] for l in (*hidden, len(hidden) + 1)]
    return net.activation.function is not nn.relu or min(float(np.abs(z).min()) for z in Z) > 1e-2


def test_the_neuron_worked_by_hand() -> None:
    """z1 = x w, z2 = z1 + b, z3 = y - z2, L = z3^2: with x = 2, y = 1 and z3 = 1.27, dL/db = -2.54, dL/dw = -5.08."""
    identity = nn.Activation(lambda Z: Z, np.ones_like, "small")  # one more entry; the loss is half of L
    params: nn.Params = {"W1": np.array([[-0.5]]), "b1": np.array([0.73])}
    net = Network(params, np.array([[2.0]]), np.array([0]), identity, nn.LOSSES["mean_squared_error"](identity))
    assert 2 * loss_of(net) == pytest.approx(1.27**2, rel=1e-15)
    assert 2 * gradients(net)["b1"][0] == pytest.approx(-2.54, rel=1e-15)
    assert 2 * gradients(net)["W1"][0, 0] == pytest.approx(-5.08, rel=1e-15)


@every_pair
@each("way", WAYS)
def test_gradient_of_a_network_of_unequal_sizes(activation: str, loss: str, way: Any) -> None:
    net = network(activation, loss, [5, 7, 4, 3], 6, 2)
    assert far_from_kinks(net)
    assert relative_error(net, way) <= WAYS[way]


def test_one_layer_is_multinomial_logistic_regression() -> None:
    net = network("relu", "cross_entropy", [5, 3], 7, 1)
    E = np.exp(net.X @ net.params["W1"] + net.params["b1"])
    D = E / E.sum(axis=1, keepdims=True) - np.eye(3)[net.Y]
    assert_close(gradients(net), {"W1": net.X.T @ D / 7, "b1": D.mean(axis=0)})




# Nothing but the result

def public_calls(folder: Path, dtype: type) -> dict[str, tuple[Callable[..., object], list[Any]]]:
    """Every function of nn.py with arguments of a dtype, read-only where they are arrays."""
    net = network("sigmoid", "mean_squared_error", [5, 4, 3], 6, 0, dtype)
    functions, adam = (net.activation, net.loss), nn.OPTIMIZERS["adam"]
    cache = nn.forward_propagation(net.params, net.X, *functions)
    grads = nn.backward_propagation(net.params, cache, net.Y, *functions)
    state = nn.init_state(net.params, adam, np.random.default_rng(0))
    rest = [*functions, adam, lambda step: 0.1, 4, 2, lambda batch, rng: batch]
    calls: dict[str, tuple[Callable[..., object], list[Any]]] = {
        **{name: (getattr(nn, name), [net.X]) for name in ("relu", "sigmoid", "tanh", "softmax", "get_predictions")},
        **{f"derivative of {name}": (f.derivative, [net.X]) for name, f in nn.ACTIVATIONS.items()},
        **{name: (optimizer.direction, [grads, {"m": grads, "v": {k: A * A for k, A in grads.items()}}, 1])
           for name, optimizer in nn.OPTIMIZERS.items()},
        "one_hot": (lambda Y: nn.one_hot(Y, 3, dtype), [net.Y]),
        "cross_entropy": (nn.cross_entropy, [net.X, net.Y]),
        "mean_squared_error": (nn.mean_squared_error, [net.X, net.Y]),
        "gradient of cross_entropy": (nn.LOSSES["cross_entropy"](net.activation).gradient, [net.X, net.Y]),
        "init_params": (lambda: nn.init_params([5, 4, 3], nn.INITS["he"], np.random.default_rng(0), dtype), []),
        "forward_propagation": (lambda params, X: nn.forward_propagation(params, X, *functions), [net.params, net.X]),
        "backward_propagation": (
            lambda params, cache, Y: nn.backward_propagation(params, cache, Y, *functions), [net.params, cache, net.Y]),
        "make_predictions": (lambda params, X: nn.make_predictions(params, X, *functions), [net.params, net.X]),
        "get_accuracy": (nn.get_accuracy, [net.Y, net.Y]),
        "update_params": (nn.update_params, [net.params, grads, 0.1]),
        "init_state": (lambda params: nn.init_state(params, adam, np.random.default_rng(0))["moments"], [net.params]),
        "check_data": (nn.check_data, [net.params, net.X, net.Y, 6]),
        "gradient_descent": (lambda *args: list(nn.gradient_descent(*args, *rest)), [state, net.X, net.Y]),
        "save_params": (lambda params: nn.save_params(folder / "weights.pkl", params, {}), [net.params]),
    }
    return calls


@each("dtype", DTYPES)
@each("name", public_calls(Path(), np.float64))
def test_arguments_stay_and_the_dtype_follows_them(name: str, dtype: type, tmp_path: Path) -> None:
    function, arguments = public_calls(tmp_path, dtype)[name]
    for A in arrays(arguments):
        A.flags.writeable = False
    before = copy.deepcopy(arguments)
    result = function(*arguments)
    assert_same(arguments, before)
    for A in arrays(result):
        assert A.dtype == dtype or np.issubdtype(A.dtype, np.integer)
    if name not in ("forward_propagation", "sgd"):  # A0 is X; the direction of plain descent is the gradients
        assert not any(np.shares_memory(A, B) for A in arrays(result) for B in arrays(arguments))


# Start, optimisers, update

@each(("name", "variance"), [
    ("he", 2 / 400), ("xavier", 2 / 700), ("lecun", 1 / 400), ("small", 1e-4), ("uniform", 1 / 3),
])
def test_start_has_the_variance_of_its_paper(name: str, variance: float) -> None:
    params = nn.init_params([400, 300, 2], nn.INITS[name], np.random.default_rng(0), np.float64)
    W = params["W1"]
    assert {k: A.shape for k, A in params.items()} == {"W1": (400, 300), "b1": (300,), "W2": (300, 2), "b2": (2,)}
    assert abs(W.mean()) < 5 * math.sqrt(variance / W.size)
    assert W.var() == pytest.approx(variance, rel=5 * math.sqrt(2 / W.size))
    assert (name == "uniform") == (bool(np.abs(W).max() <= 1) and variance > 0.3)
    assert not params["b1"].any() and not params["b2"].any()


def test_start_is_the_generator_s_in_every_dtype() -> None:
    one, two, other = (nn.init_params([5, 4, 3], nn.INITS["he"], np.random.default_rng(seed), dtype)
                       for seed, dtype in ((1, np.float64), (1, np.float32), (2, np.float32)))
    assert_same({k: A.astype(np.float32) for k, A in one.items()}, two)
    assert not np.array_equal(two["W1"], other["W1"])
    assert {name: f.init for name, f in nn.ACTIVATIONS.items()} == {"relu": "he", "sigmoid": "lecun", "tanh": "xavier"}


CURVATURE, ORIGIN = np.array([1.0, 0.25, 8.0]), np.array([3.0, -2.0, 0.5])  # of a quadratic, 1/2 c x^2


def descend(name: str, steps: int, rate: float) -> list[nn.Array]:
    """The points that an optimiser visits on the quadratic, from ORIGIN."""
    optimizer, params = nn.OPTIMIZERS[name], {"x": ORIGIN}
    moments: nn.Moments = {moment: {"x": np.zeros(3)} for moment in optimizer.moments}
    visited = []
    for step in range(1, steps + 1):
        direction, moments = optimizer.direction({"x": CURVATURE * params["x"]}, moments, step)
        params = nn.update_params(params, direction, rate)
        visited.append(params["x"])
    return visited


def test_sgd_on_a_quadratic_is_a_geometric_series() -> None:
    for t, x in enumerate(descend("sgd", 20, 0.125), start=1):
        np.testing.assert_allclose(x, ORIGIN * (1 - 0.125 * CURVATURE) ** t, rtol=1e-13)


def test_momentum_on_a_quadratic_is_a_recurrence_of_second_order() -> None:
    """x[t+1] = (1 + 0.9 - rate c) x[t] - 0.9 x[t-1], in fractions."""
    visited = descend("momentum", 20, 0.125)
    for i, (c, before) in enumerate(zip(map(Fraction, CURVATURE), map(Fraction, ORIGIN))):
        x = before * (1 - c / 8)
        for ours in visited:
            assert ours[i] == pytest.approx(float(x), rel=1e-12)
            before, x = x, (Fraction(19, 10) - c / 8) * x - Fraction(9, 10) * before


def test_adam_on_a_quadratic_is_the_paper_s_algorithm() -> None:
    visited = descend("adam", 20, 0.125)
    with localcontext() as context:
        context.prec = 50
        beta1, beta2, alpha, eps = Decimal("0.9"), Decimal("0.999"), Decimal("0.125"), Decimal("1e-8")
        for i, (c, x) in enumerate(zip(map(Decimal, CURVATURE), map(Decimal, ORIGIN))):
            m = v = Decimal(0)
            for t, ours in enumerate(visited, start=1):
                m = beta1 * m + (1 - beta1) * (c * x)
                v = beta2 * v + (1 - beta2) * (c * x) ** 2
                x -= alpha * (m / (1 - beta1**t)) / ((v / (1 - beta2**t)).sqrt() + eps)
                assert ours[i] == pytest.approx(float(x), rel=1e-10)


def test_adam_s_first_steps_worked_by_hand() -> None:
    """Step 1, g = 2: m_hat = 2, v_hat = 4. Step 2, g = -1: m_hat = 0.08 / 0.19, v_hat = 0.004996 / 0.001999."""
    moments: nn.Moments = {"m": {"x": np.zeros(1)}, "v": {"x": np.zeros(1)}}
    for step, g, m, v, expected in (
        (1, 2.0, 0.2, 0.004, 2 / (2 + 1e-8)),
        (2, -1.0, 0.08, 0.004996, 0.08 / 0.19 / (math.sqrt(0.004996 / 0.001999) + 1e-8)),
    ):
        direction, moments = nn.adam({"x": np.array([g])}, moments, step)
        got = [direction["x"][0], moments["m"]["x"][0], moments["v"]["x"][0]]
        np.testing.assert_allclose(got, [expected, m, v], rtol=1e-12)
    tiny = nn.adam({"x": np.array([1e-8])}, {"m": {"x": np.zeros(1)}, "v": {"x": np.zeros(1)}}, 1)[0]["x"][0]
    assert tiny == pytest.approx(0.5), "eps is added to the root of v_hat"


@each(("change", "message"), [
    ({"W1": np.ones((3, 2))}, r"W1: the parameter is .*\(2, 3\)\), its gradient .*\(3, 2\)\)"),
    ({"b1": np.ones(1)}, r"b1: the parameter is .*\(3,\)\), its gradient .*\(1,\)\)"),
    ({"b1": np.ones(3, np.float32)}, "b1: the parameter is .*float64.*, its gradient .*float32"),
    ({"W2": np.ones((3, 2))}, "W2: the parameter is None, its gradient .*float64"),
    ({"b1": None}, "b1: the parameter is .*float64.*, its gradient None"),
])
def test_update_refuses_what_does_not_fit(change: dict[str, Any], message: str) -> None:
    params: nn.Params = {"W1": np.ones((2, 3)), "b1": np.ones(3)}
    with pytest.raises(ValueError, match=message):
        nn.update_params(params, {k: A for k, A in (params | change).items() if A is not None}, 0.1)


# The fold

X, Y = np.arange(10, dtype=np.uint8).repeat(4).reshape(10, 4), np.arange(10) % 3  # a picture holds its own number


def plain(batch: Any, rng: np.random.Generator) -> nn.Array:
    scaled: nn.Array = np.divide(batch, 10)
    return scaled


def noisy(batch: Any, rng: np.random.Generator) -> nn.Array:
    scaled: nn.Array = plain(batch, rng) + rng.normal(0, 0.1, batch.shape)
    return scaled


def fresh(optimizer: str, seed: int = 0) -> nn.State:
    """A state before the first step, in float64."""
    rng = np.random.default_rng(seed)
    params = nn.init_params([4, 5, 3], nn.INITS["xavier"], rng, np.float64)
    return nn.init_state(params, nn.OPTIMIZERS[optimizer], rng)


def fold(
    state: nn.State, epochs: int, optimizer: str = "adam", prepare: Any = plain, batch_size: int = 4,
    rate: Callable[[int], float] = lambda step: 0.1 / step, watch: Callable[[int, float], None] = lambda step, loss: None,
) -> Iterator[nn.State]:
    tanh = nn.ACTIVATIONS["tanh"]
    loss, direction = nn.LOSSES["cross_entropy"](tanh), nn.OPTIMIZERS[optimizer]
    return nn.gradient_descent(state, X, Y, tanh, loss, direction, rate, batch_size, epochs, prepare, watch)


@each("optimizer", nn.OPTIMIZERS)
def test_two_epochs_and_two_more_are_four(optimizer: str) -> None:
    four = list(fold(fresh(optimizer), 4, optimizer, noisy))
    two = list(fold(fresh(optimizer), 2, optimizer, noisy))
    assert_same(two + list(fold(two[-1], 4, optimizer, noisy)), four)
    assert [(state["epoch"], state["step"]) for state in four] == [(1, 3), (2, 6), (3, 9), (4, 12)]
    assert list(fold(four[-1], 4, optimizer)) == []


def test_states_yielded_earlier_stay() -> None:
    pairs = [(state, copy.deepcopy(state)) for state in fold(fresh("adam"), 4, prepare=noisy)]
    for state, before in pairs:
        assert_same(state, before)
    assert len({state["params"]["W1"].tobytes() for state, _ in pairs}) == 4


def test_the_seed_decides() -> None:
    one, same, other = ([*fold(fresh("sgd", seed), 2, "sgd", noisy)][-1] for seed in (0, 0, 1))
    assert_same(one, same)
    assert one["generator"] != other["generator"] and one["params"]["W1"][0, 0] != other["params"]["W1"][0, 0]


def test_an_epoch_is_the_textbook_s_loop_over_every_picture_once() -> None:
    """The batches are those that prepare saw; parameters, losses, steps and rates follow from them one by one."""
    seen: list[nn.Array] = []
    told: list[tuple[int, float]] = []

    def recording(batch: Any, rng: np.random.Generator) -> nn.Array:
        seen.append(batch[:, 0])
        return plain(batch, rng)

    states = list(fold(fresh("adam"), 3, prepare=recording, watch=lambda step, loss: told.append((step, loss))))
    assert [len(rows) for rows in seen] == [4, 4, 2] * 3
    orders = [np.concatenate(seen[i : i + 3]).tolist() for i in (0, 3, 6)]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert len(set(map(tuple, [*orders, range(10)]))) == 4, "an order of its own each epoch"
    tanh = nn.ACTIVATIONS["tanh"]
    params, moments, losses = fresh("adam")["params"], fresh("adam")["moments"], []
    for step, chosen in enumerate(seen, start=1):
        net = Network(params, plain(X[chosen], np.random.default_rng()), Y[chosen], tanh, nn.LOSSES["cross_entropy"](tanh))
        losses.append(float(loss_of(net)))
        direction, moments = nn.adam(gradients(net), moments, step)
        params = nn.update_params(params, direction, 0.1 / step)
        if step % 3 == 0:
            state = states[step // 3 - 1]
            assert_same([state["params"], state["moments"]], [params, moments])
            mean = (4 * losses[-3] + 4 * losses[-2] + 2 * losses[-1]) / 10
            assert state["loss"] == pytest.approx(mean, rel=1e-14), "each batch weighs as many pictures as it has"
    assert told == list(enumerate(losses, start=1))


def test_a_batch_of_all_is_one_step_down_the_whole_gradient() -> None:
    state, tanh = fresh("sgd"), nn.ACTIVATIONS["tanh"]
    net = Network(state["params"], plain(X, np.random.default_rng()), Y, tanh, nn.LOSSES["cross_entropy"](tanh))
    (after,) = fold(state, 1, "sgd", batch_size=10, rate=lambda step: 0.5)
    assert_close(after["params"], {k: A - 0.5 * gradients(net)[k] for k, A in net.params.items()})
    assert after["loss"] == pytest.approx(loss_of(net)) and after["step"] == 1


def test_ten_pinned_losses() -> None:
    """Computed apart, one number at a time in 60 digits; every weight and pixel is a sine."""
    pinned = [0.605797422773, 0.455048258086, 0.359386398488, 0.274430395387, 0.195395387897,
              0.130241736068, 0.082916454818, 0.051523617138, 0.031774029783, 0.019665165599]
    params: nn.Params = {"W1": sines(4, 3), "b1": np.zeros(3), "W2": sines(3, 2), "b2": np.zeros(2)}
    tanh, adam = nn.ACTIVATIONS["tanh"], nn.OPTIMIZERS["adam"]
    states = nn.gradient_descent(
        nn.init_state(params, adam, np.random.default_rng(0)), sines(5, 4), np.array([0, 1, 1, 0, 1]), tanh,
        nn.LOSSES["cross_entropy"](tanh), adam, lambda step: 0.1, 5, 10, lambda batch, rng: batch,
    )
    assert [state["loss"] for state in states] == pytest.approx(pinned, abs=1e-11)


def sines(m: int, n: int) -> Any:
    return np.sin(1 + n * np.arange(m)[:, None] + np.arange(n))


@each(("activation", "loss"), [pair for pair in PAIRS if pair != ("relu", "mean_squared_error")])  # its outputs die
def test_a_tiny_set_is_learnt_by_heart(activation: str, loss: str) -> None:
    rng, f, adam = np.random.default_rng(0), nn.ACTIVATIONS[activation], nn.OPTIMIZERS["adam"]
    pictures, labels = rng.integers(0, 256, (20, 16), np.uint8), rng.integers(0, 4, 20)
    state = nn.init_state(nn.init_params([16, 32, 4], nn.INITS[f.init], rng), adam, rng)
    functions = f, nn.LOSSES[loss](f)
    for state in nn.gradient_descent(state, pictures, labels, *functions, adam, lambda step: 0.01, 8, 300,
                                     lambda batch, rng: np.float32(1 / 255) * batch):
        pass
    scaled: nn.Array = np.float32(1 / 255) * pictures
    assert nn.get_accuracy(nn.make_predictions(state["params"], scaled, *functions), labels) == 1


@each(("changes", "message"), [
    ({"batch_size": 0}, r"batch_size must lie in 1\.\.10, the number of pictures, got 0"),
    ({"batch_size": 11}, r"batch_size must lie in 1\.\.10, the number of pictures, got 11"),
    ({"X": np.where(X == 3, np.nan, X)}, "X holds NaN or infinity"),
    ({"X": np.where(X == 3, -np.inf, X)}, "X holds NaN or infinity"),
    ({"Y": Y[:9]}, r"Y must be 10 integers, a label for each row of X, got int64 \(9,\)"),
    ({"Y": Y[:, None]}, r"got int64 \(10, 1\)"),
    ({"Y": Y / 1}, r"got float64 \(10,\)"),
    ({"Y": Y - 1}, r"labels must lie in 0\.\.2, the units of the last layer, got -1\.\.1"),
    ({"Y": Y + 1}, r"labels must lie in 0\.\.2, the units of the last layer, got 1\.\.3"),
    ({"X": X[:, :3]}, r"X \(10, 3\) does not fit W1 \(4, 5\): X must be \(N, 4\)"),
])
def test_data_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"X": X, "Y": Y, "batch_size": 10} | changes
    tanh = nn.ACTIVATIONS["tanh"]
    with pytest.raises(ValueError, match=message):
        next(nn.gradient_descent(
            fresh("sgd"), activation=tanh, loss=nn.LOSSES["cross_entropy"](tanh), optimizer=nn.OPTIMIZERS["sgd"],
            learning_rate=lambda step: 0.1, epochs=1, prepare=plain, **arguments,
        ))


@each("layers", [[], [4], [4, 0, 3], [4, -1]])
def test_layers_that_cannot_be_are_refused(layers: list[int]) -> None:
    message = f"layers must be two or more sizes, each at least 1, got {layers}"
    with pytest.raises(ValueError, match=re.escape(message)):
        nn.init_params(layers, nn.INITS["he"], np.random.default_rng(0))


@each("X", [np.ones((2, 3)), np.ones(4)])
def test_pictures_that_do_not_fit_are_refused(X: nn.Array) -> None:
    net = network("relu", "cross_entropy", [4, 3], 1, 0)
    with pytest.raises(ValueError, match=re.escape(f"X {X.shape} does not fit W1 (4, 3): X must be (N, 4)")):
        nn.make_predictions(net.params, X, net.activation, net.loss)


# Weights on disk

ABOUT: dict[str, Any] = {
    "layers": [4, 3, 2], "share": 0.5, "none": None, "yes": True, "name": "ä", "bytes": b"\0", "big": 2**127, "empty": {},
    "nested": {"moments": {"m": {"W1": np.arange(6.0).reshape(2, 3)}}, "list": ["a", "b"]},
}


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of weights, in the current folder."""
    monkeypatch.chdir(tmp_path)
    nn.save_params(tmp_path / "weights.pkl", network("relu", "cross_entropy", [4, 3, 2], 1, 0).params, ABOUT)
    return tmp_path / "weights.pkl"


def refused(path: Path, content: bytes, *reasons: str) -> None:
    """load_params refuses the content, names the file and the reasons."""
    path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        nn.load_params(path)
    assert all(text in str(caught.value) for text in (f"{path} ", *reasons))


@each("dtype", DTYPES)
def test_save_and_load_bring_back_every_bit(path: Path, dtype: type) -> None:
    net = network("relu", "cross_entropy", [4, 3, 2], 1, 0, dtype)
    nn.save_params(path, net.params, ABOUT)
    params, about = nn.load_params(path)
    assert_same([params, about], [net.params, ABOUT])
    assert all(A.flags.writeable for A in params.values())
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_the_file_holds_builtins_alone(path: Path) -> None:
    plain = pickle.loads(path.read_bytes())
    dtype, shape, content = plain["params"]["W1"]
    assert (dtype, shape) == ("<f8", (4, 3)) and plain["layers"] == [4, 3, 2]
    assert_same(np.frombuffer(content, dtype).reshape(shape), nn.load_params(path)[0]["W1"])
    names = {opcode.name for opcode, _, _ in pickletools.genops(path.read_bytes())}
    assert not names & {"GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "REDUCE", "BUILD", "NEWOBJ", "NEWOBJ_EX", "MEMOIZE"}


def text(letters: str) -> bytes:
    return b"\x8c" + bytes([len(letters)]) + letters.encode()


TOUCH = text("touch canary")
BITING = {  # each runs a command if pickle.loads has its way
    "GLOBAL": b"cos\nsystem\n" + TOUCH + b"\x85R.",
    "STACK_GLOBAL": b"\x80\x04" + text("os") + text("system") + b"\x93" + TOUCH + b"\x85R.",
    "REDUCE": b"\x80\x04}(" + text("params") + b"cos\nsystem\n" + TOUCH + b"\x85Ru.",
    "INST": b"(" + TOUCH + b"ios\nsystem\n.",
    "OBJ": b"(cos\nsystem\n" + TOUCH + b"o.",
    "EXT1": b"\x80\x04\x82\xf0" + TOUCH + b"\x85R.",
}


@each("opcode", BITING)
def test_a_hostile_file_runs_nothing(path: Path, opcode: str) -> None:
    copyreg.add_extension("os", "system", 0xF0)
    try:
        refused(path, BITING[opcode], "it uses", opcode)
        assert not Path("canary").exists()
        pickle.loads(BITING[opcode])
        assert Path("canary").exists(), "the file is as hostile as it is meant to be"
    finally:
        copyreg.remove_extension("os", "system", 0xF0)


@each(("content", "reason"), [
    (b"\x80\x04}}b.", "it uses BUILD"),
    (b"\x80\x04}r\xff\xff\xff\x7f.", "it uses LONG_BINPUT"),  # a memo of 2^31 places
    (b"\x80\x04}\x94h\x00.", "BINGET"),
    (b"\x80\x04}2\x86.", "it uses DUP"),  # doubles what it holds with every byte
    (b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"abc.", "1099511627776 bytes"),
    (b"\x80\x04B" + struct.pack("<I", 2**31) + b"abc.", "2147483648 bytes"),
    (b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"}.", ""),
    (b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".", ""),
    (b"\x80\x04" + (b"}" + text("a")) * 100_000 + b"N" + b"s" * 100_000 + b".", ""),
    (b"\x80\x04K\x01.", ""),
    (b"\x80\x04}.", "params"),
    (b"\x80\x04}(" + text("params") + b"}" + text("layers") + b"K\x07u.", ""),
    (b"\x80\x04}(" + text("params") + b"K\x07" + text("layers") + b"]u.", ""),
    (b"", ""), (b"<html>", ""), (b"\x80\x04", ""),
])
def test_a_file_that_is_no_weights_is_refused(path: Path, content: bytes, reason: str) -> None:
    refused(path, content, "does not hold weights", reason)


def test_a_file_cut_short_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    for part in range(50):
        refused(path, whole[: len(whole) * part // 50], "does not hold weights")
    refused(path, whole[:-1], "does not hold weights")


def test_a_changed_byte_is_refused_or_harmless(path: Path) -> None:
    whole, refusals = path.read_bytes(), 0
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x15]) + whole[place + 1 :])
        try:
            params, _ = nn.load_params(path)
            assert {k: A.shape for k, A in params.items()} == nn.shapes_of([4, 3, 2])
            assert all(np.isfinite(A).all() for A in params.values())
        except ValueError as error:
            refusals += str(path) in str(error)
    assert refusals > len(whole) / 5


@each(("change", "reason"), [
    ({"W1": np.full((4, 3), np.nan)}, "NaN or infinity"),
    ({"b1": np.array([1, 2, np.inf])}, "NaN or infinity"),
    ({"W1": np.ones((3, 4))}, "its layers [4, 3, 2] need"),
    ({"W1": np.ones((4, 3), np.float16)}, "<f2"),
    ({"W1": np.ones((4, 3), np.int64)}, "<i8"),
    ({"W3": np.ones((2, 2))}, "its layers [4, 3, 2] need"),
    ({"W1": 0.5}, "does not hold weights"),
])
def test_weights_that_do_not_fit_are_refused(path: Path, change: dict[str, Any], reason: str) -> None:
    nn.save_params(path, nn.load_params(path)[0] | change, ABOUT)
    refused(path, path.read_bytes(), reason)


@each("layers", [[4, 2], [4, 3, 3], [3, 4, 2], [4], "4 3 2", None])
def test_weights_of_other_layers_are_refused(path: Path, layers: object) -> None:
    nn.save_params(path, nn.load_params(path)[0], {"layers": layers})
    refused(path, path.read_bytes())


def test_a_file_too_large_is_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn, "MAX_BYTES", path.stat().st_size)
    nn.load_params(path)
    refused(path, path.read_bytes() + b"\0", "bytes: too large for a file of weights")


class FullDisk(io.FileIO):
    def write(self, content: Any) -> int:
        super().write(bytes(content)[:10])
        raise OSError(errno.ENOSPC, "No space left on device")


@each("fails", ["builtins.open", "os.fsync", "pathlib.Path.replace"])
def test_a_write_that_fails_leaves_what_was_there(path: Path, monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    def failing(*arguments: Any) -> FullDisk:
        if fails == "builtins.open":
            return FullDisk(arguments[0], "wb")
        raise OSError(errno.EIO, "Input/output error")

    before = path.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(fails, failing)
        with pytest.raises(OSError):
            nn.save_params(path, {"W1": np.zeros((9, 9))}, {})
    assert {each.name: each.read_bytes() for each in path.parent.iterdir()} == {path.name: before}


# The command

FLAGS = ("--layers", "784", "8", "10", "--batch-size", "16", "--epochs", "3")
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs train.main in an empty folder, on 60 made-up pictures and 40 to test on: exit status, output, errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data.load, "HOME", tmp_path / "data")
    monkeypatch.setattr(train, "HELD_OUT", 20)
    for dataset, (split, count) in itertools.product(data.load.CLASSES, (("train", 60), ("t10k", 40))):
        folder, rng = tmp_path / "data" / dataset, np.random.default_rng(count)
        folder.mkdir(parents=True, exist_ok=True)
        labels = np.arange(count, dtype=np.uint8) % 10
        pictures = rng.integers(0, 256, (count, 784), np.uint8)
        pictures[np.arange(count), labels] = 255  # what a label looks like
        pictures[:, :10] *= np.eye(10, dtype=np.uint8)[labels]
        (folder / f"{split}-images-idx3-ubyte").write_bytes(struct.pack(">4I", 2051, count, 28, 28) + pictures.tobytes())
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 2049, count) + labels.tobytes())

    def run(*flags: str) -> tuple[int, str, str]:
        status = train.main([*FLAGS, *flags])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def test_training_ends_with_a_line_for_scripts_and_evaluating_agrees(command: Command) -> None:
    status, out, err = command()
    *epochs, last = out.splitlines()
    assert (status, err) == (0, "")
    assert [re.sub(r"[\d.]+ s", "_ s", re.sub(r"\d\.\d{4}", "_", line)) for line in epochs] == [
        f"epoch   {epoch}/3  loss _     _ s      _ s left" for epoch in (1, 2, 3)]
    found = re.fullmatch(r"test accuracy (\d+\.\d\d)% \((\d+) errors in 40\), \d+\.\d s", last)
    assert found and float(found[1]) == pytest.approx(100 - 2.5 * int(found[2]))
    status, out, err = command("--evaluate")
    assert (status, out.partition(",")[0], err) == (0, last.partition(",")[0], "")
    params, about = nn.load_params(Path("weights/mnist.pkl"))
    assert about["accuracy"] == 1 - int(found[2]) / 40 and about["classes"] == list(data.load.CLASSES["mnist"])
    assert {A.dtype for A in params.values()} == {np.dtype(np.float32)}


def test_held_out_pictures_are_the_last_of_the_training_ones(command: Command) -> None:
    status, out, err = command("--hold-out")
    assert (status, err) == (0, "") and re.findall(r"  held-out \d+\.\d\d%  ", out).__len__() == 3
    assert re.fullmatch(r"held-out accuracy \d+\.\d\d% \(\d+ errors in 20\), \d+\.\d s", out.splitlines()[-1])
    held = nn.load_params(Path("weights/mnist.pkl"))[0]
    command("--pictures", "40")
    assert_same(nn.load_params(Path("weights/mnist.pkl"))[0], held)


@each("flags", [("--optimizer", "adam"), ("--optimizer", "momentum", "--schedule", "constant"), ("--optimizer", "sgd")])
def test_a_run_interrupted_and_resumed_is_the_run_uninterrupted(
    command: Command, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...]
) -> None:
    command(*flags, "--weights", "whole.pkl")
    calls, update = itertools.count(1), nn.update_params

    def interrupted(*arguments: Any) -> nn.Params:
        if next(calls) == 6:  # of 4 in an epoch
            raise KeyboardInterrupt
        return update(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(nn, "update_params", interrupted)
        status, out, err = command(*flags)
    assert (status, out.count("epoch")) == (130, 1) and "--resume goes on" in err and err.count("\n") == 1
    assert not Path("weights/mnist.pkl").exists()
    status, out, err = command(*flags, "--resume")
    assert (status, out.count("epoch"), err) == (0, 2, "")
    assert Path("weights/mnist.pkl").read_bytes() == Path("whole.pkl").read_bytes()
    assert command(*flags, "--resume")[1].count("epoch") == 0, "nothing is left to do"


@each(("flags", "message"), [
    (("--layers", "784"), "layers must be two or more sizes"),
    (("--layers", "784", "0", "10"), "layers must be two or more sizes, each at least 1, got [784, 0, 10]"),
    (("--layers", "700", "10"), "X (16, 784) does not fit W1 (700, 10)"),
    (("--layers", "784", "5"), "labels must lie in 0..4, the units of the last layer, got 0..9"),
    (("--batch-size", "61"), "batch_size must lie in 1..60"),
    (("--pictures", "61"), "--pictures 61 is more than the 60 there are"),
    (("--pictures", "41", "--hold-out"), "--pictures 41 is more than the 40 there are"),
    (("--resume",), "there is nothing to resume: weights/mnist.checkpoint.pkl does not exist"),
    (("--evaluate",), "weights/mnist.pkl: No such file or directory"),
    (("--weights", "data/mnist/t10k-labels-idx1-ubyte/w.pkl"), "data/mnist/t10k-labels-idx1-ubyte"),
    (("--evaluate", "--weights", "data/mnist/t10k-labels-idx1-ubyte"), "t10k-labels-idx1-ubyte does not hold weights"),
])
def test_an_error_is_one_line_and_exit_status_1(command: Command, flags: tuple[str, ...], message: str) -> None:
    status, out, err = command(*flags)
    assert (status, out) == (1, "") and err.startswith("train.py: ") and message in err and err.count("\n") == 1
    assert not list(Path().glob("**/*.pkl"))


@each(("flags", "message"), [
    (("--activation", "swish"), "invalid choice: 'swish'"), (("--dataset", "cifar"), "invalid choice"),
    (("--loss", "hinge"), "invalid choice"), (("--optimizer", "lion"), "invalid choice"), (("--faster",), "--faster"),
    (("--epochs", "-1"), "must be a whole number, 0 or more, got '-1'"), (("--seed", "1.5"), "got '1.5'"),
    (("--learning-rate", "0"), "must be above 0, got '0'"), (("--learning-rate", "nan"), "got 'nan'"),
    (("--learning-rate", "inf"), "got 'inf'"), (("--min-accuracy", "high"), "'high'"), (("--layers", "a"), "'a'"),
])
def test_wrong_usage_is_exit_status_2(
    command: Command, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        command(*flags)
    assert caught.value.code == 2 and message in capsys.readouterr().err


def test_min_accuracy_decides_the_exit_status(command: Command) -> None:
    accuracy = float(re.findall(r"accuracy (\S+)%", command()[1])[0]) / 100
    assert 0 < accuracy < 1
    status, out, err = command("--evaluate", "--min-accuracy", str(accuracy - 0.001))
    assert (status, err) == (0, "")
    status, out, err = command("--evaluate", "--min-accuracy", str(accuracy + 0.001))
    assert status == 1 and "accuracy" in out and f"below --min-accuracy {accuracy + 0.001}" in err


def test_missing_pictures_are_named_with_what_to_do(command: Command) -> None:
    Path("data/mnist/train-labels-idx1-ubyte").unlink()
    status, _, err = command()
    assert status == 1 and "train-labels-idx1-ubyte" in err and "make data DATASET=mnist" in err


@each(("flag", "value", "was"), [
    ("--seed", "7", "seed 0, not 7"), ("--epochs", "4", "epochs 3, not 4"), ("--optimizer", "sgd", "adam, not sgd"),
    ("--layers", "784", "layers [784, 8, 10], not [784]"), ("--init", "small", "init he, not small"),
])
def test_resume_names_the_flag_that_differs(command: Command, flag: str, value: str, was: str) -> None:
    command()
    flags = (flag, value) if flag != "--layers" else ("--layers", "784", "9", "10")
    status, _, err = command("--resume", *flags)
    assert status == 1 and "weights/mnist.checkpoint.pkl" in err and was.rstrip("]") in err and "same flags" in err


@each("damage", [{"seconds": "1"}, {"state": {}}, {"state": None}, {"moments": {}}, {"step": 1.5}, {"epoch": None}])
def test_resume_refuses_a_checkpoint_without_a_whole_state(command: Command, damage: dict[str, Any]) -> None:
    command()
    path = Path("weights/mnist.checkpoint.pkl")
    params, about = nn.load_params(path)
    state: Any = about["state"]
    nn.save_params(path, params, about | (damage if damage.keys() & about.keys() else {"state": state | damage}))
    status, _, err = command("--resume")
    assert status == 1 and f"{path} does not hold the state of such a run" in err and err.count("\n") == 1


def test_weights_of_something_else_are_not_scored(command: Command) -> None:
    command()
    status, out, err = command("--evaluate", "--dataset", "fashion-mnist", "--weights", "weights/mnist.pkl")
    assert (status, out) == (1, "") and "weights/mnist.pkl reads mnist, not fashion-mnist" in err
    params, about = nn.load_params(Path("weights/mnist.pkl"))
    nn.save_params(Path("weights/mnist.pkl"), params, about | {"activation": "swish"})
    status, out, err = command("--evaluate")
    assert (status, out) == (1, "") and "the weights need activation swish and loss cross_entropy" in err


def test_a_loss_that_is_not_finite_stops_with_its_place(command: Command) -> None:
    with np.errstate(all="ignore"):
        status, out, err = command("--optimizer", "sgd", "--learning-rate", "1e30")
    assert (status, out) == (1, "") and re.search(r"the loss is \S+ at step [23] \(epoch 1\); try --learning-rate 1e\+29", err)
    assert err.count("\n") == 1 and not Path("weights/mnist.pkl").exists()
