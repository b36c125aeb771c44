"""Tests of the figures: what they show is what they were given, and the command shows a real run."""

import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
from matplotlib.axes import Axes
from numpy.typing import NDArray

import data.load
import nn
import train
from data.datasets import DATASETS
from data.load import Dataset, weights_name
from data.weights import load_weights
from demo import plots
from demo.robustness import as_it_is, save

Trained: TypeAlias = Callable[..., str]

WRITES = "make train writes it"
BAR = np.pad(np.full((20, 2), 255, np.uint8), [(4, 4), (13, 13)])  # of MNIST's size, in the middle


def made_up(N: int, seed: int) -> Dataset:
    """Noise, with a bright band that tells the label of nine images in ten."""
    rng = np.random.default_rng(seed)
    X, Y = rng.integers(0, 120, (N, 28, 28), np.uint8), np.arange(N) % 10
    for x, y in zip(X, np.where(rng.random(N) < 0.9, Y, (Y + 1) % 10)):
        x[2 * y : 2 * y + 4] += 130
    return X.reshape(N, -1), Y


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Trained:
    """Trains a small network of a dataset with further flags; two hundred test images, and what train.py printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data.load, "HOME", tmp_path / "data")
    monkeypatch.setattr(plots, "CONDITIONS", {"a bar": lambda x, rng: save(BAR)})
    for dataset in (*DATASETS, "own"):
        (tmp_path / "data" / dataset).mkdir(parents=True)
        for split, (X, Y) in {"train": made_up(300, seed=0), "test": made_up(200, seed=1)}.items():
            np.savetxt(tmp_path / "data" / dataset / f"{split}.csv", np.column_stack([Y, X]), "%d", ",")

    def run(dataset: str, *flags: str) -> str:
        small = ["--layers", "784", "12", "10", "--epochs", "2", "--batch-size", "20"]
        assert train.main([*small, "--dataset", dataset, *flags]) == 0
        return capsys.readouterr().out

    return run


def image(axes: Axes) -> NDArray[np.floating]:
    """The numbers that are shown as colours; NaN for those that are not."""
    shown: NDArray[np.floating] = np.ma.asarray(axes.images[0].get_array(), float).filled(np.nan)
    return shown


def test_curves_are_those_given() -> None:
    losses = {"training": {1: 2.0, 2: 1.0, 3: 0.5}, "validation": {1: 2.5, 2: 1.5, 3: 1.25}}
    accuracies = {"validation": {2: 0.25, 3: 0.5}}
    figure = plots.draw_curves(losses, accuracies)
    for axes, curves in zip(figure.axes, (losses, accuracies), strict=True):
        for line, (name, curve) in zip(axes.lines, curves.items(), strict=True):
            assert line.get_label() == name
            np.testing.assert_array_equal(line.get_xydata(), [*curve.items()])
    assert len(plots.draw_curves(losses, {"validation": {}}).axes) == 1


def test_confusions_are_counted_and_shown_in_their_places() -> None:
    rng = np.random.default_rng(0)
    Y = rng.integers(0, 5, 300)
    predictions = np.where(rng.random(300) < 0.8, Y, rng.integers(0, 5, 300))
    predictions[predictions == 4], Y[Y == 4] = 3, 2  # a class that is neither shown nor read
    expected = {(k, j): n for k in range(5) for j in range(5) if (n := sum((Y == k) & (predictions == j)))}
    axes = plots.draw_confusion(predictions, Y, list("abcde")).axes[0]
    shown = {text.get_position()[::-1]: int(text.get_text()) for text in axes.texts}
    assert shown == expected
    assert axes.get_title("left") == f"Confusion matrix: {sum(Y != predictions)} errors in 300 images"
    assert [label.get_text() for label in axes.get_xticklabels()] == list("abcde")
    assert [label.get_text() for label in axes.get_yticklabels()] == list("abcde")
    np.testing.assert_array_equal(np.isnan(image(axes)), np.eye(5, dtype=bool))  # errors alone are coloured


def test_surest_mistakes_stand_with_their_index_and_probabilities() -> None:
    rng = np.random.default_rng(0)
    P, Y = nn.softmax(rng.normal(0, 2, (100, 10))), rng.integers(0, 10, 100)
    X = rng.integers(0, 256, (100, 784), np.uint8)
    wrong = [n for n in range(100) if max(range(10), key=lambda k: float(P[n, k])) != Y[n]]
    surest = sorted(wrong, key=lambda n: -max(P[n]))
    assert len(surest) > 20
    axes = plots.draw_mistakes(X, Y, P, [f"class {k}" for k in range(10)], rows=4).axes
    assert [int(left.get_title("left")) for left in axes[::2]] == surest[:12]
    for n, left, right in zip(surest, axes[::2], axes[1::2]):
        np.testing.assert_array_equal(image(left).ravel(), X[n])
        first, second, third = sorted(range(10), key=lambda k: -P[n, k])[:3]
        shown = [first, second, third if Y[n] in (second, third) else Y[n]]
        assert [text.get_text() for text in right.texts] == [f"class {k}   {P[n, k]:.2%}" for k in shown]
        assert [text.get_fontweight() == "bold" for text in right.texts] == [k == Y[n] for k in shown]
        assert [bar.get_width() for bar in right.containers[1]] == [P[n, k] for k in shown]


def test_calibration_is_that_of_a_loop_over_the_images() -> None:
    rng = np.random.default_rng(0)
    P = nn.softmax(rng.normal(0, 2, (500, 4)))
    P[0] = [0, 1, 0, 0]  # belongs to the last bin
    Y = np.array([rng.choice(4, p=p**0.5 / (p**0.5).sum()) for p in P])
    bins: dict[int, list[tuple[float, bool]]] = {}
    for p, y in zip(P, Y):
        bins.setdefault(min(int(10 * max(p)), 9), []).append((max(p), p[y] == max(p)))
    expected = [(*np.mean(bins[k], axis=0), len(bins[k])) for k in sorted(bins)]
    error = sum(n * abs(accuracy - confidence) for confidence, accuracy, n in expected) / 500
    axes = plots.draw_calibration({"test images": (P, Y), "photos": (np.eye(4)[[0, 1]], np.array([0, 0]))}).axes[0]
    _, images, photos = axes.lines
    np.testing.assert_allclose(np.asarray(images.get_xydata()), [place for *place, _ in expected])
    np.testing.assert_allclose(np.asarray(photos.get_xydata()), [[1, 0.5]])
    assert [text.get_text() for text in axes.texts] == [*(str(n) for *_, n in expected), "2"]
    assert error > 0.05 and images.get_label() == f"test images: {error:.2%}" and photos.get_label() == "photos: 50.00%"


def test_photos_are_drawn_under_each_condition_and_the_refused_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    Y = np.arange(30)
    X = BAR.ravel() // 255 * (200 + Y[:, np.newaxis]).astype(np.uint8)  # the grey level tells the label
    monkeypatch.setattr(plots, "CONDITIONS", {"as it is": as_it_is, "blank": lambda x, rng: save(0 * x)})
    monkeypatch.setattr(plots, "PHOTOS", 10)
    photos, labels, refused = plots.read_photos(X, Y, "mnist")
    np.testing.assert_array_equal(photos, X[labels])
    assert len(set(labels)) == refused == 5


def test_first_layer_shows_the_largest_weights_first() -> None:
    W = np.random.default_rng(0).normal(0, [3, 1, 5, 2], (784, 4))
    figure = plots.draw_first_layer(W, rows=3, columns=3)
    tiles = image(figure.axes[0]).reshape(2, 30, 3, 30).swapaxes(1, 2)  # no third row
    framed = tiles.reshape(6, 30, 30)[:, 1:29, 1:29].reshape(6, 784)
    np.testing.assert_allclose(framed[:4], W.T[[2, 0, 3, 1]], rtol=1e-6)
    assert np.isnan(framed[4:]).all()
    low, high = figure.axes[0].images[0].get_clim()
    assert low == -high < 0
    small = plots.draw_first_layer(W, rows=1, columns=2)
    assert image(small.axes[0]).shape == (30, 60)


def test_mistakes_of_two_classes_and_no_mistakes_are_drawn() -> None:
    X, Y, P = np.zeros((1, 784), np.uint8), np.array([1]), np.array([[0.75, 0.25]])
    figure = plots.draw_mistakes(X, Y, P, ["a", "b"])
    assert [text.get_text() for text in figure.axes[1].texts] == ["a   75.00%", "b   25.00%"]
    assert not plots.draw_mistakes(X, Y, P[:, ::-1], ["a", "b"]).axes[1].texts


@pytest.mark.parametrize("dataset, loss", [("mnist", "cross_entropy"), ("data/own", "mean_squared_error")])
def test_saved_network_is_drawn_from_its_test_images(trained: Trained, dataset: str, loss: str) -> None:
    out = trained(dataset, "--loss", loss)
    path = Path("weights", f"{weights_name(dataset)}.pkl")
    weights, (X, Y) = load_weights(path), made_up(200, seed=1)
    errors = int((train.predict(weights["params"], "relu", X) != Y).sum())
    assert f"({errors} errors in 200)" in out and 0 < errors < 200
    os.utime(path, (0, time.mktime((2001, 2, 3, 12, 0, 0, 0, 0, -1))))
    figures = plots.draw_all(dataset, path)
    assert figures.keys() == {"confusion", "first-layer", "mistakes", "calibration"}
    assert figures["confusion"].axes[0].get_title("left") == f"Confusion matrix: {errors} errors in 200 images"
    _, sets = figures["calibration"].axes[0].get_legend_handles_labels()
    assert [name.split(":")[0] for name in sets] == ["test images", "photos (0 refused)"][: 1 + (dataset == "mnist")]
    headline = f"{1 - errors / 200:.2%} of the test set of {dataset}, 784-12-10, 2001-02-03"
    assert all(figure.get_suptitle().split("\n")[0] == headline for figure in figures.values())


def test_curves_are_of_the_last_whole_run_in_the_log(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    log, path = Path("weights/mnist.log"), Path("weights/mnist.pkl")
    before, out = trained("mnist", "--seed", "1"), trained("mnist", "--validation")
    log.write_text(before + out)
    loss, accuracy = plots.draw_all("mnist", path)["curves"].axes
    numbers = np.array(re.findall(r"epoch +(\d)/2  loss (\S+)  validation (\S+)%", out), float)
    assert len(numbers) == 2
    np.testing.assert_allclose(np.asarray(loss.lines[0].get_xydata()), numbers[:, :2])
    np.testing.assert_allclose(np.asarray(accuracy.lines[-1].get_xydata()), numbers[:, [0, 2]] * [1, 0.01])
    assert not capsys.readouterr().out
    log.write_text(out + before.replace("test accuracy", "validation accuracy 1.00% "))  # of other weights
    assert "curves" not in plots.draw_all("mnist", path) and WRITES in capsys.readouterr().out
    log.write_text(out + out.partition("\n")[0])  # a run that was stopped
    assert "curves" not in plots.draw_all("mnist", path) and WRITES in capsys.readouterr().out


def test_command_writes_small_png_files(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    Path("weights").mkdir()
    Path("weights/fashion-mnist.log").write_text(trained("fashion-mnist"))
    assert plots.main(["--dataset", "fashion-mnist"]) == 0
    names = ["confusion", "first-layer", "mistakes", "calibration", "curves"]
    paths = [Path("plots/fashion-mnist", f"{name}.png") for name in names]
    assert capsys.readouterr().out.splitlines() == [*map(str, paths)]
    for path in paths:
        assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
        assert 5_000 < path.stat().st_size < 200_000


@pytest.mark.parametrize("flags, message", [
    ("--weights none.pkl", "there are no weights at none.pkl; to make them: make train"),
    ("--weights weights/mnist.pkl --dataset fashion-mnist", "weights/mnist.pkl is for mnist: name it"),
    ("--to weights/mnist.pkl", "File exists: 'weights/mnist.pkl'"),
])  # fmt: skip
def test_errors_are_told(flags: str, message: str, trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    trained("mnist")
    assert plots.main(flags.split()) == 1
    err = capsys.readouterr().err
    assert err.startswith("demo.plots: ") and message in err and err.count("\n") == 1
