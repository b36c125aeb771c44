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
import runpy
import signal
import struct
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal, localcontext
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import data.augment
import data.load
import nn
import train

settings.register_profile("repeatable", derandomize=True, deadline=None)  # the same examples in every run
settings.load_profile("repeatable")
pytestmark = pytest.mark.filterwarnings("error")  # an overflow is a failure

Tree = TypeVar("Tree")
each = pytest.mark.parametrize
PAIRS = list(itertools.product(nn.ACTIVATIONS, nn.LOSSES))
DTYPES = (np.float32, np.float64)
TANH = nn.ACTIVATIONS["tanh"]
LOGISTIC = nn.LOSSES["cross_entropy"](TANH)


class Network(NamedTuple):
    """Parameters with data and functions that fit them."""

    params: nn.Params
    X: nn.Array
    Y: nn.Labels
    activation: nn.Activation
    loss: nn.Loss


def network(pair: tuple[str, str], layers: Sequence[int], N: int, seed: int, dtype: type = np.float64) -> Network:
    """A network with random weights and biases and a batch of N, all of it read-only."""
    rng, f = np.random.default_rng(seed), nn.ACTIVATIONS[pair[0]]
    shapes = nn.shapes_of(layers).items()
    params: nn.Params = {k: rng.normal(0, 1.4 / math.sqrt(shape[0]), shape).astype(dtype) for k, shape in shapes}
    X: nn.Array = rng.normal(0, 1, (N, layers[0])).astype(dtype)
    return frozen(Network(params, X, rng.integers(0, layers[-1], N), f, nn.LOSSES[pair[1]](f)))


def arrays(tree: Any) -> list[Any]:
    """All arrays and NumPy scalars in a tree of dicts, lists and tuples."""
    if isinstance(tree, (dict, list, tuple)):
        return [A for branch in (tree.values() if isinstance(tree, dict) else tree) for A in arrays(branch)]
    return [tree] if isinstance(tree, (np.ndarray, np.generic)) else []


def frozen(tree: Tree) -> Tree:
    """The tree, its arrays read-only."""
    for A in arrays(tree):
        A.flags.writeable = False
    return tree


