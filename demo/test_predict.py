"""Tests of the command that reads pictures, with networks made by hand."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

import nn
from data.load import CLASSES
from demo.predict import describe, draw, load_network, main, predict


def keep(path: Path, dataset: str, answer: int, inputs: int = 784) -> Path:
    """Weights of one layer that answer the same whatever they see, with probability e^3 / (e^3 + 9)."""
    bias = np.zeros(10, np.float32)
    bias[answer] = 3
    params: nn.Params = {"W1": np.zeros((inputs, 10), np.float32), "b1": bias}
    about: dict[str, object] = {"dataset": dataset, "layers": [inputs, 10], "activation": "relu",
                                "loss": "cross_entropy", "classes": list(CLASSES.get(dataset, "0123456789"))}
    nn.save_params(path, params, about)
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a picture of a 1, and weights for digits and for clothes."""
    monkeypatch.chdir(tmp_path)
    sheet = Image.new("L", (200, 200), 255)
    ImageDraw.Draw(sheet).line((110, 30, 90, 170), fill=0, width=12)
    sheet.save("one.png")
    Path("weights").mkdir()
    keep(Path("weights/mnist.pkl"), "mnist", 1)
    keep(Path("weights/fashion-mnist.pkl"), "fashion-mnist", 9)
    return tmp_path


def test_predict_gives_the_softmax_of_the_last_layer() -> None:
    rng = np.random.default_rng(0)
    W, b = rng.normal(size=(784, 10)) / 28, rng.normal(size=10)
    picture = rng.integers(0, 256, 784, np.uint8)
    Z = [sum(int(v) / 255 * W[i, k] for i, v in enumerate(picture)) + b[k] for k in range(10)]
    about = {"activation": "relu", "loss": "cross_entropy"}
    assert predict({"W1": W, "b1": b}, about, picture) == pytest.approx(np.exp(Z) / np.exp(Z).sum(), rel=1e-5)


def test_picture_answer_and_probabilities_are_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["one.png"]) == 0
    name, *lines = capsys.readouterr().out.splitlines()
    assert name == "one.png" and lines[28] == "1"
    assert sum("@@" in line for line in lines[:28]) >= 18 and all(len(line) <= 56 for line in lines[:28])
    assert lines[30] == "0   3.4% #" and lines[31] == f"1  69.1% {'#' * 28}"


def test_clothes_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["one.png", "--dataset", "fashion-mnist"]) == 0
    assert "Ankle boot   69.1% ####" in capsys.readouterr().out
    assert main(["one.png", "--weights", "weights/fashion-mnist.pkl"]) == 0
    assert "Ankle boot   69.1% ####" in capsys.readouterr().out


def test_what_cannot_be_read_is_told_and_the_rest_is_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("notes.txt").write_text("no picture")
    Image.new("L", (300, 300), 255).save("empty.png")
    assert main(["absent.png", "notes.txt", "empty.png", ".", "one.png"]) == 1
    out, err = capsys.readouterr()
    assert out.startswith("one.png\n")
    assert [line.split(":")[0] for line in err.splitlines()] == ["absent.png", "notes.txt", "empty.png", "."]
    assert "No such file" in err and "not a picture" in err and "no ink" in err


def test_without_weights_make_train_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for dataset in CLASSES:
        assert main(["one.png", "--dataset", dataset]) == 1
        assert f"there are no weights at weights/{dataset}.pkl; to make them: make train" in capsys.readouterr().err


def test_weights_of_something_else_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (keep(folder / "letters.pkl", "letters", 0), keep(folder / "small.pkl", "mnist", 0, inputs=64)):
        with pytest.raises(ValueError, match=f"{path.name} reads"):
            load_network(path)
    Path("torn.pkl").write_bytes(b"\x80\x04")
    assert main(["one.png", "--weights", "torn.pkl"]) == 1
    assert "torn.pkl does not hold weights" in capsys.readouterr().err


def test_draw_has_a_line_for_each_row() -> None:
    picture = np.zeros((28, 28), np.uint8)
    picture[0, 0], picture[27, 2] = 255, 128
    assert draw(picture.ravel()).split("\n") == ["@@", *26 * [""], "    ++"]


def test_bars_stay_within_their_length() -> None:
    """Without softmax the outputs are no probabilities."""
    assert describe(np.array([-0.5, 1.5]), ["a", "b"]).splitlines() == ["b", "", "a -50.0%", f"b 150.0% {'#' * 40}"]
