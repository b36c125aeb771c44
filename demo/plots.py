"""Trains without the held-out pictures and draws the run: curves, confusions, weights, mistakes, deformed pictures."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure

import nn
import train
from data.augment import DRAWS, Strengths, deform
from data.load import CLASSES, PICTURE, load, scale_pixels

Curve: TypeAlias = Sequence[tuple[float, float]]  # loss, and accuracy in 0..1, after each epoch
Pictures: TypeAlias = npt.NDArray[np.uint8]  # (N, 784), 0..255

BLUE, RED, GREY, INK, FRAME = "#2b6cb0", "#d9480f", "#a9b1bc", "#22262e", "#e3e7ec"
PAPER = matplotlib.colormaps["gray_r"].with_extremes(bad=FRAME)  # dark ink; NaN is what lies between pictures
SIGNED = LinearSegmentedColormap.from_list("signed", [BLUE, "white", RED], N=21).with_extremes(bad=FRAME)
ERRORS = LinearSegmentedColormap.from_list("errors", ["white", RED]).with_extremes(bad="#d6e4f2")
matplotlib.rcParams.update({  # for the whole program: Matplotlib asks for some of it only when it saves a figure
    "axes.edgecolor": GREY, "axes.labelcolor": INK, "axes.spines.right": False, "axes.spines.top": False,
    "axes.titlecolor": INK, "axes.titlelocation": "left", "axes.titlesize": 11, "figure.constrained_layout.use": True,
    "font.size": 9, "grid.color": FRAME, "image.interpolation": "nearest", "legend.frameon": False,
    "lines.markersize": 3.5, "savefig.dpi": 120, "text.color": INK, "xtick.color": INK, "ytick.color": INK,
})


def draw_curves(curves: Mapping[str, Curve]) -> Figure:
    """Loss and accuracy after each epoch, a line for each kind of pictures that curves names."""
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


def count_confusions(predictions: nn.Labels, Y: nn.Labels, K: int) -> npt.NDArray[np.intp]:
    """How many pictures of each class, a row, were read as which, a column: (K, K) from predictions and labels (N,)."""
    return np.bincount(Y * K + predictions, minlength=K * K).reshape(K, K)


def draw_confusion(counts: npt.NDArray[np.intp], classes: Sequence[str]) -> Figure:
    """The counts (K, K) of count_confusions as a table, in which errors are coloured."""
    figure, long = Figure(figsize=(5.6, 5.6)), max(map(len, classes)) > 2
    errors = np.ma.masked_array(counts, np.eye(len(classes), dtype=bool))
    axes = figure.add_subplot(title=f"{errors.sum()} errors in {counts.sum()} test pictures",
                              xlabel="read as", ylabel="is")
    axes.imshow(errors, cmap=ERRORS, vmin=0)
    for true, read in np.argwhere(counts):
        pale = true == read or counts[true, read] < 0.7 * errors.max()
        axes.text(read, true, counts[true, read], ha="center", va="center", color=INK if pale else "white")
    axes.set_xticks(range(len(classes)), classes, rotation=45 if long else 0, ha="right" if long else "center",
                    rotation_mode="anchor" if long else "default")
    axes.set_yticks(range(len(classes)), classes)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def draw_gallery(pictures: npt.NDArray[np.generic], title: str, cmap: Colormap = PAPER) -> Figure:
    """Pictures (rows, columns, 784) in a grid, with a frame one pixel wide about each. A picture of NaN is left out."""
    (rows, columns, _), (height, width) = pictures.shape, PICTURE
    tiles = np.full((rows, height + 2, columns, width + 2), np.nan, np.float32)
    tiles[:, 1:-1, :, 1:-1] = pictures.reshape(rows, columns, height, width).swapaxes(1, 2)
    figure = Figure(figsize=(8, 8 * rows / columns + 0.3))
    axes = figure.add_subplot(title=title)
    axes.imshow(tiles.reshape(rows * (height + 2), -1), cmap=cmap)
    axes.axis("off")
    return figure


def draw_first_layer(W: nn.Array, rows: int = 3, columns: int = 10) -> Figure:
    """The weights W (784, H) into hidden units, each unit's as a picture, the units with the largest weights first."""
    units = np.argsort(-np.linalg.norm(W, axis=0), kind="stable")[: rows * columns]
    tiles = np.full((-(-len(units) // columns), columns, len(W)), np.nan)
    tiles.reshape(-1, len(W))[: len(units)] = W.T[units]
    figure = draw_gallery(tiles, f"Weights into {len(units)} of the {W.shape[1]} units of the first layer: "
                                 "ink on red raises the unit, on blue lowers it", SIGNED)
    limit = 0.7 * np.abs(W[:, units]).max()
    figure.axes[0].images[0].set_clim(-limit, limit)
    return figure


def draw_deformed(originals: Pictures, versions: npt.NDArray[np.uint8]) -> Figure:
    """The originals (columns, 784) in a row, and below each its deformed versions (rows, columns, 784)."""
    title = f"Pictures, and {len(versions)} deformed versions of each"
    return draw_gallery(np.vstack([originals[None], versions]), title)


def find_mistakes(A: nn.Array, Y: nn.Labels, n: int) -> npt.NDArray[np.intp]:
    """The rows of A (N, K) that name another class than Y (N,): the n that give it most, the surest first."""
    rows = np.flatnonzero(nn.get_predictions(A) != Y)
    return rows[np.argsort(-A[rows].max(axis=1), kind="stable")][:n]


def draw_mistakes(X: Pictures, Y: nn.Labels, A: nn.Array, classes: Sequence[str], columns: int = 3) -> Figure:
    """Misread pictures X (N, 784), each with bars for its likeliest classes by A (N, K), and for its own, Y (N,)."""
    rows = -(-len(X) // columns)
    figure = Figure(figsize=(8, 1.3 * rows + 0.4))
    figure.suptitle("The mistakes it was surest of; bold is what the picture shows", x=0.01, ha="left", size=11)
    cells = figure.subplots(rows, 2 * columns, squeeze=False).reshape(-1, 2)
    for axes in cells.flat:
        axes.axis("off")
    for (left, right), x, y, a in zip(cells, X, Y, A):
        left.imshow(x.reshape(PICTURE), cmap=PAPER)
        shown = np.argsort(-a, kind="stable")[:3]
        shown[-1] = shown[-1] if y in shown else y
        right.barh(range(3), np.ones(3), 0.3, color=FRAME)
        right.barh(range(3), a[shown], 0.3, color=[BLUE if k == y else RED for k in shown])
        for place, k in enumerate(shown):
            right.text(0, place - 0.25, f"{classes[k]}   {a[k]:.2%}", weight="bold" if k == y else "normal")
        right.set(xlim=(0, 1), ylim=(2.5, -1))
    return figure


def read(params: nn.Params, X: Pictures, activation: nn.Activation, loss: nn.Loss) -> nn.Array:
    """The last layer's Z (N, K) for pictures X (N, 784), taken a thousand at a time to spare memory."""
    last, batches = f"Z{len(params) // 2}", (scale_pixels(X[i : i + 1000]) for i in range(0, len(X), 1000))
    return np.concatenate([nn.forward_propagation(params, x, activation, loss)[last] for x in batches])


def follow(settings: train.Settings) -> tuple[nn.Params, dict[str, Curve]]:
    """Trains and measures after each epoch, with a line of it: the last parameters, and the curves."""
    activation, loss = train.functions_of(vars(settings))
    pictures = dict(zip(("training", "held-out"), train.read_pictures(settings)))
    curves: dict[str, list[tuple[float, float]]] = {name: [] for name in pictures}
    state, _ = train.start(settings)
    for state in train.run(settings, state, *pictures["training"]):
        for name, (X, Y) in pictures.items():
            Z = read(state["params"], X, activation, loss)
            curves[name].append((float(loss.value(Z, Y)), nn.get_accuracy(nn.get_predictions(Z), Y)))
        accuracies = "  ".join(f"{name} {curve[-1][1]:.2%}" for name, curve in curves.items())
        print(f"epoch {state['epoch']:3}/{settings.epochs}  {accuracies}", flush=True)
    return state["params"], dict(curves)


def draw_run(settings: train.Settings) -> dict[str, Figure]:
    """Trains, reads the test pictures and draws what came of it: the figures by name, of deformed pictures if any were.

    ValueError where the settings are not for the classes of their dataset.
    """
    classes, rng = CLASSES[settings.dataset], np.random.default_rng(settings.seed)
    if settings.layers[-1] != (K := len(classes)):
        raise ValueError(f"--layers must end with {K}, the number of classes, got {settings.layers[-1]}")
    X, Y = load(settings.dataset, "test")
    params, curves = follow(settings)
    activation, loss = train.functions_of(vars(settings))
    A = loss.output(read(params, X, activation, loss))
    rows = find_mistakes(A, Y, 9)
    figures = {
        "curves": draw_curves(curves),
        "confusion": draw_confusion(count_confusions(nn.get_predictions(A), Y, K), classes),
        "first-layer": draw_first_layer(params["W1"]),
        "mistakes": draw_mistakes(X[rows], Y[rows], A[rows], classes),
    }
    if (strengths := Strengths(**settings.augment)) != Strengths():
        originals = X[[np.argmax(Y == k) for k in range(K)]]
        draws = rng.uniform(-1, 1, (4, K, DRAWS)).astype(np.float32)
        figures["deformed"] = draw_deformed(originals, np.stack([deform(originals, d, strengths) for d in draws]))
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Returns its exit status: 0, 1 for an error, 130 for Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m demo.plots", description=__doc__, allow_abbrev=False,
                                     epilog="Every other flag is for the training: see python train.py --help.")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="where the figures go; plots/DATASET if not given")
    options, rest = parser.parse_known_args(arguments)
    settings = train.parse_settings([*rest, "--hold-out"])
    if useless := {f"--{name.replace('_', '-')}" for name in train.FREE} & {flag.partition("=")[0] for flag in rest}:
        parser.error(f"a new run is drawn, and no weights are kept: leave out {', '.join(sorted(useless))}")
    folder: Path = options.to or Path("plots") / settings.dataset
    train.keep_freed_memory()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in draw_run(settings).items():
            figure.savefig(path := folder / f"{name}.png")
            print(path)
    except OSError as error:
        where = f"{error.filename}: {error.strerror}; check that folder, or name another with --to"
        print(f"demo.plots: {where if error.filename else error}", file=sys.stderr)
        return 1
    except (ValueError, ArithmeticError, MemoryError) as error:
        print(f"demo.plots: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo.plots: stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
