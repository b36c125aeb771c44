"""What the network makes of an image, and how it comes to it: outputs, connections, the closest training images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

import nn
from data.batches import scale_parts
from data.load import load, scale_pixels
from data.weights import Weights
from demo.predict import PROBABILITIES, load_network

STRONGEST, CLOSEST = 8, 5  # connections told of each unit, training images told of each answer
SAMPLED = 2000  # training images that tell how far apart their like are


@dataclass(frozen=True)
class Example:
    """A training image, its 784 pixels in [0, 1] row by row, and its label."""

    label: int
    name: str
    image: list[float]


@dataclass(frozen=True)
class Prediction:
    """What the network takes an image for; numbers are rounded to four decimals.

    label: the likeliest class, counted from 0. probabilities: one a class. novelty: the share of training images that
    are closer to their closest other one than this image is to its closest, in [0, 1]; near 1 for what is no digit.
    """

    label: int
    name: str
    probabilities: list[float]
    novelty: float | None


@dataclass(frozen=True)
class Answer(Prediction):
    """A prediction, and how it came about: detail=network.

    image: the 784 pixels that the network saw, in [0, 1], row by row. activations: each hidden layer's outputs.
    connections: for each layer, the strongest of each unit as (unit before, unit, activation x weight). sums: for each
    layer, of each unit, what speaks for it, what against, and its bias. closest: the training images whose
    activations in the last hidden layer are closest, by cosine similarity, closest first.
    """

    image: list[float]
    activations: list[list[float]]
    connections: list[list[tuple[int, int, float]]]
    sums: list[list[list[float]]]
    closest: list[Example]


class Memory(NamedTuple):
    """The training images X (N, 784), their labels, and the last hidden layer's outputs A (N, H), each of length 1.

    distances: of SAMPLED of them, 1 - cosine similarity to the closest other one, sorted.
    """

    X: NDArray[np.uint8]
    Y: nn.Labels
    A: nn.Array
    distances: nn.Array


class Network(NamedTuple):
    """All that an answer needs; memory is None where the training images are not at hand."""

    weights: Weights
    memory: Memory | None


def read_network(path: Path) -> Network:
    """The network of a file of weights. OSError, or ValueError for weights that do not read 28x28 images."""
    weights = load_network(path)
    try:
        X, Y = load(weights["dataset"], "train", weights["classes"])
    except FileNotFoundError:
        return Network(weights, None)
    params, activation = weights["params"], nn.ACTIVATIONS[weights["activation"]]
    last_hidden = f"A{len(params) // 2 - 1}"
    parts = (nn.forward_propagation(params, x, activation)[last_hidden] for x in scale_parts(X))
    A = np.concatenate([unit_length(part) for part in parts])
    sample = A[np.random.default_rng(0).permutation(len(A))[:SAMPLED]]
    second = min(1, len(A) - 1)  # the first is the image itself
    distances = [np.partition(1 - A @ rows.T, second, axis=0)[second].copy() for rows in np.array_split(sample, 40)]
    return Network(weights, Memory(X, Y, A, np.sort(np.concatenate(distances))))


def unit_length(A: nn.Array) -> nn.Array:
    """The rows of A (..., H), or A (H,), divided by their lengths: their products are the cosine similarities."""
    rows: nn.Array = A / np.maximum(np.linalg.norm(A, axis=-1, keepdims=True), 1e-9)
    return rows


def answer(network: Network, x: NDArray[np.float32], whole: bool = True) -> Prediction:
    """What the network makes of the image x (784,) in [0, 1]: an Answer where that is to be the whole."""
    (weights, memory), params, classes = network, network.weights["params"], network.weights["classes"]
    cache, L = nn.forward_propagation(params, x[None], nn.ACTIVATIONS[weights["activation"]]), len(params) // 2
    outputs = [cache[f"A{l}"][0] for l in range(L)] + [PROBABILITIES[weights["loss"]](cache[f"Z{L}"])[0]]
    label = int(outputs[L].argmax())
    closest, novelty = recall(memory, outputs[L - 1], classes) if memory else ([], None)
    prediction = Prediction(label, classes[label], plain(outputs[L]), novelty)
    if not whole:
        return prediction
    layers = [(outputs[l - 1], params[f"W{l}"], params[f"b{l}"], outputs[l]) for l in range(1, L + 1)]
    return Answer(
        **vars(prediction),
        image=plain(x),
        activations=[plain(a) for a in outputs[1:L]],
        connections=[strongest(A, W, B) for A, W, _, B in layers],
        sums=[for_and_against(A, W, b) for A, W, b, _ in layers],
        closest=closest,
    )


def plain(A: nn.Array) -> list[float]:
    """A (n,) for JSON."""
    numbers: list[float] = A.astype(np.float64).round(4).tolist()
    return numbers


def strongest(A: nn.Array, W: nn.Array, B: nn.Array) -> list[tuple[int, int, float]]:
    """For each unit of B (n,) that is not silent, the largest A_i W_ij by size; A is (m,), W is (m, n)."""
    rows, columns = np.flatnonzero(A), np.flatnonzero(B)
    C = A[rows, None] * W[np.ix_(rows, columns)]
    best = np.argsort(-abs(C), axis=0)[:STRONGEST]
    j = np.broadcast_to(columns, best.shape)
    values = np.take_along_axis(C, best, axis=0)
    return list(zip(rows[best].ravel().tolist(), j.ravel().tolist(), plain(values.ravel())))


def for_and_against(A: nn.Array, W: nn.Array, b: nn.Array) -> list[list[float]]:
    """For each unit j the sum of the positive A_i W_ij, of the negative ones, and b_j; the three add up to Z_j."""
    C = A[:, None] * W
    return [plain(unit) for unit in np.stack([np.maximum(C, 0).sum(axis=0), np.minimum(C, 0).sum(axis=0), b], axis=1)]


def recall(memory: Memory, a: nn.Array, classes: Sequence[str]) -> tuple[list[Example], float]:
    """The training images closest to an output a (H,) of the last hidden layer, and how novel that is, in [0, 1]."""
    distances = 1 - memory.A @ unit_length(a)
    rows = np.argpartition(distances, min(CLOSEST, len(distances) - 1))[:CLOSEST]
    rows = rows[np.argsort(distances[rows])]
    examples = [Example(int(memory.Y[n]), classes[memory.Y[n]], plain(scale_pixels(memory.X[n]))) for n in rows]
    novelty = np.searchsorted(memory.distances, distances[rows[0]]) / len(memory.distances)
    return examples, round(float(novelty), 4)
