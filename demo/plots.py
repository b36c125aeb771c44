"""Trains, and makes figures of the run: curves, confusion matrix, weights, mistakes, augmentation."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, cast

import matplotlib
import numpy as np
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

import nn
import train
from data.augment import NOISE, Images, Strengths, augment
from data.batches import scale_parts
from data.datasets import SIDE
from data.load import Sets, load_test, weights_name
from demo.predict import PROBABILITIES

Curve: TypeAlias = Sequence[tuple[float, float]]  # loss, and accuracy in 0..1, after each epoch

BLUE, RED, GREY, INK, FRAME = "#2b6cb0", "#d9480f", "#a9b1bc", "#22262e", "#e3e7ec"
PAPER = matplotlib.colormaps["gray_r"].with_extremes(bad=FRAME)  # dark ink; NaN is what lies between images
SIGNED = LinearSegmentedColormap.from_list("signed", [BLUE, "white", RED], N=21).with_extremes(bad=FRAME)
ERRORS = LinearSegmentedColormap.from_list("errors", ["white", RED]).with_extremes(bad="#d6e4f2")
# for the whole program: Matplotlib asks for some of it only when it saves a figure
matplotlib.rc("axes", edgecolor=GREY, labelcolor=INK, titlecolor=INK, titlelocation="left", titlesize=11)
matplotlib.rc("axes.spines", right=False, top=False)
matplotlib.rc("figure.constrained_layout", use=True)
matplotlib.rc("font", size=9)
matplotlib.rc("grid", color=FRAME)
matplotlib.rc("image", interpolation="nearest")
matplotlib.rc("legend", frameon=False)
matplotlib.rc("lines", markersize=3.5)
matplotlib.rc("savefig", dpi=120)
matplotlib.rc(("text", "xtick", "ytick"), color=INK)


def draw_curves(curves: Mapping[str, Curve]) -> Figure:
    """Loss and accuracy after each epoch, a line for each set that curves names."""
    figure = Figure(figsize=(8, 2.8))
    for i, (axes, title) in enumerate(zip(figure.subplots(1, 2), ("Loss", "Accuracy"))):
        for (name, curve), colour in zip(curves.items(), (BLUE, RED)):
            axes.plot(range(1, len(curve) + 1), [point[i] for point in curve], "o-", color=colour, label=name)
        axes.set(title=title, xlabel="epochs")
        axes.locator_params(axis="x", integer=True)
        axes.grid()
        axes.legend()
    axes.yaxis.set_major_formatter("{x:.1%}")
    return figure


def count_confusions(predictions: nn.Labels, Y: nn.Labels, K: int) -> NDArray[np.intp]:
    """How many images of each class, a row, were read as which, a column: (K, K) from predictions and labels (N,)."""
    return np.bincount(Y * K + predictions, minlength=K * K).reshape(K, K)


def draw_confusion(counts: NDArray[np.intp], classes: Sequence[str]) -> Figure:
    """The counts (K, K) of count_confusions as a table, in which errors are coloured."""
    figure, places = Figure(figsize=(5.6, 5.6)), range(len(classes))
    errors = np.ma.masked_array(counts, np.eye(len(classes), dtype=bool))
    title = f"Confusion matrix: {errors.sum()} errors in {counts.sum()} images"
    axes = figure.add_subplot(title=title, xlabel="read as", ylabel="is")
    axes.imshow(errors, cmap=ERRORS, vmin=0)
    for true, read in np.argwhere(counts):
        pale = true == read or counts[true, read] < 0.7 * errors.max()
        axes.text(read, true, counts[true, read], ha="center", va="center", color=INK if pale else "white")
    long = max(map(len, classes)) > 2
    axes.set_xticks(places, classes, rotation=45 * long, rotation_mode="anchor", ha="right" if long else "center")
    axes.set_yticks(places, classes)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def draw_gallery(images: NDArray[np.generic], title: str, cmap: Colormap = PAPER) -> Figure:
    """Images (rows, columns, 784) in a grid, with a frame one pixel wide about each. An image of NaN is left out."""
    (rows, columns, _), (height, width) = images.shape, (SIDE, SIDE)
    tiles = np.full((rows, height + 2, columns, width + 2), np.nan, np.float32)
    tiles[:, 1:-1, :, 1:-1] = images.reshape(rows, columns, height, width).swapaxes(1, 2)
    figure = Figure(figsize=(8, 8 * rows / columns + 0.3))
    axes = figure.add_subplot(title=title)
    axes.imshow(tiles.reshape(rows * (height + 2), -1), cmap=cmap)
    axes.axis("off")
    return figure


def draw_first_layer(W: nn.Array, rows: int = 3, columns: int = 10) -> Figure:
    """The weights W (784, H) into hidden units, each unit's as an image, the units with the largest weights first."""
    units = np.argsort(-np.linalg.norm(W, axis=0), kind="stable")[: rows * columns]
    tiles = np.full((-(-len(units) // columns), columns, len(W)), np.nan)
    tiles.reshape(-1, len(W))[: len(units)] = W.T[units]
    of = f"{len(units)} of the {W.shape[1]} units of the first layer"
    figure = draw_gallery(tiles, f"Weights into {of}: ink on red raises the unit, on blue lowers it", SIGNED)
    limit = 0.7 * np.abs(W[:, units]).max()
    figure.axes[0].images[0].set_clim(-limit, limit)
    return figure


def draw_augmentation(originals: Images, augmented: NDArray[np.uint8]) -> Figure:
    """The originals (columns, 784) in a row, and below each its augmented versions (rows, columns, 784)."""
    title = f"Images, and {len(augmented)} augmented versions of each"
    return draw_gallery(np.vstack([originals[None], augmented]), title)


def find_mistakes(P: nn.Array, Y: nn.Labels, n: int) -> NDArray[np.intp]:
    """The rows of probabilities P (N, K) that name another class than Y (N,): the n surest, the surest first."""
    rows = np.flatnonzero(nn.get_predictions(P) != Y)
    return rows[np.argsort(-P[rows].max(axis=1), kind="stable")][:n]


def draw_mistakes(X: Images, Y: nn.Labels, P: nn.Array, classes: Sequence[str], columns: int = 3) -> Figure:
    """Misread images X (N, 784), each with bars for its likeliest classes by P (N, K), and for its own, Y (N,)."""
    rows = max(1, -(-len(X) // columns))
    figure = Figure(figsize=(8, 1.3 * rows + 0.4))
    figure.suptitle("The mistakes it was surest of; bold is what the image shows", x=0.01, ha="left", size=11)
    cells = figure.subplots(rows, 2 * columns, squeeze=False).reshape(-1, 2)
    for axes in cells.flat:
        axes.axis("off")
    for (left, right), x, y, p in zip(cells, X, Y, P):
        left.imshow(x.reshape(SIDE, SIDE), cmap=PAPER)
        shown = np.argsort(-p, kind="stable")[:3]
        shown[-1] = shown[-1] if y in shown else y
        right.barh(range(len(shown)), np.ones(len(shown)), 0.3, color=FRAME)
        right.barh(range(len(shown)), p[shown], 0.3, color=[BLUE if k == y else RED for k in shown])
        for place, k in enumerate(shown):
            right.text(0, place - 0.25, f"{classes[k]}   {p[k]:.2%}", weight="bold" if k == y else "normal")
        right.set(xlim=(0, 1), ylim=(2.5, -1))
    return figure


def read(params: nn.Params, X: Images, activation: nn.Activation) -> nn.Array:
    """The logits (N, K) of images X (N, 784)."""
    logits = f"Z{len(params) // 2}"
    return np.concatenate([nn.forward_propagation(params, x, activation)[logits] for x in scale_parts(X)])


def follow(config: train.Config) -> tuple[Sets, nn.Params, dict[str, Curve]]:
    """Trains and measures after each epoch, with a line of it: the sets, the last parameters, and the curves."""
    config.validation = True
    sets, begun = train.start(config)
    curves: dict[str, list[tuple[float, float]]] = {"training": [], "validation": []}
    state = cast(nn.State, begun["state"])
    for epoch in range(1, config.epochs + 1):
        state = train.train_epoch(config, sets.training, state, epoch)
        for name, (X, Y) in zip(curves, (sets.training, sets.measured)):
            Z = read(state["params"], X, nn.ACTIVATIONS[config.activation])
            loss, _ = nn.LOSSES[config.loss](Z, nn.one_hot(Y, config.layers[-1], config.label_smoothing))
            curves[name].append((float(loss), nn.get_accuracy(nn.get_predictions(Z), Y)))
        accuracies = "  ".join(f"{name} {curve[-1][1]:.2%}" for name, curve in curves.items())
        print(f"epoch {epoch:3}/{config.epochs}  {accuracies}", flush=True)
    return sets, state["params"], dict(curves)


def draw_run(config: train.Config) -> dict[str, Figure]:
    """Trains and reads the test set, if there is one, or else the validation set. Returns the figures by name."""
    sets, params, curves = follow(config)
    classes, test = sets.classes, load_test(config.dataset, sets.classes)
    K, (X, Y) = len(classes), test or sets.measured
    P = PROBABILITIES[config.loss](read(params, X, nn.ACTIVATIONS[config.activation]))
    rows = find_mistakes(P, Y, 9)
    figures = {
        "curves": draw_curves(curves),
        "confusion": draw_confusion(count_confusions(nn.get_predictions(P), Y, K), classes),
        "first-layer": draw_first_layer(params["W1"]),
        "mistakes": draw_mistakes(X[rows], Y[rows], P[rows], classes),
    }
    if (strengths := Strengths(**config.augment)) != Strengths():
        originals = X[[np.argmax(Y == k) for k in range(K)[:10]]]
        noise = np.random.default_rng(config.seed).uniform(-1, 1, (4, len(originals), NOISE)).astype(np.float32)
        augmented = np.stack([augment(originals, each, strengths) for each in noise])
        figures["augmentation"] = draw_augmentation(originals, augmented)
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit status: 0, 1 for an error, 130 for Ctrl-C."""
    others = "Every other flag is for the training: see python train.py --help."
    parser = argparse.ArgumentParser("python -m demo.plots", description=__doc__, epilog=others, allow_abbrev=False)
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="where the figures go; plots/DATASET if not given")
    options, flags = parser.parse_known_args(arguments)
    config = train.parse_config(flags)
    free = {f"--{name.replace('_', '-')}" for name in vars(config).keys() - config.hyperparameters().keys()}
    if useless := free & {flag.partition("=")[0] for flag in flags}:
        parser.error(f"a new run is drawn, and no weights are kept: leave out {', '.join(sorted(useless))}")
    folder: Path = options.to or Path("plots") / weights_name(config.dataset)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in draw_run(config).items():
            figure.savefig(path := folder / f"{name}.png")
            print(path)
    except OSError as error:
        where = f"{error.filename}: {error.strerror}; check that folder, or name another with --to"
        print(f"demo.plots: {where if error.filename else error}", file=sys.stderr)
        return 1
    except (ValueError, ArithmeticError, MemoryError, argparse.ArgumentTypeError) as error:
        print(f"demo.plots: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo.plots: stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
