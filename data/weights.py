"""Weights on disk: trained parameters with what is needed to use them."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from data.flags import printable
from data.load import is_same
from data.pickles import load_tree, save_tree


class Weights(TypedDict):
    """Trained parameters and what is needed to use them."""

    params: dict[str, NDArray[np.floating]]  # W1 (784, H), b1 (H,), ..., float32 or float64
    layers: list[int]  # units of each, features and classes included
    activation: str  # of nn.ACTIVATIONS
    loss: str  # of nn.LOSSES
    dataset: str
    classes: list[str]  # their names, by label
    accuracy: float  # in [0, 1]
    measured_on: str  # "test" or "validation": the set that the accuracy is of


def check_weights(tree: Mapping[str, object]) -> Weights:
    """The tree as Weights. ValueError for what is missing, out of range or not shaped as the layers say."""
    types = {"params": dict, "layers": list, "classes": list, "accuracy": float}
    if wrong := [k for k in Weights.__annotations__ if not isinstance(tree.get(k), types.get(k, str))]:
        raise ValueError(f"{', '.join(wrong)} missing, or not of the right type")
    weights = cast(Weights, tree)
    layers, classes = weights["layers"], weights["classes"]
    if not all(isinstance(n, int) for n in layers) or len(layers) < 2 or len(classes) != layers[-1]:
        raise ValueError(f"layers {layers} do not fit {len(classes)} classes")
    if not all(isinstance(name, str) for name in classes) or not 0 <= weights["accuracy"] <= 1:
        raise ValueError(f"classes must be texts, got {classes}, and accuracy in 0..1, got {weights['accuracy']}")
    if weights["measured_on"] not in ("test", "validation"):
        raise ValueError(f"measured_on must be test or validation, got {weights['measured_on']}")
    pairs = enumerate(zip(layers, layers[1:]), start=1)
    expected = {k: shape for l, (m, n) in pairs for k, shape in ((f"W{l}", (m, n)), (f"b{l}", (n,)))}
    shapes = {k: getattr(A, "shape", None) for k, A in weights["params"].items()}
    if shapes != expected:
        raise ValueError(f"its parameters {shapes} do not fit its layers {layers}")
    return weights


def save_weights(path: Path, weights: Mapping[str, object]) -> None:
    """Writes Weights, and any hyperparameters beside. ValueError for what load_weights would refuse."""
    save_tree(path, cast(Mapping[str, object], check_weights(weights)))


def check_replaceable(path: Path, layers: list[int], dataset: str) -> None:
    """FileExistsError where path holds weights of other layers or another dataset: they may be better."""
    with suppress(FileNotFoundError, ValueError):  # nothing that can be used
        saved = load_weights(path)
        if saved["layers"] != layers or not is_same(saved["dataset"], dataset):
            held = printable(f"{saved['dataset']}, of layers {saved['layers']}")
            raise FileExistsError(f"{path} holds a network for {held}; name other --weights, or remove it")


def load_weights(path: Path | str) -> Weights:
    """Reads weights: nn.make_predictions(w["params"], X, nn.ACTIVATIONS[w["activation"]]) uses them.

    OSError where there is no such file, ValueError where it is damaged, foreign or asks to run anything.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"there are no weights at {path}; to make them: make train, or make train DATASET=...")
    tree = load_tree(Path(path))
    try:
        return check_weights(tree)
    except ValueError as error:
        raise ValueError(printable(f"{path} does not hold weights: {error}")) from error
