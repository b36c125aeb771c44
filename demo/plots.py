"""Plots a saved network: confusion matrix, first layer, mistakes, calibration; and its run's curves, from its log."""

import argparse
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

import nn
from data.augment import Images
from data.datasets import DATASETS, SIDE
from data.flags import printable
from data.load import is_same, load_measured, weights_name
from data.weights import Weights
from demo.photo import shows_ink
from demo.predict import load_network, predict, weights_path
from demo.robustness import CONDITIONS, read_back

BLUE, RED, GREY, INK, FRAME = "#2b6cb0", "#d9480f", "#a9b1bc", "#22262e", "#e3e7ec"
PAPER = matplotlib.colormaps["gray_r"].with_extremes(bad=FRAME)  # dark ink; NaN is what lies between images
SIGNED = LinearSegmentedColormap.from_list("signed", [BLUE, "white", RED], N=21).with_extremes(bad=FRAME)
ERRORS = LinearSegmentedColormap.from_list("errors", ["white", RED]).with_extremes(bad="#d6e4f2")
PHOTOS = 200  # test images that are drawn as photos, for their calibration
EPOCH = re.compile(r"^epoch +(\d+)/\d+  loss (\S+)(?:  validation (\S+)%)?", re.MULTILINE)  # what train.py prints
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
matplotlib.rc("text", parse_math=False)  # a class may be called $5
for group in "text", "xtick", "ytick":
    matplotlib.rc(group, color=INK)


def draw_curves(losses: Mapping[str, Mapping[int, float]], accuracies: Mapping[str, Mapping[int, float]]) -> Figure:
    """Loss and, where measured, accuracy in 0..1 of each set, by name, after each epoch, counted from 1."""
    panels = {"Loss": losses} | ({"Accuracy": accuracies} if any(accuracies.values()) else {})
    figure = Figure(figsize=(8, 2.8))
    for axes, (title, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items()):
        for name, curve in curves.items():
            axes.plot([*curve], [*curve.values()], "o-", color=RED if name == "validation" else BLUE, label=name)
        axes.set(title=title, xlabel="epochs")
        axes.locator_params(axis="x", integer=True)
        axes.yaxis.set_major_formatter("{x:.1%}" if title == "Accuracy" else "{x:g}")
        axes.grid()
        axes.legend()
    return figure


def draw_confusion(predictions: nn.Labels, Y: nn.Labels, classes: Sequence[str]) -> Figure:
    """How many images of each class, a row, were read as which, a column; predictions and labels (N,)."""
    figure, K = Figure(figsize=(5.6, 5.6)), len(classes)
    counts = np.bincount(Y * K + predictions, minlength=K * K).reshape(K, K)
    errors = np.ma.masked_array(counts, np.eye(K, dtype=bool))
    title = f"Confusion matrix: {errors.sum()} errors in {counts.sum()} images"
    axes = figure.add_subplot(title=title, xlabel="read as", ylabel="is")
    axes.imshow(errors, cmap=ERRORS, vmin=0)
    for true, read in np.argwhere(counts):
        pale = true == read or counts[true, read] < 0.7 * errors.max()
        axes.text(read, true, counts[true, read], ha="center", va="center", color=INK if pale else "white")
    long = max(map(len, classes)) > 2
    axes.set_xticks(range(K), classes, rotation=45 * long, rotation_mode="anchor", ha="right" if long else "center")
    axes.set_yticks(range(K), classes)
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


def draw_mistakes(X: Images, Y: nn.Labels, P: nn.Array, classes: Sequence[str], rows: int = 3) -> Figure:
    """Images of X (N, 784) for which P (N, K) names another class than Y (N,), the surest first, with their index."""
    wrong = np.flatnonzero(nn.get_predictions(P) != Y)
    surest = wrong[np.argsort(-P[wrong].max(axis=1), kind="stable")][: 3 * rows]
    figure = Figure(figsize=(8, 1.3 * rows + 0.4))
    figure.suptitle("The mistakes it was surest of, with their index; bold is what the image shows")
    cells = figure.subplots(rows, 6, squeeze=False).reshape(-1, 2)
    for axes in cells.flat:
        axes.axis("off")
    for (left, right), row in zip(cells, surest):
        y, p = Y[row], P[row]
        left.imshow(X[row].reshape(SIDE, SIDE), cmap=PAPER)
        left.set_title(row, size=8)
        shown = np.argsort(-p, kind="stable")[:3]
        shown[-1] = shown[-1] if y in shown else y
        right.barh(range(len(shown)), np.ones(len(shown)), 0.3, color=FRAME)
        right.barh(range(len(shown)), p[shown], 0.3, color=[BLUE if k == y else RED for k in shown])
        for place, k in enumerate(shown):
            right.text(0, place - 0.25, f"{classes[k]}   {p[k]:.2%}", weight="bold" if k == y else "normal")
        right.set(xlim=(0, 1), ylim=(2.5, -1))
    return figure


