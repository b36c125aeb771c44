"""Tests of the figures: what they show is what they were given, and the command shows a real run."""

from pathlib import Path
from typing import cast

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

import data.load
import nn
import train
from data.datasets import DATASETS
from data.load import Dataset
from demo import plots

FLAGS = ["--layers", "784", "12", "10", "--epochs", "2", "--batch-size", "20"]


def made_up(N: int, seed: int) -> Dataset:
    """Noise, with a bright band that tells the label of nine images in ten."""
    rng = np.random.default_rng(seed)
    X, Y = rng.integers(0, 120, (N, 28, 28), np.uint8), np.arange(N) % 10
    for x, y in zip(X, np.where(rng.random(N) < 0.9, Y, (Y + 1) % 10)):
        x[2 * y : 2 * y + 4] += 130
    return X.reshape(N, -1), Y


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Dataset]:
    """Three hundred images to train on, the last fifty of them for validation, and two hundred to test on."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data.load, "HOME", tmp_path / "data")
    sets = {"train": made_up(300, seed=0), "test": made_up(200, seed=1)}
    for dataset in (*DATASETS, "own"):
        (tmp_path / "data" / dataset).mkdir(parents=True)
        for split, (X, Y) in sets.items():
            path = tmp_path / "data" / dataset / f"{split}.csv"
            np.savetxt(path, np.column_stack([Y, X]), "%d", ",")
    return sets


def image(axes: Axes) -> NDArray[np.floating]:
    """The numbers that are shown as colours; NaN for those that are not."""
    shown: NDArray[np.floating] = np.ma.asarray(axes.images[0].get_array(), float).filled(np.nan)
    return shown


def tile(figure: Figure, row: int, column: int) -> NDArray[np.floating]:
    """An image (784,) of a gallery, cut out of its one image."""
    return image(figure.axes[0])[30 * row + 1 : 30 * row + 29, 30 * column + 1 : 30 * column + 29].reshape(784)


def test_curves_are_those_given() -> None:
    training, validation = [(2.0, 0.5), (1.0, 0.75), (0.5, 0.875)], [(2.5, 0.25), (1.5, 0.5), (1.25, 0.625)]
    curves = {"training": training, "validation": validation}
    for i, axes in enumerate(plots.draw_curves(curves).axes):
        for line, (name, curve) in zip(axes.lines, curves.items(), strict=True):
            assert line.get_label() == name
            np.testing.assert_array_equal(line.get_xdata(), [1, 2, 3])
            np.testing.assert_array_equal(line.get_ydata(), [point[i] for point in curve])


def test_confusions_are_counted_and_shown_in_their_places() -> None:
    rng = np.random.default_rng(0)
    Y = rng.integers(0, 5, 300)
    predictions = np.where(rng.random(300) < 0.8, Y, rng.integers(0, 5, 300))
    predictions[predictions == 4], Y[Y == 4] = 3, 2  # a class that is neither shown nor read
    expected = {(k, j): n for k in range(5) for j in range(5) if (n := sum((Y == k) & (predictions == j)))}
    axes = plots.draw_confusion(plots.count_confusions(predictions, Y, 5), list("abcde")).axes[0]
    shown = {text.get_position()[::-1]: int(text.get_text()) for text in axes.texts}
    assert shown == expected
    assert axes.get_title("left") == f"Confusion matrix: {sum(Y != predictions)} errors in 300 images"
    assert [label.get_text() for label in axes.get_xticklabels()] == list("abcde")
    assert [label.get_text() for label in axes.get_yticklabels()] == list("abcde")
    np.testing.assert_array_equal(np.isnan(image(axes)), np.eye(5, dtype=bool))  # errors alone are coloured


def test_mistakes_are_sorted_by_how_sure_they_are() -> None:
    rng = np.random.default_rng(0)
    P, Y = nn.softmax(rng.normal(0, 2, (100, 10))), rng.integers(0, 10, 100)
    wrong = [n for n in range(100) if max(range(10), key=lambda k: float(P[n, k])) != Y[n]]
    assert 20 < len(wrong) < 100
    assert plots.find_mistakes(P, Y, 20).tolist() == sorted(wrong, key=lambda n: -max(P[n]))[:20]
    assert len(plots.find_mistakes(P, Y, 1000)) == len(wrong)


def test_each_mistake_stands_beside_its_probabilities() -> None:
    P = np.array([[0.7, 0.2, 0.07, 0.03], [0.0625, 0.125, 0.3125, 0.5], [0.25, 0.5, 0.125, 0.125]])
    Y, X = np.array([1, 0, 0]), np.arange(3 * 784, dtype=np.uint8).reshape(3, 784)
    axes = plots.draw_mistakes(X, Y, P, ("a", "b", "c", "d"), columns=2).axes
    assert len(axes) == 8  # two rows of two, each an image and its bars; the last is empty
    texts = ["; ".join(text.get_text() for text in right.texts) for right in axes[1::2]]
    assert texts[:2] == ["a   70.00%; b   20.00%; c   7.00%", "d   50.00%; c   31.25%; a   6.25%"]
    assert texts[2:] == ["b   50.00%; a   25.00%; c   12.50%", ""]
    bold = [text.get_text()[0] for right in axes[1::2] for text in right.texts if text.get_fontweight() == "bold"]
    assert bold == ["b", "a", "a"]  # what they are
    widths = [[bar.get_width() for bar in right.containers[1]] for right in axes[1:6:2]]
    assert widths == [[0.7, 0.2, 0.07], [0.5, 0.3125, 0.0625], [0.5, 0.25, 0.125]]
    for left, x in zip(axes[:6:2], X):
        np.testing.assert_array_equal(image(left).ravel(), x)


def test_first_layer_shows_the_largest_weights_first() -> None:
    W = np.random.default_rng(0).normal(0, [3, 1, 5, 2], (784, 4))
    figure = plots.draw_first_layer(W, rows=3, columns=3)
    for place, unit in enumerate([2, 0, 3, 1]):
        np.testing.assert_allclose(tile(figure, *divmod(place, 3)), W[:, unit], rtol=1e-6)
    assert np.isnan(tile(figure, 1, 1)).all()
    assert image(figure.axes[0]).shape == (60, 90)  # no third row
    low, high = figure.axes[0].images[0].get_clim()
    assert low == -high < 0
    small = plots.draw_first_layer(W, rows=1, columns=2)
    assert image(small.axes[0]).shape == (30, 60)


def test_augmented_images_stand_below_their_originals() -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 784), np.uint8)
    figure = plots.draw_augmentation(images[0], images[1:])
    for row in range(4):
        for column in range(3):
            np.testing.assert_array_equal(tile(figure, row, column), images[row, column])


def test_mistakes_of_two_classes_and_no_mistakes_are_drawn() -> None:
    X, Y = np.zeros((1, 784), np.uint8), np.array([1])
    figure = plots.draw_mistakes(X, Y, np.array([[0.75, 0.25]]), ["a", "b"])
    assert [text.get_text() for text in figure.axes[1].texts] == ["a   75.00%", "b   25.00%"]
    assert not plots.draw_mistakes(X[:0], Y[:0], np.empty((0, 2)), ["a", "b"]).axes[1].texts


@pytest.mark.parametrize("loss", nn.LOSSES)
def test_curves_are_of_the_run_that_train_makes(few: dict[str, Dataset], loss: str) -> None:
    config = train.parse_config([*FLAGS, "--loss", loss, "--activation", "sigmoid", "--label-smoothing", "0.1"])
    _, params, curves = plots.follow(config)
    (X, Y), (_, begun) = few["train"], train.start(config)
    sets, state = {"training": (X[:250], Y[:250]), "validation": (X[250:], Y[250:])}, cast(nn.State, begun["state"])
    for epoch in (1, 2):
        state = train.train_epoch(config, sets["training"], state, epoch)
        for name, (x, y) in sets.items():
            value, accuracy = curves[name][epoch - 1]
            Z = nn.forward_propagation(state["params"], x / 255, nn.ACTIVATIONS["sigmoid"])["Z2"]
            expected, _ = nn.LOSSES[loss](Z, 0.9 * np.eye(10)[y] + 0.01)
            assert value == pytest.approx(expected, rel=1e-5)
            assert accuracy == nn.get_accuracy(train.predict(state["params"], "sigmoid", x), y)
    assert len(curves["training"]) == len(curves["validation"]) == 2
    for k in params:
        np.testing.assert_array_equal(params[k], state["params"][k])


def test_run_is_drawn_from_the_test_images(few: dict[str, Dataset]) -> None:
    config = train.parse_config(FLAGS)
    X, Y = few["test"]
    accuracy = nn.get_accuracy(train.predict(plots.follow(config)[1], config.activation, X), Y)
    errors, figures = round(200 * (1 - accuracy)), plots.draw_run(config)
    assert 0 < errors < 200
    assert figures["confusion"].axes[0].get_title("left") == f"Confusion matrix: {errors} errors in 200 images"
    for k in range(10):  # the first of each class
        np.testing.assert_array_equal(tile(figures["augmentation"], 0, k), few["test"][0][k])
        assert all((tile(figures["augmentation"], row, k) != few["test"][0][k]).any() for row in range(1, 5))


@pytest.mark.parametrize("dataset", [*DATASETS, "data/own"])
def test_command_writes_small_png_files(
    few: dict[str, Dataset], dataset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plots.follow(train.parse_config([*FLAGS, "--dataset", dataset]))
    lines = capsys.readouterr().out.splitlines()
    assert plots.main([*FLAGS, "--dataset", dataset]) == 0
    names = ["curves", "confusion", "first-layer", "mistakes", "augmentation"]
    paths = [
        Path("plots", dataset.replace("/", "_"), f"{name}.png") for name in names[: 5 if dataset == "mnist" else 4]
    ]  # not clothes
    assert capsys.readouterr().out.splitlines() == [*lines, *map(str, paths)]
    for path in paths:
        assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
        assert 5_000 < path.stat().st_size < 200_000  # noise is hard to pack


NO_FOLDER = "file: File exists; check that folder, or name another with --to"


@pytest.mark.parametrize("flags, message", [([], "make data DATASET=mnist"), (["--to", "file"], NO_FOLDER)])
def test_errors_are_told(
    flags: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("data.load.HOME", tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    assert plots.main(flags) == 1
    out, err = capsys.readouterr()
    assert not out and err.startswith("demo.plots: ") and err.endswith(f"{message}\n") and err.count("\n") == 1


@pytest.mark.parametrize("flag", ["--evaluate", "--resume", "--weights=mine.pkl", "--min-accuracy=0.9"])
def test_flags_that_fit_no_whole_run_are_refused(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        plots.main([flag])
    name = flag.partition("=")[0]
    message = f"no weights are kept: leave out {name}\n"
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_ctrl_c_stops_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(config: train.Config) -> dict[str, Figure]:
        raise KeyboardInterrupt

    monkeypatch.setattr(plots, "draw_run", interrupt)
    assert plots.main(["--to", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "demo.plots: stopped\n"
