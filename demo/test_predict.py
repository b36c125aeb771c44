"""Tests of the command that reads images, with networks made by hand."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

import nn
from data.datasets import DATASETS
from data.weights import save_weights
from demo.predict import PROBABILITIES, describe, draw, load_network, main, predict


def keep(path: Path, params: nn.Params, **changes: object) -> Path:
    """Saves weights that read digits, but for the changes."""
    layers = [len(params["W1"]), *(len(b) for name, b in params.items() if name[0] == "b")]
    names = {"activation": "relu", "loss": "cross_entropy", "dataset": "mnist", "measured_on": "test"} | changes
    known = DATASETS.get(str(names["dataset"]))
    classes = list(known.classes if known else "abcdefghij")[: layers[-1]]
    save_weights(path, {"params": params, "layers": layers, "classes": classes, "accuracy": 0.5, **names})
    return path


def constant(answer: int, inputs: int = 784, outputs: int = 10) -> nn.Params:
    """One layer that answers the same whatever it sees, of ten with probability e^3 / (e^3 + 9)."""
    return {"W1": np.zeros((inputs, outputs), np.float32), "b1": 3 * np.eye(outputs, dtype=np.float32)[answer]}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with an image of a 1, and weights for digits and for clothes."""
    monkeypatch.chdir(tmp_path)
    sheet = Image.new("L", (200, 200), 255)
    ImageDraw.Draw(sheet).line((110, 30, 90, 170), fill=0, width=12)
    sheet.save("one.png")
    keep(Path("weights/mnist.pkl"), constant(1))
    keep(Path("weights/fashion-mnist.pkl"), constant(9), dataset="fashion-mnist")
    return tmp_path


def test_probabilities_are_softmax_or_sigmoids_shared_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    W, b = rng.normal(size=(784, 10)) / 28, rng.normal(size=10)
    image = rng.integers(0, 256, 784, np.uint8)
    Z = np.array([sum(int(v) / 255 * W[i, k] for i, v in enumerate(image)) + b[k] for k in range(10)])
    for loss, outputs in (("cross_entropy", np.exp(Z)), ("mean_squared_error", 1 / (1 + np.exp(-Z)))):
        weights = load_network(keep(tmp_path / "w.pkl", {"W1": W, "b1": b}, loss=loss))
        assert predict(weights, image[np.newaxis])[0] == pytest.approx(outputs / outputs.sum(), rel=1e-5)
        np.testing.assert_allclose(PROBABILITIES[loss](np.full((1, 4), -1e4, np.float32)), 0.25)  # outputs of 0


def test_image_answer_and_probabilities_are_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["one.png"]) == 0
    name, *lines = capsys.readouterr().out.splitlines()
    assert name == "one.png" and lines[28] == "1"
    assert sum("@@" in line for line in lines[:28]) >= 18 and all(len(line) <= 56 for line in lines[:28])
    assert lines[30] == "0   3.4% #" and lines[31] == f"1  69.1% {'#' * 28}"


def test_show_saves_the_stages(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["one.png", "--show"]) == 0
    assert capsys.readouterr().out.startswith("stages: one.png.stages.png\none.png\n")
    with Image.open("one.png.stages.png") as stages:
        assert stages.size == (960, 320)


def test_weights_are_found_by_name_file_and_path(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep(Path("weights/my_letters.pkl"), constant(1), dataset="my/letters")
    clothes = "Ankle boot   69.1% ####"
    told = {"--dataset fashion-mnist": clothes, "--weights weights/fashion-mnist.pkl": clothes}
    for flags, answer in {**told, "--dataset my/letters/": "\nb\n"}.items():
        assert main(["one.png", *flags.split()]) == 0
        assert answer in capsys.readouterr().out


def test_what_cannot_be_read_is_told_and_the_rest_is_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("notes.txt").write_text("no image")
    Image.new("L", (300, 300), 255).save("empty.png")
    assert main(["absent.png", "notes.txt", "empty.png", ".", "one.png"]) == 1
    out, err = capsys.readouterr()
    assert out.startswith("one.png\n")
    assert [line.split(":")[0] for line in err.splitlines()] == ["absent.png", "notes.txt", "empty.png", "."]
    assert "No such file" in err and "not an image" in err and "no ink" in err


def test_missing_and_torn_weights_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for dataset in DATASETS:
        assert main(["one.png", "--dataset", dataset]) == 1
        assert f"there are no weights at weights/{dataset}.pkl; to make them: make train" in capsys.readouterr().err
    Path("torn.pkl").write_bytes(b"\x80\x04")
    assert main(["one.png", "--weights", "torn.pkl"]) == 1
    assert "torn.pkl does not hold weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("params", "changes", "message"),
    [
        (constant(0, inputs=64), {}, r"has layers \[64, 10\]; from 784 to 10 are needed"),
        (constant(0, outputs=4), {}, r"has layers \[784, 4\]; from 784 to 10 are needed"),
        (constant(0) | {"W1": np.full((784, 10), 1e37, np.float32)}, {}, "has numbers too large to compute with"),
        (constant(0), {"activation": "step"}, "needs activation step and loss cross_entropy, which are not known here"),
        (constant(0), {"loss": "hinge"}, "needs activation relu and loss hinge, which are not known here"),
    ],
)
def test_other_weights_are_refused(params: nn.Params, changes: dict[str, object], message: str, tmp_path: Path) -> None:
    path = keep(tmp_path / "w.pkl", params, **changes)
    with pytest.raises(ValueError, match=f"{path} {message}"):
        load_network(path)


def test_weights_of_a_stranger_print_no_control_characters(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = keep(folder / "loud.pkl", constant(1), classes=[f"{k}\x1b[31m\n" for k in range(10)])
    assert main(["one.png", "--weights", str(path)]) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 1 + 28 + 2 + 10 + 1 and "\n1 [31m\n" in out and "\x1b" not in out
    assert main(["one.png", "--weights", str(keep(path, constant(1), activation="\x1b[2J\nstep"))]) == 1
    error = "needs activation  [2J step and loss cross_entropy, which are not known here\n"
    assert capsys.readouterr().err == f"predict: {path} {error}"


def test_names_of_files_print_no_control_characters(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["my photo (1) & [2]'s $x \x1b[31m.png", "bad \x1b[2J.png"]
    Path("one.png").rename(names[0])
    assert main([*names, "--show"]) == 1
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    shown = "my photo (1) & [2]'s $x  [31m.png"
    assert out.startswith(f"stages: {shown}.stages.png\n{shown}\n")
    assert err == "bad  [2J.png: No such file or directory\n"


def test_draw_has_a_line_for_each_row() -> None:
    image = np.zeros((28, 28), np.uint8)
    image[0, 0], image[27, 2] = 255, 128
    assert draw(image.ravel()).split("\n") == ["@@", *26 * [""], "    ++"]


def test_bars_are_as_long_as_their_probabilities() -> None:
    lines = describe(np.array([0.25, 0.75]), ["a", "b"]).splitlines()
    assert lines == ["b", "", f"a  25.0% {'#' * 10}", f"b  75.0% {'#' * 30}"]
