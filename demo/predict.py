"""The command that says what a picture of one's own shows: python -m demo.predict photo.png."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import nn
from data.image import PictureError, prepare_picture
from data.load import CLASSES, scale_pixels
from train import functions_of

SHADES = " .:-=+*#%@"
BAR = 40  # characters, for a probability of 1


def load_network(path: Path) -> tuple[nn.Params, dict[str, object]]:
    """Weights that train.py kept, and what it told about them. ValueError if there are none, or they fit no dataset."""
    try:
        params, about = nn.load_params(path)
    except FileNotFoundError:
        raise ValueError(f"there are no weights at {path}; to make them: make train, "
                         "or make train DATASET=fashion-mnist for clothes") from None
    shape = len(params["W1"]), len(params[f"b{len(params) // 2}"])
    dataset = about.get("dataset")
    if dataset not in CLASSES or shape != (784, len(CLASSES[str(dataset)])):
        raise ValueError(f"{path} reads {dataset} with {shape[0]} inputs and {shape[1]} classes; "
                         f"784 inputs and the classes of {' or '.join(CLASSES)} are needed")
    functions_of(about)
    return params, about


def predict(params: nn.Params, about: Mapping[str, object], picture: NDArray[np.uint8]) -> nn.Array:
    """The probability (K,) of each class for one picture (784,): the last layer's output."""
    X = scale_pixels(picture[np.newaxis])
    probabilities: nn.Array = nn.forward_propagation(params, X, *functions_of(about))[f"A{len(params) // 2}"][0]
    return probabilities


def draw(picture: NDArray[np.uint8]) -> str:
    """A picture (784,) as text, two characters a pixel, which makes it about square."""
    rows = picture.reshape(28, 28).tolist()
    return "\n".join("".join(2 * SHADES[v * len(SHADES) // 256] for v in row).rstrip() for row in rows)


def describe(probabilities: nn.Array, classes: Sequence[str]) -> str:
    """The answer, and each class with its probability as a bar."""
    width = max(map(len, classes))
    bars = [f"{name:{width}} {p:6.1%} {'#' * round(BAR * min(max(p, 0), 1))}".rstrip()
            for name, p in zip(classes, probabilities.tolist(), strict=True)]
    return "\n".join([classes[int(probabilities.argmax())], "", *bars])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit status: 0, or 1 where a picture or the weights could not be read."""
    parser = argparse.ArgumentParser(prog="python -m demo.predict", description=__doc__)
    parser.add_argument("pictures", type=Path, nargs="+", metavar="FILE", help="PNG, JPEG, WebP, BMP or GIF")
    parser.add_argument("--dataset", choices=CLASSES, default="mnist", help="digits or clothes (default: mnist)")
    parser.add_argument("--weights", type=Path, help="weights/DATASET.pkl if not given")
    settings = parser.parse_args(arguments)
    try:
        params, about = load_network(settings.weights or Path("weights") / f"{settings.dataset}.pkl")
    except (ValueError, OSError) as error:
        print(f"predict: {error}", file=sys.stderr)
        return 1
    dataset = str(about["dataset"])
    status = 0
    for path in settings.pictures:
        try:
            picture = prepare_picture(path.read_bytes(), dataset)
        except (PictureError, OSError) as error:
            print(f"{path}: {error.strerror if isinstance(error, OSError) else error}", file=sys.stderr)
            status = 1
        else:
            print(path, draw(picture), describe(predict(params, about, picture), CLASSES[dataset]), "", sep="\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
