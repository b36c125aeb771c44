"""Weights and checkpoints on disk: a pickle of builtins alone, so that loading one can run nothing.

An array is a dict of its dtype, shape and bytes. A file is written whole or not at all.
"""

import io
import itertools
import pickle
import pickletools
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from data.files import write_whole

FORMAT = 1  # of the file
MAX_BYTES, MAX_OPCODES, MAX_TEXT = 250_000_000, 10_000, 1000  # an array takes 15 opcodes or so
OPCODES = set(
    "PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT SHORT_BINUNICODE BINUNICODE "
    "SHORT_BINBYTES BINBYTES EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS".split()
)


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


def pack(tree: object) -> object:
    """A tree of dicts with each array in it as a dict of dtype, shape and bytes."""
    if isinstance(tree, np.ndarray):
        return {"dtype": tree.dtype.str, "shape": list(tree.shape), "bytes": tree.tobytes()}
    return {k: pack(v) for k, v in tree.items()} if isinstance(tree, Mapping) else tree


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


def decode(content: bytes) -> dict[str, object]:
    """The dict of which content is the pickle. ValueError, or nearly any other, unless it is plain and small."""
    if len(content) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES} bytes")
    opcodes = list(itertools.islice(pickletools.genops(content), MAX_OPCODES))
    if alien := {opcode.name for opcode, _, _ in opcodes} - OPCODES:
        raise ValueError(f"it uses {', '.join(sorted(alien))}, where weights are plain numbers, texts and bytes")
    if opcodes[-1][0].name != "STOP" or any(isinstance(v, str) and len(v) > MAX_TEXT for _, v, _ in opcodes):
        raise ValueError(f"more than {MAX_OPCODES} opcodes, or a text of more than {MAX_TEXT} characters")
    tree = unpack(pickle.loads(content))
    if not isinstance(tree, dict) or tree.pop("format", None) != FORMAT:
        raise ValueError(f"it is not of format {FORMAT}; to write it anew, train again: make train")
    return tree


def save_tree(path: Path, tree: Mapping[str, object]) -> None:
    """Writes a tree of dicts, lists, builtins and arrays to path. ValueError for what load_tree would refuse."""
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, protocol=4)
    pickler.fast = True  # no memo: nothing in the file refers to another part of it
    pickler.dump(pack({"format": FORMAT, **tree}))
    try:
        decode(buffer.getvalue())
    except Exception as error:  # as in load_tree
        raise ValueError(f"{path} cannot hold this: {error!r:.500}") from error
    write_whole(path, buffer.getvalue())


def load_tree(path: Path) -> dict[str, object]:
    """The tree that save_tree wrote. ValueError for a file that is damaged, foreign or asks to run anything."""
    with open(path, "rb") as file:
        content = file.read(MAX_BYTES + 1)
    try:
        return decode(content)
    except Exception as error:  # a damaged file can raise nearly any
        raise ValueError(f"{path} does not hold weights: {error!r:.500}") from error


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
        raise ValueError(f"{path} does not hold weights: {error}") from error