def draw_calibration(sets: Mapping[str, tuple[nn.Array, nn.Labels]], bins: int = 10) -> Figure:
    """The reliability diagram of each set's probabilities (N, K) and labels (N,), by name (Guo et al. 2017)."""
    figure = Figure(figsize=(5, 4.6))
    title = "Calibration, with the expected calibration error"
    axes = figure.add_subplot(title=title, xlabel="confidence, and number of images", ylabel="accuracy")
    axes.plot([0, 1], [0, 1], "--", color=GREY)
    for (name, (P, Y)), color, offset in zip(sets.items(), (BLUE, RED), ((4, -10), (-4, 6))):
        confidences, right = P.max(axis=1), nn.get_predictions(P) == Y
        places = np.minimum((bins * confidences).astype(int), bins - 1)
        used, counts = np.unique(places, return_counts=True)
        x, y = (np.bincount(places, values)[used] / counts for values in (confidences, right))
        axes.plot(x, y, "o-", color=color, label=f"{name}: {counts @ np.abs(y - x) / len(Y):.2%}")
        for n, confidence, accuracy in zip(counts, x, y):
            side = "left" if offset[0] > 0 else "right"
            axes.annotate(str(n), (confidence, accuracy), offset, textcoords="offset points", color=color, ha=side)
    axes.legend()
    axes.grid()
    return figure


def read_photos(X: Images, Y: nn.Labels, dataset: str) -> tuple[Images, nn.Labels, int]:
    """PHOTOS of the images X (N, 784), each drawn under one of CONDITIONS and read again, and their labels.

    Refused photos are left out; how many they are comes last.
    """
    some = np.random.default_rng(0).choice(len(X), min(len(X), PHOTOS), replace=False)
    photos, step = np.zeros_like(X[some]), len(CONDITIONS)
    for k, condition in enumerate(CONDITIONS.values()):
        photos[k::step], _ = read_back(condition, X[some[k::step]], dataset, seed=k)
    accepted = photos.any(axis=1)
    return photos[accepted], Y[some[accepted]], int(np.sum(~accepted))


def draw_network(weights: Weights, X: Images, Y: nn.Labels) -> dict[str, Figure]:
    """Figures, by name, of what weights read in images X (N, 784) with labels Y (N,)."""
    P, classes, dataset = predict(weights, X), weights["classes"], weights["dataset"]
    calibrated = {f"{weights['measured_on']} images": (P, Y)}
    if dataset in DATASETS and shows_ink(dataset):
        photos, labels, refused = read_photos(X, Y, dataset)
        calibrated[f"photos ({refused} refused)"] = predict(weights, photos), labels
    return {
        "confusion": draw_confusion(nn.get_predictions(P), Y, classes),
        "first-layer": draw_first_layer(weights["params"]["W1"]),
        "mistakes": draw_mistakes(X, Y, P, classes),
        "calibration": draw_calibration(calibrated),
    }


def draw_run(log: Path, accuracy: float) -> dict[str, Figure]:
    """The curves of the last run in a log, if it ended with this accuracy; else none, and a line that says so."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    if f" accuracy {accuracy:.2%} " not in text.rpartition("\nepoch ")[2]:
        print(f"no curves: {log} does not end with the run of these weights ({accuracy:.2%}); make train writes it")
        return {}
    run = EPOCH.findall(text[max(0, text.rfind("epoch   1/")) :])  # --resume goes on, a new run begins again
    losses = {int(epoch): float(loss) for epoch, loss, _ in run}
    accuracies = {int(epoch): float(accuracy) / 100 for epoch, _, accuracy in run if accuracy}
    return {"curves": draw_curves({"training": losses}, {"validation": accuracies})}


def draw_all(dataset: str, path: Path) -> dict[str, Figure]:
    """Figures by name of the weights at path, each under a line with accuracy, set, layers and date."""
    weights = load_network(path)
    if not is_same(weights["dataset"], dataset):
        raise ValueError(f"{path} is for {weights['dataset']}: name it, as in make plots DATASET=...")
    which = weights["measured_on"]
    (X, Y), _ = load_measured(dataset, which == "validation", weights["classes"], False)
    figures = draw_network(weights, X, Y) | draw_run(path.with_suffix(".log"), weights["accuracy"])
    layers = "-".join(map(str, weights["layers"]))
    date = time.strftime("%Y-%m-%d", time.localtime(path.stat().st_mtime))
    headline = f"{weights['accuracy']:.2%} of the {which} set of {printable(dataset)}, {layers}, {date}"
    for figure in figures.values():
        figure.suptitle(f"{headline}\n{figure.get_suptitle()}".strip(), x=0.01, ha="left", size=11)
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit status: 0, or 1 for an error."""
    parser = argparse.ArgumentParser("python -m demo.plots", description=__doc__)
    parser.add_argument("--dataset", default="mnist", help="mnist (the default), fashion-mnist or a path to one's own")
    parser.add_argument("--weights", type=Path, help="weights/DATASET.pkl if not given")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="where the figures go; plots/DATASET if not given")
    options = parser.parse_args(arguments)
    folder: Path = options.to or Path("plots") / weights_name(options.dataset)
    try:
        figures = draw_all(options.dataset, options.weights or weights_path(options.dataset))
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            figure.savefig(path := folder / f"{name}.png")
            print(path)
    except (OSError, ValueError, MemoryError) as error:
        print("demo.plots:", printable(error), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