def bits(tree: Any) -> Any:
    """The tree with dtype, shape and bytes in the place of each array: equal where all is equal bit for bit."""
    if isinstance(tree, dict):
        return {k: bits(branch) for k, branch in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [bits(branch) for branch in tree]
    return (tree.dtype.str, tree.shape, tree.tobytes()) if isinstance(tree, np.ndarray) else tree


def assert_close(ours: nn.Params, theirs: nn.Params) -> None:
    assert ours.keys() == theirs.keys()
    for k in ours:
        np.testing.assert_allclose(ours[k], theirs[k], rtol=1e-11, atol=1e-13, err_msg=k)


def forward(net: Network) -> nn.Params:
    return nn.forward_propagation(net.params, net.X, net.activation, net.loss)


def loss_of(net: Network) -> Any:
    return net.loss.value(forward(net)[f"Z{len(net.params) // 2}"], net.Y)


def gradients(net: Network) -> nn.Params:
    return nn.backward_propagation(net.params, forward(net), net.Y, net.activation, net.loss)


# Functions, at ordinary and at extreme inputs

def test_functions_at_known_points() -> None:
    Z, Y = np.array([[-2.0, 0.0, 0.5]]), np.array([2, 0])
    np.testing.assert_array_equal(nn.relu(Z), [[0, 0, 0.5]])
    np.testing.assert_array_equal(nn.ACTIVATIONS["relu"].derivative(nn.relu(Z)), [[0, 0, 1]])
    np.testing.assert_allclose(nn.sigmoid(Z), [[1 / (1 + math.exp(-z)) for z in Z[0]]], rtol=1e-15)
    np.testing.assert_allclose(nn.tanh(Z), [[math.tanh(z) for z in Z[0]]], rtol=1e-15)
    np.testing.assert_array_equal(nn.one_hot(Y, 4), [[0, 0, 1, 0], [1, 0, 0, 0]])
    np.testing.assert_array_equal(nn.get_predictions(np.array([[0.1, 0.2, 0.7], [0.6, 0.1, 0.3]])), Y)
    assert nn.get_accuracy(np.array([2, 0, 1, 1]), np.array([2, 0, 1, 0])) == 0.75
    # the targets are 0.05 for the one class, 0.95 for the other
    targets, logits = np.array([[0.05, 0.95]]), np.array([[1.0, 3.0]])
    by_hand = -(targets * np.log(np.exp(logits) / np.exp(logits).sum())).sum()
    assert nn.smoothed_cross_entropy(logits, np.array([1])) == pytest.approx(by_hand, rel=1e-14)
    # 1/2 |A - Y|^2 a picture: (0.25 + 1 + 0.25) / 2 and (1 + 4 + 0) / 2, and their mean
    assert nn.mean_squared_error(np.array([[0.5, 1.0, 0.5], [2.0, 2.0, 0.0]]), Y) == (0.75 + 2.5) / 2


@each("dtype", DTYPES)
@each(("Z", "Y", "probabilities", "loss"), [
    ([[1000, 0, 0, 0]], [0], [[1, 0, 0, 0]], 0),
    ([[1000, 0, 0, 0]], [1], [[1, 0, 0, 0]], 1000),
    ([[-1e4, -1e4]], [1], [[0.5, 0.5]], math.log(2)),
    ([[1e30, 0], [1, 1], [-1e4, -1e4]], [0, 0, 1], [[1, 0], [0.5, 0.5], [0.5, 0.5]], math.log(2) / 1.5),
    ([[-700, 700], [0, math.log(3)]], [0, 1], [[0, 1], [0.25, 0.75]], (1400 - math.log(0.75)) / 2),
])
def test_softmax_and_cross_entropy_at_extremes(Z: Any, Y: Any, probabilities: Any, loss: float, dtype: type) -> None:
    with np.errstate(all="raise", under="ignore"):  # exp(-1000) is 0
        np.testing.assert_allclose(nn.softmax(np.array(Z, dtype)), probabilities, rtol=1e-6)
        np.testing.assert_allclose(nn.cross_entropy(np.array(Z, dtype), np.array(Y)), loss, rtol=1e-6)


@each("dtype", DTYPES)
def test_sigmoid_at_extremes(dtype: type) -> None:
    with np.errstate(all="raise"):
        np.testing.assert_array_equal(nn.sigmoid(np.array([[-1000, 0, 1000]], dtype)), [[0, 0.5, 1]])


def test_make_predictions_takes_the_likeliest_class() -> None:
    net = network(("relu", "cross_entropy"), [4, 5, 3], 50, 8)
    H = np.maximum(net.X @ net.params["W1"] + net.params["b1"], 0)
    expected = (H @ net.params["W2"] + net.params["b2"]).argmax(axis=1)
    np.testing.assert_array_equal(nn.make_predictions(net.params, net.X, net.activation, net.loss), expected)
    assert len(set(expected.tolist())) == 3


# Gradients

def moved_loss(net: Network, k: str, i: tuple[int, ...], h: Any) -> Any:
    """The loss with h, a float or a complex number, added to one entry of one parameter."""
    A: Any = net.params[k].astype(type(h))
    A[i] += h
    X: Any = net.X.astype(type(h))
    return loss_of(net._replace(params=net.params | {k: A}, X=X))


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
    """No unit so near 0 that a finite difference would straddle the kink of relu."""
    cache, L = forward(net), len(net.params) // 2
    nearest = min(np.abs(cache[f"A{l - 1}"] @ net.params[f"W{l}"] + net.params[f"b{l}"]).min() for l in range(1, L + 1))
    return net.activation.function is not nn.relu or bool(nearest > 0.01)


def test_gradient_of_the_neuron_worked_by_hand() -> None:
    """z1 = x w, z2 = z1 + b, z3 = y - z2, L = z3^2: with x = 2, y = 1 and z3 = 1.27, dL/db = -2.54, dL/dw = -5.08."""
    identity = nn.Activation(lambda Z: Z, np.ones_like, "small")  # one more entry; our loss is half of L
    params: nn.Params = {"W1": np.array([[-0.5]]), "b1": np.array([0.73])}
    net = Network(params, np.array([[2.0]]), np.array([0]), identity, nn.LOSSES["mean_squared_error"](identity))
    found = [2 * x for x in (loss_of(net), gradients(net)["b1"][0], gradients(net)["W1"][0, 0])]
    assert found == pytest.approx([1.27**2, -2.54, -5.08], rel=1e-15)


@each("pair", PAIRS)
@each("way", WAYS)
def test_gradient_of_a_network_of_unequal_sizes(pair: tuple[str, str], way: Any) -> None:
    net = network(pair, [5, 7, 4, 3], 6, 2)
    assert far_from_kinks(net) and relative_error(net, way) <= WAYS[way]


@each("dtype", DTYPES)
@each("pair", PAIRS)
def test_arguments_stay_and_results_have_their_dtype(pair: tuple[str, str], dtype: type, tmp_path: Path) -> None:
    """Every function is called with read-only arrays: one that wrote into its argument would raise."""
    net = network(pair, [5, 4, 3], 6, 0, dtype)
    functions, given_to = net[3:], [net.params, net.X, net.Y]
    before = copy.deepcopy(given_to)
    cache = frozen(forward(net))
    grads = frozen(nn.backward_propagation(net.params, cache, net.Y, *functions))
    found: list[object] = [
        [f(net.X) for f in (nn.relu, nn.sigmoid, nn.tanh, nn.softmax, net.activation.derivative)],
        [f(net.X, net.Y) for f in (nn.cross_entropy, nn.smoothed_cross_entropy, nn.mean_squared_error)],
        [f(net.X, net.Y) for f in (net.loss.gradient, net.loss.value)],
        nn.one_hot(net.Y, 3, dtype), nn.init_params([5, 3], nn.INITS["he"], np.random.default_rng(0), dtype),
        nn.update_params(net.params, grads, 0.1), {k: A for k, A in cache.items() if k != "A0"}, grads,
    ]
    nn.make_predictions(net.params, net.X, *functions)
    nn.save_params(tmp_path / "weights.pkl", net.params, {})
    for optimizer in nn.OPTIMIZERS.values():
        rest = net.Y, *functions, optimizer, lambda step: np.float64(0.1), 4, 2, lambda batch, chance: batch
        fresh = frozen(nn.init_state(net.params, optimizer, np.random.default_rng(0)))
        first, second = frozen(list(nn.gradient_descent(fresh, net.X, *rest)))
        (again,) = nn.gradient_descent(first, net.X, *rest)
        assert bits(again) == bits(second)
        found += [first, second["params"], second["moments"]]
    assert {A.dtype for A in arrays(found)} == {np.dtype(dtype)}
    assert not any(np.shares_memory(A, B) for A in arrays(found) for B in arrays(given_to))
    assert bits(given_to) == bits(before) and cache.keys() == {"A0", "A1", "A2", "Z2"}


# Start, optimisers, update

@each(("name", "variance"), [
    ("he", 2 / 400), ("xavier", 2 / 700), ("lecun", 1 / 400), ("small", 1e-4), ("uniform", 1 / 3)])
def test_start_has_the_variance_of_its_paper(name: str, variance: float) -> None:
    params = nn.init_params([400, 300, 2], nn.INITS[name], np.random.default_rng(0), np.float64)
    W = params["W1"]
    assert {k: A.shape for k, A in params.items()} == {"W1": (400, 300), "b1": (300,), "W2": (300, 2), "b2": (2,)}
    assert abs(W.mean()) < 5 * math.sqrt(variance / W.size)
    assert W.var() == pytest.approx(variance, rel=5 * math.sqrt(2 / W.size))
    farthest = np.abs(W).max() / math.sqrt(3 * variance)  # the edge of a uniform distribution; a Gaussian goes beyond
    assert farthest <= 1 if name == "uniform" else farthest > 2
    assert not params["b1"].any() and not params["b2"].any()


def test_start_is_the_generator_s_in_every_dtype() -> None:
    one, two, other = (nn.init_params([5, 4, 3], nn.INITS["he"], np.random.default_rng(seed), dtype)
                       for seed, dtype in ((1, np.float64), (1, np.float32), (2, np.float32)))
    assert bits({k: A.astype(np.float32) for k, A in one.items()}) == bits(two) != bits(other)
    assert {name: f.init for name, f in nn.ACTIVATIONS.items()} == {"relu": "he", "sigmoid": "lecun", "tanh": "xavier"}


CURVATURE, ORIGIN = np.array([1.0, 0.25, 8.0]), np.array([3.0, -2.0, 0.5])  # of a quadratic, 1/2 c x^2


def descend(name: str) -> list[nn.Array]:
    """The points that an optimiser visits on the quadratic in 20 steps from ORIGIN, at a rate of 1/8."""
    optimizer, params = nn.OPTIMIZERS[name], {"x": ORIGIN}
    moments: nn.Moments = {moment: {"x": np.zeros(3)} for moment in optimizer.moments}
    visited = []
    for step in range(1, 21):
        direction, moments = optimizer.direction({"x": CURVATURE * params["x"]}, moments, step)
        params = nn.update_params(params, direction, 1 / 8)
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


def test_adam_s_first_steps_worked_by_hand() -> None:
    """g = 2: m_hat = 2, v_hat = 4; then g = -1: m_hat = 0.8 / 1.9, v_hat = 4.996 / 1.999. And g = eps alone."""
    zero: nn.Moments = {"m": {"x": np.zeros(1)}, "v": {"x": np.zeros(1)}}
    one, moments = nn.adam({"x": np.array([2.0])}, zero, 1)
    two, _ = nn.adam({"x": np.array([-1.0])}, moments, 2)
    tiny, _ = nn.adam({"x": np.array([1e-8])}, zero, 1)
    assert [moments["m"]["x"][0], moments["v"]["x"][0]] == [2, 4]
    expected = [2 / (2 + 1e-8), 0.8 / 1.9 / (math.sqrt(4.996 / 1.999) + 1e-8), 0.5]
    assert [one["x"][0], two["x"][0], tiny["x"][0]] == pytest.approx(expected, rel=1e-12)


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

@each("dtype", DTYPES)
def test_weight_decay_stands_apart_from_the_direction(dtype: type) -> None:
    params: nn.Params = {"W1": np.full((1, 2), 8, dtype)}
    direction: nn.Params = {"W1": np.array([[1, -2]], dtype)}
    updated = nn.update_params(params, direction, np.float64(0.5), np.float64(0.25))["W1"]
    assert updated.dtype == dtype and updated.tolist() == [[8 - 0.5 * (1 + 0.25 * 8), 8 - 0.5 * (-2 + 0.25 * 8)]]


X, Y = frozen((np.arange(10, dtype=np.uint8).repeat(4).reshape(10, 4), np.arange(10) % 3))  # a picture holds its number


def plain(batch: Any, chance: nn.Array) -> nn.Array:
    scaled: nn.Array = np.divide(batch, 10)
    return scaled


def noisy(batch: Any, chance: nn.Array) -> nn.Array:
    assert chance.shape == (len(batch), 1) and np.all(np.abs(chance) <= 1)
    return plain(batch, chance) + 0.1 * chance


def fresh(optimizer: str, seed: int = 0) -> nn.State:
    """A state before the first step, in float64."""
    rng = np.random.default_rng(seed)
    params = nn.init_params([4, 5, 3], nn.INITS["xavier"], rng, np.float64)
    return frozen(nn.init_state(params, nn.OPTIMIZERS[optimizer], rng))


def fold(
    state: nn.State, epochs: int, optimizer: str, prepare: Any = noisy, batch_size: int = 4,
    watch: Callable[[int, float], None] = lambda step, loss: None, average: Any = nn.mean_gradients,
    weight_decay: float = 0.0,
) -> Iterator[nn.State]:
    rest = TANH, LOGISTIC, nn.OPTIMIZERS[optimizer], lambda step: 0.1 / step, batch_size, epochs, prepare, 1, watch
    return nn.gradient_descent(state, X, Y, *rest, average, weight_decay)


@each("optimizer", nn.OPTIMIZERS)
def test_two_epochs_and_two_more_are_four_and_states_stay(optimizer: str) -> None:
    kept = [(state, copy.deepcopy(state)) for state in fold(fresh(optimizer), 4, optimizer)]
    four = [before for _, before in kept]
    assert bits([state for state, _ in kept]) == bits(four)
    two = list(fold(fresh(optimizer), 2, optimizer))
    assert bits(two + list(fold(two[-1], 4, optimizer))) == bits(four) and list(fold(four[-1], 4, optimizer)) == []
    assert [(state["epoch"], state["step"]) for state in four] == [(1, 3), (2, 6), (3, 9), (4, 12)]


def test_the_seed_decides() -> None:
    one, same, other = (list(fold(fresh("sgd", seed), 2, "sgd")) for seed in (0, 0, 1))
    assert bits(one) == bits(same) and one[1]["params"]["W1"][0, 0] != other[1]["params"]["W1"][0, 0]


@each(("batch_size", "sizes"), [(4, [4, 4, 2]), (1, [1] * 10), (10, [10])])
def test_an_epoch_is_the_textbook_s_loop_over_every_picture_once(batch_size: int, sizes: list[int]) -> None:
    """The batches are those that prepare saw; parameters, losses, steps and rates follow from them one by one."""
    seen: list[Any] = []
    told: list[tuple[int, float]] = []

    def recording(batch: Any, chance: nn.Array) -> nn.Array:
        seen.append(batch[:, 0])
        return plain(batch, chance)

    watch: Callable[[int, float], None] = lambda *pair: told.append(pair)
    states = list(fold(fresh("adam"), 3, "adam", recording, batch_size, watch, weight_decay=0.3))
    steps = len(sizes)
    orders = [np.concatenate(seen[i : i + steps]).tolist() for i in (0, steps, 2 * steps)]
    assert [len(chosen) for chosen in seen] == sizes * 3 and all(sorted(order) == list(range(10)) for order in orders)
    assert len(set(map(tuple, [*orders, range(10)]))) == 4, "an order of its own each epoch"
    params, moments, losses = fresh("adam")["params"], fresh("adam")["moments"], []
    for step, chosen in enumerate(seen, start=1):
        net = Network(params, plain(X[chosen], np.empty(0)), Y[chosen], TANH, LOGISTIC)
        losses.append(float(loss_of(net)))
        direction, moments = nn.adam(gradients(net), moments, step)
        params = nn.update_params(params, direction, 0.1 / step, 0.3)
        if step % steps == 0:
            state = states[step // steps - 1]
            assert bits([state["params"], state["moments"]]) == bits([params, moments])
            assert state["loss"] == pytest.approx(np.average(losses[-steps:], weights=sizes), rel=1e-14)
    assert told == list(enumerate(losses, start=1))


def test_a_batch_taken_in_pieces_is_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 rows as 4, 4 and 2; each picture keeps its own chance."""
    whole = list(fold(fresh("sgd"), 2, "sgd", batch_size=10))
    monkeypatch.setattr(nn, "PIECE", 4)
    pieces = list(fold(fresh("sgd"), 2, "sgd", batch_size=10))
    for one, other in zip(whole, pieces, strict=True):
        assert_close(one["params"], other["params"])
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-12)
        assert one["generator"] == other["generator"]


class Together(train.Comm):
    """Threads that train together, each a rank."""

    def __init__(self, rank: int, parts: list[Any], barrier: threading.Barrier) -> None:
        self.rank, self.size, self.parts, self.barrier, self.calls = rank, len(parts), parts, barrier, 0

    def Allreduce(self, part: nn.Array, total: nn.Array) -> None:
        assert part.ndim == total.ndim == 1
        self.calls += 1
        self.parts[self.rank] = part
        self.barrier.wait(10)
        total[:] = sum(self.parts)
        self.barrier.wait(10)


@each(("ranks", "batch_size"), [(1, 4), (2, 4), (3, 4), (3, 10), (7, 4)])
def test_ranks_that_share_batches_take_the_steps_of_one(
    monkeypatch: pytest.MonkeyPatch, ranks: int, batch_size: int
) -> None:
    """Shares of unequal size, some of none; each picture keeps its own chance; one Allreduce a step."""
    alone = list(fold(fresh("adam"), 2, "adam", batch_size=batch_size))
    monkeypatch.setattr(nn, "PIECE", 3)
    parts, barrier = [None] * ranks, threading.Barrier(ranks)

    def work(rank: int) -> list[nn.State]:
        comm = Together(rank, parts, barrier)
        states = list(fold(fresh("adam"), 2, "adam", batch_size=batch_size, average=train.share_batches(comm)))
        assert comm.calls == (states[-1]["step"] if ranks > 1 else 0)
        return states

    with ThreadPoolExecutor(ranks) as pool:
        first, *others = pool.map(work, range(ranks))
    assert all(bits(states) == bits(first) for states in others)
    for one, together in zip(alone, first, strict=True):
        assert_close(one["params"], together["params"])
        assert one["loss"] == pytest.approx(together["loss"], rel=1e-12)


def test_chance_is_uniform_from_minus_1_to_1() -> None:
    seen: list[Any] = []

    def recording(batch: Any, chance: nn.Array) -> nn.Array:
        seen.append(chance)
        return plain(batch, chance)

    list(fold(fresh("sgd"), 300, "sgd", recording))
    chances = np.concatenate(seen)[:, 0]
    counts = np.histogram(chances, bins=10, range=(-1, 1))[0]  # 300 expected in each, with a deviation of 16
    assert len(set(chances.tolist())) > 2990 and counts.sum() == 3000 and np.abs(counts - 300).max() < 80


def test_ten_pinned_losses() -> None:
    """Computed apart, one number at a time in 60 digits; every weight and pixel is a sine."""
    pinned = [0.605797422773, 0.455048258086, 0.359386398488, 0.274430395387, 0.195395387897,
              0.130241736068, 0.082916454818, 0.051523617138, 0.031774029783, 0.019665165599]
    W1, W2, pixels = (np.sin(1 + n * np.arange(m)[:, None] + np.arange(n)) for m, n in ((4, 3), (3, 2), (5, 4)))
    params: nn.Params = {"W1": W1, "b1": np.zeros(3), "W2": W2, "b2": np.zeros(2)}
    state = nn.init_state(params, nn.OPTIMIZERS["adam"], np.random.default_rng(0))
    rest = TANH, LOGISTIC, nn.OPTIMIZERS["adam"], lambda step: 0.1, 5, 10, lambda batch, chance: batch
    states = nn.gradient_descent(state, pixels, np.array([0, 1, 1, 0, 1]), *rest)
    assert [state["loss"] for state in states] == pytest.approx(pinned, abs=1e-11)


@each("pair", [pair for pair in PAIRS if pair != ("relu", "mean_squared_error")])  # a relu for output can die
def test_a_tiny_set_is_learnt_by_heart(pair: tuple[str, str]) -> None:
    rng, f, adam = np.random.default_rng(0), nn.ACTIVATIONS[pair[0]], nn.OPTIMIZERS["adam"]
    pictures, labels = rng.normal(0, 1, (20, 16)).astype(np.float32), rng.integers(0, 4, 20)
    state = nn.init_state(nn.init_params([16, 32, 4], nn.INITS[f.init], rng), adam, rng)
    functions = f, nn.LOSSES[pair[1]](f)
    rest = *functions, adam, lambda step: 0.01, 8, 150, lambda batch, chance: batch
    *_, state = nn.gradient_descent(state, pictures, labels, *rest)
    assert nn.get_accuracy(nn.make_predictions(state["params"], pictures, *functions), labels) == 1


@each(("changes", "message"), [
    ({"batch_size": 0}, "batch_size must lie in 1..10, the number of pictures, got 0"),
    ({"batch_size": 11}, "batch_size must lie in 1..10, the number of pictures, got 11"),
    ({"X": np.where(X == 3, np.nan, X)}, "X holds NaN or infinity"),
    ({"X": np.where(X == 3, np.inf, X)}, "X holds NaN or infinity"),
    ({"X": np.where(X == 3, -np.inf, X)}, "X holds NaN or infinity"),
    ({"Y": Y[:9]}, "Y must be 10 integers, a label for each row of X, got int64 (9,)"),
    ({"Y": Y[:, None]}, "got int64 (10, 1)"),
    ({"Y": Y / 1}, "got float64 (10,)"),
    ({"Y": Y - 1}, "labels must lie in 0..2, the units of the last layer, got -1..1"),
    ({"Y": Y + 1}, "labels must lie in 0..2, the units of the last layer, got 1..3"),
    ({"X": X[:, :3]}, "X (10, 3) does not fit W1 (4, 5): X must be (N, 4)"),
    ({"X": X[:, 0]}, "X (10,) does not fit W1 (4, 5): X must be (N, 4)"),
])
def test_data_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"X": X, "Y": Y, "batch_size": 10, "optimizer": nn.OPTIMIZERS["sgd"]} | changes
    with pytest.raises(ValueError, match=re.escape(message)):
        next(nn.gradient_descent(fresh("sgd"), activation=TANH, loss=LOGISTIC, learning_rate=lambda step: 0.1, epochs=1,
                                 prepare=plain, **arguments))


@each("layers", [[], [4], [4, 0, 3], [4, -1]])
def test_layers_that_cannot_be_are_refused(layers: list[int]) -> None:
    message = f"layers must be two or more sizes, each at least 1, got {layers}"
    with pytest.raises(ValueError, match=re.escape(message)):
        nn.init_params(layers, nn.INITS["he"], np.random.default_rng(0))


# Weights on disk

ABOUT: dict[str, Any] = {
    "layers": [4, 3, 2], "share": 0.5, "none": None, "yes": True, "name": "ä", "bytes": b"\0", "big": 2**127, "no": {},
    "nested": {"moments": {"m": {"W1": np.arange(6.0).reshape(2, 3)}}, "list": ["a", "b"]},
}


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of weights, alone in the current folder."""
    monkeypatch.chdir(tmp_path)
    nn.save_params(tmp_path / "weights.pkl", network(PAIRS[0], [4, 3, 2], 1, 0).params, ABOUT)
    return tmp_path / "weights.pkl"


def refused(path: Path, content: bytes, *reasons: str) -> None:
    """load_params refuses the content, and names the file and the reasons."""
    path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        nn.load_params(path)
    assert all(text in str(caught.value) for text in (f"{path} ", *reasons))


@each("dtype", DTYPES)
def test_save_and_load_bring_back_every_bit(path: Path, dtype: type) -> None:
    params = network(PAIRS[0], [4, 3, 2], 1, 0, dtype).params
    nn.save_params(path, params, ABOUT)
    assert bits(nn.load_params(path)) == bits([params, ABOUT]) and list(path.parent.iterdir()) == [path]
    nn.load_params(path)[0]["W1"][0, 0] = 1  # what was loaded can be changed


def test_the_file_holds_builtins_alone(path: Path) -> None:
    held = pickle.loads(path.read_bytes())
    dtype, shape, content = held["params"]["W1"].values()
    assert (dtype, shape, held["layers"]) == ("<f8", [4, 3], [4, 3, 2])
    assert bits(np.frombuffer(content, dtype).reshape(shape)) == bits(nn.load_params(path)[0]["W1"])
    names = {opcode.name for opcode, _, _ in pickletools.genops(path.read_bytes())}
    assert not names & {"GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "REDUCE", "BUILD", "NEWOBJ", "NEWOBJ_EX", "MEMOIZE"}


def text(letters: str) -> bytes:
    return b"\x8c" + bytes([len(letters)]) + letters.encode()


TOUCH, SYSTEM = text("touch canary"), b"cos\nsystem\n"


@each(("opcode", "content"), [
    ("GLOBAL", SYSTEM + TOUCH + b"\x85R."),
    ("STACK_GLOBAL", b"\x80\x04" + text("os") + text("system") + b"\x93" + TOUCH + b"\x85R."),
    ("REDUCE", b"\x80\x04}(" + text("params") + SYSTEM + TOUCH + b"\x85Ru."),
    ("INST", b"(" + TOUCH + b"ios\nsystem\n."),
    ("OBJ", b"(" + SYSTEM + TOUCH + b"o."),
    ("EXT1", b"\x80\x04\x82\xf0" + TOUCH + b"\x85R."),
])
def test_a_hostile_file_runs_nothing(path: Path, opcode: str, content: bytes) -> None:
    copyreg.add_extension("os", "system", 0xF0)
    try:
        refused(path, content, "it uses", opcode)
        assert not Path("canary").exists()
        pickle.loads(content)
        assert Path("canary").exists(), "the file is as hostile as it is meant to be"
    finally:
        copyreg.remove_extension("os", "system", 0xF0)


@each(("content", "reason"), [
    (b"}}b.", "it uses BUILD"),
    (b"}r\xff\xff\xff\x7f.", "it uses LONG_BINPUT"),  # a memo of 2^31 places
    (b"}\x94h\0.", "BINGET"),
    (b"]2a.", "it uses DUP"),  # could double what it holds with every byte
    (b"\x8e" + struct.pack("<Q", 2**40) + b"abc.", "1099511627776 bytes"),
    (b"B" + struct.pack("<I", 2**31) + b"abc.", "2147483648 bytes"),
    (b"\x95" + struct.pack("<Q", 2**40) + b"}.", ""),
    (b"]" * 100_000 + b"a" * 99_999 + b".", ""),
    ((b"}" + text("a")) * 100_000 + b"N" + b"s" * 100_000 + b".", ""),
    (b"}" + text("params") + b")" + b"\x85" * 5000 + b"NN\x87s.", "TUPLE1"),
    (b"})" + b"\x85" * 200_000 + b"Ns.", "TUPLE1"),  # to hash a key as deep as that overruns the stack
    (b"}(" + text("a") + b"]" * 4000 + b"a" * 3999 + text("params") + b"}u.", "RecursionError"),
    (b"](" + b"}" * 10_000 + b"e.", "or 10000 opcodes: too many"),  # a byte would be 72 bytes in memory
    (b"}(" + b"".join(b"\x8a\x08" + struct.pack("<q", i * (2**61 - 1)) + b"N" for i in range(4)) + b"u.", "params"),
    (b"K\x01.", ""), (b"}.", "params"), (b"", ""),
    (b"}(" + text("params") + b"}" + text("layers") + b"K\x07u.", ""),
    (b"}(" + text("params") + b"K\x07" + text("layers") + b"]u.", ""),
])
def test_a_file_that_is_no_weights_is_refused(path: Path, content: bytes, reason: str) -> None:
    refused(path, b"\x80\x04" + content, "does not hold weights", reason)


def test_a_file_cut_short_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    for length in {len(whole) * part // 50 for part in range(50)} | {1, len(whole) - 1}:
        refused(path, whole[:length], "does not hold weights")


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


@each(("change", "layers", "reason"), [
    ({"W1": np.ones((3, 4))}, [4, 3, 2], "its layers [4, 3, 2] need"),
    ({"W3": np.ones((2, 2))}, [4, 3, 2], "its layers [4, 3, 2] need"),
    ({}, [4, 3, 3], "its layers [4, 3, 3] need"),
    ({}, [4, 2], "its layers [4, 2] need"),
    ({}, [4], "layers must be two or more sizes"),
    ({}, None, "does not hold weights"),
    ({"W1": 0.5}, [4, 3, 2], "does not hold weights"),
])
def test_weights_that_do_not_fit_are_refused(path: Path, change: Any, layers: object, reason: str) -> None:
    nn.save_params(path, nn.load_params(path)[0] | change, {"layers": layers})
    refused(path, path.read_bytes(), reason)


@each("dtype", ["<f2", "<i8", ">f8", "|O8"])
def test_weights_that_are_no_floats_of_ours_are_refused(path: Path, dtype: str) -> None:
    refused(path, path.read_bytes().replace(text("<f8"), text(dtype), 1), dtype)


@each("number", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_neither_written_nor_read(path: Path, number: float) -> None:
    whole, W1 = path.read_bytes(), nn.load_params(path)[0]["W1"]
    entry = W1[1, 1].tobytes()
    assert whole.count(entry) == 1
    refused(path, whole.replace(entry, struct.pack("<d", number)), "NaN or infinity")
    with pytest.raises(ValueError, match="NaN or infinity"):
        nn.save_params(path.with_name("other.pkl"), {"W1": np.array([1, number])}, {})
    assert list(path.parent.iterdir()) == [path]


def test_a_file_too_large_is_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn, "MAX_BYTES", path.stat().st_size)
    nn.load_params(path)
    refused(path, path.read_bytes() + b"\0", f"more than {nn.MAX_BYTES} bytes or")


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
    with monkeypatch.context() as patched, pytest.raises(OSError, match=path.name + "'$"):
        patched.setattr(fails, failing)
        nn.save_params(path, {"W1": np.zeros((9, 9))}, {})
    assert {each.name: each.read_bytes() for each in path.parent.iterdir()} == {path.name: before}


def test_writers_of_one_file_in_one_process_do_not_mix(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (first, second), fsync = (network(PAIRS[0], [4, 3, 2], 1, seed).params for seed in (1, 2)), os.fsync

    def meanwhile(number: int) -> None:
        monkeypatch.setattr(os, "fsync", fsync)
        nn.save_params(path, second, ABOUT)
        assert bits(nn.load_params(path)[0]) == bits(second)
        fsync(number)

    monkeypatch.setattr(os, "fsync", meanwhile)
    nn.save_params(path, first, ABOUT)
    assert bits(nn.load_params(path)[0]) == bits(first) and list(path.parent.iterdir()) == [path]


def test_a_device_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="/dev/zero does not hold weights"):
        nn.load_params(Path("/dev/zero"))


# The command

Command = Callable[..., tuple[int, str, str]]
WEIGHTS, CHECKPOINT = Path("weights/mnist.pkl"), Path("weights/mnist.checkpoint.pkl")


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs train.main in an empty folder on 60 made-up pictures, 40 to test on: exit status, output, errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data.load, "HOME", tmp_path / "data")
    monkeypatch.setattr(train, "HELD_OUT", 20)
    for dataset, (split, count) in itertools.product(data.load.CLASSES, (("train", 60), ("t10k", 40))):
        labels = np.arange(count, dtype=np.uint8) % 10
        pictures = np.random.default_rng(count).integers(0, 256, (count, 784), np.uint8)
        pictures[:, :10] = 255 * np.eye(10, dtype=np.uint8)[labels]  # what a label looks like
        prefix = tmp_path / "data" / dataset / split
        prefix.parent.mkdir(parents=True, exist_ok=True)
        images, numbers = struct.pack(">4I", 2051, count, 28, 28), struct.pack(">2I", 2049, count)
        prefix.with_name(f"{split}-images-idx3-ubyte").write_bytes(images + pictures.tobytes())
        prefix.with_name(f"{split}-labels-idx1-ubyte").write_bytes(numbers + labels.tobytes())

    def run(*flags: str) -> tuple[int, str, str]:
        small = "--layers 784 8 10 --batch-size 16 --epochs 3 --learning-rate 0.002"
        try:
            status: Any = train.main([*small.split(), *flags])
        except SystemExit as ended:
            status = ended.code
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def failed(command: Command, message: str, *flags: str) -> None:
    """The command ends with exit status 1 and one line, nothing before it."""
    status, out, err = command(*flags)
    assert (status, out) == (1, "") and err.startswith("train.py: ") and message in err and err.count("\n") == 1


def test_training_ends_with_a_line_for_scripts_and_evaluating_agrees(command: Command) -> None:
    status, out, err = command()
    *epochs, last = out.splitlines()
    assert (status, err, len(epochs)) == (0, "", 3)
    for epoch, line in enumerate(epochs, start=1):
        assert re.fullmatch(rf"epoch   {epoch}/3  loss \d\.\d{{4}}   +\d+\.\d s   +\d+ s left", line)
    found = re.fullmatch(r"test accuracy (\d+\.\d\d)% \((\d+) errors in 40\), \d+\.\d s", last)
    assert found and float(found[1]) == pytest.approx(100 - 2.5 * int(found[2])) and 0 < int(found[2]) < 40
    status, out, err = command("--evaluate")
    assert (status, out.partition(",")[0], err) == (0, last.partition(",")[0], "")
    params, about = nn.load_params(WEIGHTS)
    assert about["accuracy"] == pytest.approx(float(found[1]) / 100) and params["W1"].dtype == np.float32
    assert command("--evaluate", "--min-accuracy", f"{float(found[1]) / 100}")[0] == 0
    status, out, err = command("--evaluate", "--min-accuracy", "0.999")
    assert status == 1 and last.partition(",")[0] in out and "below --min-accuracy 0.999" in err


def test_held_out_pictures_are_the_last_of_the_training_ones(command: Command) -> None:
    status, out, err = command("--hold-out")
    assert (status, err, len(re.findall(r"  held-out \d+\.\d\d%  ", out))) == (0, "", 3)
    assert re.fullmatch(r"held-out accuracy \d+\.\d\d% \(\d+ errors in 20\), \d+\.\d s", out.splitlines()[-1])
    held = nn.load_params(WEIGHTS)[0]
    command("--pictures", "40")
    assert bits(nn.load_params(WEIGHTS)[0]) == bits(held)


@each("flags", [
    ("--optimizer", "adam"), ("--optimizer", "momentum", "--schedule", "constant"), ("--batch-size", "0"),
    ("--augment", "none")])
def test_a_run_interrupted_and_resumed_is_the_run_uninterrupted(
    command: Command, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...]
) -> None:
    command(*flags, "--weights", "whole.pkl")
    calls, update = itertools.count(1), nn.update_params

    def interrupted(*arguments: Any) -> nn.Params:
        if next(calls) == (2 if "0" in flags else 6):  # in the second epoch
            train.stop(signal.SIGCHLD, None)
        return update(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(nn, "update_params", interrupted)
        status, out, err = command(*flags)
    assert (status, out.count("epoch")) == (128 + signal.SIGCHLD, 1)
    assert "with --resume goes on" in err and err.count("\n") == 1
    assert not WEIGHTS.exists()
    status, out, err = command(*flags, "--resume")
    assert (status, out.count("epoch"), err) == (0, 2, "")
    assert WEIGHTS.read_bytes() == Path("whole.pkl").read_bytes()
    assert command(*flags, "--resume")[1].count("epoch") == 0, "nothing is left to do"


@each("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_and_a_second_one_the_process(
    command: Command, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    before = signal.signal(number, train.stop)
    monkeypatch.setattr(nn, "update_params", lambda *arguments: signal.raise_signal(number))
    try:
        assert command() == (128 + number, "", "train.py: stopped; no epoch was done\n")
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_a_signal_during_the_imports_ends_the_process_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, train.__file__], env=environment, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")


@each(("variables", "threads"), [
    ({}, "1"), ({"OMP_NUM_THREADS": "3"}, "3"), ({"OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": "3"}, "2")])
def test_one_thread_unless_the_user_says_more(tmp_path: Path, variables: dict[str, str], threads: str) -> None:
    (tmp_path / "numpy.py").write_text("import os, sys\nsys.exit(os.environ['OPENBLAS_NUM_THREADS'])\n")
    rest = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    environment = rest | variables | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, train.__file__], env=environment, capture_output=True, text=True)
    assert done.stderr == f"{threads}\n"


def test_mpi_without_its_package_says_what_installs_it() -> None:
    command = [sys.executable, "-S", train.__file__]  # -S hides all packages
    done = subprocess.run(command, env=os.environ | {"PMI_SIZE": "2"}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "") and done.stderr.endswith("pip install --group mpi\n")


def test_the_script_takes_both_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = signal.SIGINT, signal.SIGTERM
    before = [signal.getsignal(number) for number in numbers]
    monkeypatch.setattr(sys, "argv", ["train.py", "--pictures", "-1"])
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


def test_weights_side_by_side_have_checkpoints_of_their_own() -> None:
    for weights, checkpoint in ("a/b.pkl", "a/b.checkpoint.pkl"), ("rate0.1", "rate0.1.checkpoint.pkl"):
        assert train.checkpoint_of(train.parse_settings(["--weights", weights])) == Path(checkpoint)


def test_augment_deforms_by_the_dataset_s_strengths_or_by_others(command: Command) -> None:
    learnt = []
    own = data.augment.STRENGTHS["mnist"]
    changes = {"none": data.augment.Strengths(), "by dataset": own, "shift=1,flip=1": own._replace(shift=1, flip=1)}
    for flag, strengths in changes.items():
        assert command("--augment", flag)[0] == 0
        params, about = nn.load_params(WEIGHTS)
        assert about["augment"] == strengths._asdict()
        learnt.append(params["W1"].tobytes())
    assert len(set(learnt)) == 3
    failed(command, "is of a run with augment {", "--resume", "--augment", "rotation=6")


@each(("flags", "message"), [
    ("--layers 784", "layers must be two or more sizes, each at least 1, got [784]"),
    ("--layers 784 0 10", "layers must be two or more sizes, each at least 1, got [784, 0, 10]"),
    ("--layers 700 10", "X (16, 784) does not fit W1 (700, 10)"),
    ("--layers 784 5", "labels must lie in 0..4, the units of the last layer, got 0..9"),
    ("--batch-size 61", "batch_size must lie in 1..60"),
    ("--pictures 61", "--pictures 61 is more than the 60 there are"),
    ("--pictures 41 --hold-out", "--pictures 41 is more than the 40 there are"),
    ("--resume", f"there is nothing to resume: {CHECKPOINT} does not exist"),
    ("--evaluate", f"{WEIGHTS}: No such file or directory"),
    ("--weights data", "data is a folder; name a file with --weights"),
    ("--layers 784 400000000000 10", "Unable to allocate"),
    ("--weights data/mnist/t10k-labels-idx1-ubyte/w.pkl", "data/mnist/t10k-labels-idx1-ubyte"),
    ("--evaluate --weights data/mnist/t10k-labels-idx1-ubyte", "t10k-labels-idx1-ubyte does not hold weights"),
])
def test_an_error_is_one_line_and_exit_status_1(command: Command, flags: str, message: str) -> None:
    failed(command, message, *flags.split())
    assert not list(Path().glob("**/*.pkl"))


@each(("flags", "message"), [
    ("--activation swish", "invalid choice: 'swish'"), ("--dataset cifar", "invalid choice: 'cifar'"),
    ("--loss hinge", "invalid choice"), ("--optimizer lion", "invalid choice"), ("--faster", "--faster"),
    ("--epochs -1", "must be a whole number, 0 or more, got '-1'"), ("--seed 1.5", "got '1.5'"),
    ("--learning-rate 0", "must be above 0, got '0'"), ("--learning-rate nan", "must be above 0, got 'nan'"),
    ("--learning-rate inf", "got 'inf'"), ("--min-accuracy high", "'high'"), ("--layers a", "'a'"),
    ("--min-accuracy 98", "must lie in 0..1, got '98'"), ("--augment rotation", "'rotation'"),
    ("--augment twist=1", "must give numbers of 0 or more to some of rotation, scale"),
    ("--augment shift=-1", "got 'shift=-1'"),
])
def test_wrong_usage_is_exit_status_2(command: Command, flags: str, message: str) -> None:
    status, _, err = command(*flags.split())
    assert status == 2 and message in err


def test_missing_pictures_are_named_with_what_to_do(command: Command) -> None:
    Path("data/mnist/train-labels-idx1-ubyte").unlink()
    failed(command, "train-labels-idx1-ubyte'; to put it right: make data DATASET=mnist")


def test_resume_names_the_flag_that_differs(command: Command) -> None:
    command()
    for flags, was in (
        ("--seed 7", "seed 0, not 7"), ("--epochs 4", "epochs 3, not 4"), ("--hold-out", "hold_out False, not True"),
        ("--layers 784 9 10", "layers [784, 8, 10], not [784, 9, 10]"), ("--init small", "init he, not small"),
        ("--optimizer sgd", "optimizer adam, not sgd"),
    ):
        failed(command, f"{CHECKPOINT} is of a run with {was}; resume with its flags", "--resume", *flags.split())


def test_resume_refuses_a_checkpoint_without_a_whole_state(command: Command) -> None:
    command()
    params, about = nn.load_params(CHECKPOINT)
    state: Any = about["state"]
    changes: list[dict[str, object]] = [{"moments": {}}, {"step": 1.5}, {"epoch": None}, {"generator": {}}, {"more": 0}]
    damages: list[dict[str, object]] = [{"seconds": "1"}, {"state": None}]
    damages += ({"state": state | change} for change in changes)
    for damage in damages:
        nn.save_params(CHECKPOINT, params, about | damage)
        failed(command, f"{CHECKPOINT} does not hold the state of such a run", "--resume")


def test_weights_of_something_else_are_not_scored(command: Command) -> None:
    command()
    flags = "--evaluate", "--dataset", "fashion-mnist", "--weights", str(WEIGHTS)
    failed(command, f"{WEIGHTS} reads mnist, not fashion-mnist", *flags)
    params, about = nn.load_params(WEIGHTS)
    nn.save_params(WEIGHTS, params, about | {"activation": "swish"})
    failed(command, "the weights need activation swish and loss cross_entropy", "--evaluate")
    nn.save_params(WEIGHTS, params, about | {"dataset": 400 * "\x1b[2J\n"})  # would wipe the terminal
    assert re.fullmatch(r"train.py: [\x20-\x7e]{1000}\n", command("--evaluate")[2])


def test_a_loss_that_is_not_finite_stops_with_its_place(command: Command) -> None:
    with np.errstate(all="ignore"):
        status, out, err = command("--optimizer", "sgd", "--learning-rate", "1e30")
    assert (status, out) == (1, "") and not WEIGHTS.exists() and err.count("\n") == 1
    assert re.search(r"the loss is \S+ at step [23] \(epoch 1\); try --learning-rate 1e\+29", err)


# Properties of random networks

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
    alone = [net._replace(X=net.X[n : n + 1], Y=net.Y[n : n + 1]) for n in range(len(net.X))]
    assert loss_of(net) == pytest.approx(np.mean([loss_of(row) for row in alone]), rel=1e-12)
    row_grads = [gradients(row) for row in alone]
    assert_close(gradients(net), {k: np.mean([grads[k] for grads in row_grads], axis=0) for k in net.params})


@given(networks(), st.randoms(use_true_random=False))
def test_the_order_of_a_batch_changes_nothing_but_rounding(net: Network, dice: Any) -> None:
    order = dice.sample(range(len(net.X)), len(net.X))
    permuted = net._replace(X=net.X[order], Y=net.Y[order])
    assert loss_of(permuted) == pytest.approx(loss_of(net), rel=1e-12)
    assert_close(gradients(permuted), gradients(net))


@given(networks(layers=3), st.randoms(use_true_random=False))
def test_the_order_of_hidden_units_is_the_parameters_alone(net: Network, dice: Any) -> None:
    order = dice.sample(range(net.params["b1"].size), net.params["b1"].size)

    def permuted(params: nn.Params) -> nn.Params:
        return params | {"W1": params["W1"][:, order], "b1": params["b1"][order], "W2": params["W2"][order]}

    other, last = net._replace(params=permuted(net.params)), f"Z{len(net.params) // 2}"
    assert_close({last: forward(other)[last]}, {last: forward(net)[last]})
    assert_close(gradients(other), permuted(gradients(net)))


@given(networks(losses=["cross_entropy"], most=2))
def test_one_layer_is_multinomial_logistic_regression(net: Network) -> None:
    E = np.exp(net.X @ net.params["W1"] + net.params["b1"])
    D = (E / E.sum(axis=1, keepdims=True) - np.eye(E.shape[1])[net.Y]) / len(net.X)
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
    assert len(tried) == 3 and min(tried.values()) >= 50
    figures = " and ".join(f"{error:.1e} {way.__name__}" for way, error in worst.items())
    with capsys.disabled():
        print(f"\nworst relative error of gradients over {tried.total()} random networks: {figures}")
