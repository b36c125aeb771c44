"""Tests of train.py, the command, on made-up images: no network, no downloaded images."""

import itertools
import math
import os
import re
import runpy
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

import data.load
import nn
import train
from data.augment import STRENGTHS, Strengths
from data.checkpoint import checkpoint_path
from data.weights import load_tree, load_weights, save_tree, save_weights

pytestmark = pytest.mark.filterwarnings("error")  # an overflow is a failure

each = pytest.mark.parametrize
Command = Callable[..., tuple[int, str, str]]
WEIGHTS, CHECKPOINT = Path("weights/mnist.pkl"), Path("weights/mnist.checkpoint.pkl")


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs train.main in an empty folder on 60 made-up images, 40 to test on: exit status, output, errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data.load, "HOME", tmp_path / "data")
    monkeypatch.setattr(data.load, "VALIDATION", 20)
    for dataset, (split, count) in itertools.product(data.load.CLASSES, (("train", 60), ("t10k", 40))):
        labels = np.arange(count, dtype=np.uint8) % 10
        pixels = np.random.default_rng(count).integers(0, 256, (count, 784), np.uint8)
        pixels[:, :10] = 255 * np.eye(10, dtype=np.uint8)[labels]  # what a label looks like
        prefix = tmp_path / "data" / dataset / split
        prefix.parent.mkdir(parents=True, exist_ok=True)
        images, numbers = struct.pack(">4I", 2051, count, 28, 28), struct.pack(">2I", 2049, count)
        prefix.with_name(f"{split}-images-idx3-ubyte").write_bytes(images + pixels.tobytes())
        prefix.with_name(f"{split}-labels-idx1-ubyte").write_bytes(numbers + labels.tobytes())

    def run(*flags: str) -> tuple[int, str, str]:
        small = "--layers 784 8 10 --batch-size 16 --epochs 3 --learning-rate 0.002"
        try:
            status: Any = train.main([*small.split(), *flags])
        except SystemExit as ended:
            status = ended.code
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def learnt(command: Command, flags: str = "") -> dict[str, bytes]:
    """The bytes of the parameters that a run with these flags ends with."""
    assert command(*flags.split())[0] == 0
    return {k: A.tobytes() for k, A in load_weights(WEIGHTS)["params"].items()}


def failed(command: Command, message: str, *flags: str) -> None:
    """The command ends with exit status 1 and one line, nothing before it."""
    status, out, err = command(*flags)
    assert (status, out) == (1, "") and err.startswith("train.py: ") and message in err and err.count("\n") == 1


def test_training_ends_with_a_line_for_scripts_and_evaluating_agrees(command: Command) -> None:
    status, out, err = command()
    *epochs, last = out.splitlines()
    assert (status, err, len(epochs)) == (0, "", 3)
    for epoch, line in enumerate(epochs, start=1):
        assert re.fullmatch(rf"epoch   {epoch}/3  loss \d\.\d{{4}}   +\d+\.\d s   +\d+ s left", line)
    found = re.fullmatch(r"test accuracy (\d+\.\d\d)% \((\d+) errors in 40\), \d+\.\d s", last)
    assert found and float(found[1]) == pytest.approx(100 - 2.5 * int(found[2])) and 0 < int(found[2]) < 40
    status, out, err = command("--evaluate")
    assert (status, out.partition(",")[0], err) == (0, last.partition(",")[0], "")
    weights = load_weights(WEIGHTS)
    assert weights["accuracy"] == pytest.approx(float(found[1]) / 100) and weights["params"]["W1"].dtype == np.float32
    assert (weights["measured_on"], weights["classes"]) == ("test", list("0123456789"))
    assert command("--evaluate", "--min-accuracy", f"{float(found[1]) / 100}")[0] == 0
    status, out, err = command("--evaluate", "--min-accuracy", "0.999")
    assert status == 1 and last.partition(",")[0] in out and "below --min-accuracy 0.999" in err


def test_the_validation_set_is_the_last_of_the_training_images(command: Command) -> None:
    status, out, err = command("--validation")
    assert (status, err, len(re.findall(r"  validation \d+\.\d\d%  ", out))) == (0, "", 3)
    assert re.fullmatch(r"validation accuracy \d+\.\d\d% \(\d+ errors in 20\), \d+\.\d s", out.splitlines()[-1])
    validated = load_weights(WEIGHTS)
    assert validated["measured_on"] == "validation"
    assert learnt(command, "--samples 40") == {k: A.tobytes() for k, A in validated["params"].items()}


def textbook(X: Any, labels: Any, rate: float, decay: float, smoothing: float) -> dict[str, Any]:
    """What seed 0 leads to in 3 epochs of batches of 16: cross-entropy, relu, Adam and a cosine schedule in float64."""
    rng = np.random.default_rng(0)
    shapes = {"W1": (784, 8), "W2": (8, 10)}
    theta = {k: rng.normal(0, math.sqrt(2 / shape[0]), shape) for k, shape in shapes.items()}
    theta |= {"b1": np.zeros(8), "b2": np.zeros(10)}
    m, v = ({k: np.zeros_like(A) for k, A in theta.items()} for _ in range(2))
    targets = (1 - smoothing) * np.eye(10)[labels] + smoothing / 10
    step = 0
    for epoch in (1, 2, 3):
        order = np.random.default_rng([0, epoch]).permutation(60)
        for rows in (order[:16], order[16:32], order[32:48], order[48:]):
            x, t = X[rows] / 255, targets[rows]
            z = x @ theta["W1"] + theta["b1"]
            a = z * (z > 0)
            p = np.exp(a @ theta["W2"] + theta["b2"])
            e = (p / p.sum(axis=1, keepdims=True) - t) / len(rows)
            d = e @ theta["W2"].T * (z > 0)
            g = {"W1": x.T @ d, "b1": d.sum(axis=0), "W2": a.T @ e, "b2": e.sum(axis=0)}
            now = rate * (1 + math.cos(math.pi * step / 12)) / 2
            step += 1
            for k in theta:
                m[k], v[k] = 0.9 * m[k] + 0.1 * g[k], 0.999 * v[k] + 0.001 * g[k] ** 2
                update = m[k] / (1 - 0.9**step) / (np.sqrt(v[k] / (1 - 0.999**step)) + 1e-8)
                theta[k] = theta[k] - now * (update + decay * theta[k])
    return theta


def test_a_run_is_the_loop_of_the_textbook(command: Command) -> None:
    assert command(*"--augment none --weight-decay 0.5 --label-smoothing 0.2".split())[0] == 0
    params, ((X, Y), _) = load_weights(WEIGHTS)["params"], data.load.load_sets("mnist")
    for k, A in textbook(X, Y, 0.002, 0.5, 0.2).items():
        np.testing.assert_allclose(params[k], A, rtol=1e-4, atol=1e-5, err_msg=k)


def test_what_is_learnt_follows_from_the_hyperparameters(command: Command) -> None:
    first = learnt(command)
    assert learnt(command) == first
    for flags in ("--seed 1", "--weight-decay 0.1", "--label-smoothing 0.1", "--schedule constant"):
        assert learnt(command, flags) != first, flags


def test_a_batch_larger_than_the_training_set_is_all_of_it(command: Command) -> None:
    assert learnt(command, "--batch-size 61") == learnt(command, "--batch-size 60")


@each("flags", ["--optimizer adam", "--optimizer momentum --schedule constant", "--batch-size 0", "--augment none"])
def test_a_run_interrupted_and_resumed_is_the_run_uninterrupted(
    command: Command, monkeypatch: pytest.MonkeyPatch, flags: str
) -> None:
    command(*flags.split(), "--weights", "whole.pkl")
    calls, update = itertools.count(1), nn.update_params

    def interrupted(*arguments: Any) -> nn.Params:
        if next(calls) == (2 if "0" in flags else 6):  # in the second epoch
            train.stop(signal.SIGCHLD, None)
        return update(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(nn, "update_params", interrupted)
        status, out, err = command(*flags.split())
    assert (status, out.count("epoch")) == (128 + signal.SIGCHLD, 1)
    assert "with --resume goes on" in err and err.count("\n") == 1
    assert not WEIGHTS.exists()
    status, out, err = command(*flags.split(), "--resume")
    assert (status, out.count("epoch"), err) == (0, 2, "")
    assert WEIGHTS.read_bytes() == Path("whole.pkl").read_bytes()
    assert command(*flags.split(), "--resume")[1].count("epoch") == 0, "nothing is left to do"


def test_a_run_at_a_constant_rate_can_be_made_longer(command: Command) -> None:
    constant = "--schedule", "constant", "--epochs"
    command(*constant, "8", "--weights", "whole.pkl")
    command(*constant, "6")
    status, out, _ = command(*constant, "8", "--resume")
    assert (status, out.count("epoch")) == (0, 2)
    assert WEIGHTS.read_bytes() == Path("whole.pkl").read_bytes()
    failed(command, f"{CHECKPOINT} has 8 epochs behind it, more than --epochs 7", *constant, "7", "--resume")


@each("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_and_a_second_one_the_process(
    command: Command, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    before = signal.signal(number, train.stop)
    monkeypatch.setattr(nn, "update_params", lambda *arguments: signal.raise_signal(number))
    try:
        assert command() == (128 + number, "", "train.py: stopped; no epoch was done\n")
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_a_signal_during_the_imports_ends_the_process_without_a_word(tmp_path: Path) -> None:
    (tmp_path / "numpy.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, train.__file__], env=environment, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")


def test_the_script_takes_both_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = signal.SIGINT, signal.SIGTERM
    before = [signal.getsignal(number) for number in numbers]
    monkeypatch.setattr(sys, "argv", ["train.py", "--samples", "-1"])
    try:
        with pytest.raises(SystemExit):
            runpy.run_path(train.__file__, run_name="__main__")
        for number in numbers:
            with pytest.raises(SystemExit) as caught:
                signal.raise_signal(number)
            assert caught.value.code == 128 + number
    finally:
        for number, handler in zip(numbers, before):
            signal.signal(number, handler)


def test_weights_side_by_side_have_checkpoints_of_their_own() -> None:
    for weights, checkpoint in ("a/b.pkl", "a/b.checkpoint.pkl"), ("rate0.1", "rate0.1.checkpoint.pkl"):
        assert checkpoint_path(train.parse_config(["--weights", weights]).weights) == Path(checkpoint)


def test_augmentation_is_by_the_strengths_of_the_dataset_or_by_others(command: Command) -> None:
    own, results = STRENGTHS["mnist"], []
    changes = {"none": Strengths(), "by dataset": own, "shift=1,flip=1": own._replace(shift=1, flip=1)}
    for flag, strengths in changes.items():
        assert command("--augment", flag)[0] == 0
        assert load_tree(WEIGHTS)["augment"] == strengths._asdict()
        results.append(load_weights(WEIGHTS)["params"]["W1"].tobytes())
    assert len(set(results)) == 3
    failed(command, "is of a run with augment {", "--resume", "--augment", "rotation=6")
    command()
    assert command("--resume", "--augment", f"rotation={own.rotation}")[0] == 0, "the same strength, said aloud"


@each(("flags", "message"), [
    ("--samples 61", "there are 60 training samples, fewer than the 61 asked for"),
    ("--samples 41 --validation", "there are 40 training samples, fewer than the 41 asked for"),
    ("--resume", f"there is nothing to resume: {CHECKPOINT} does not exist"),
    ("--evaluate", f"there are no weights at {WEIGHTS}"),
    ("--layers 784 400000000000 10", "Unable to allocate"),
    ("--weights data/mnist/t10k-labels-idx1-ubyte/w.pkl", "cannot write data/mnist/t10k-labels-idx1-ubyte/w."),
    ("--evaluate --weights data/mnist/t10k-labels-idx1-ubyte", "t10k-labels-idx1-ubyte does not hold weights"),
])  # fmt: skip
def test_an_error_is_one_line_and_exit_status_1(command: Command, flags: str, message: str) -> None:
    failed(command, message, *flags.split())
    assert not list(Path().glob("**/*.pkl"))


@each(("flags", "message"), [
    ("--activation swish", "invalid choice: 'swish'"), ("--dataset cifar", "invalid choice: 'cifar'"),
    ("--loss hinge", "invalid choice"), ("--optimizer lion", "invalid choice"), ("--faster", "--faster"),
    ("--layers a", "'a'"), ("--layers 784", "the 10 classes of mnist, got [784]"),
    ("--layers 784 0 10", "--layers must lie in 1..1e+30, got [784, 0, 10]"),
    ("--layers 700 10", "--layers must go from 784 pixels"), ("--layers 784 5", "to the 10 classes of mnist"),
    ("--epochs 0", "--epochs must lie in 1..1e+30, got 0"), ("--epochs -1", "got -1"), ("--seed 1.5", "'1.5'"),
    (f"--epochs {-(10**20)}", "--epochs must lie in 1..1e+30"), ("--batch-size -1", "--batch-size must lie in 0.."),
    ("--samples -1", "--samples must lie in 0.."), ("--seed -1", "--seed must lie in 0.."),
    ("--learning-rate 0", "--learning-rate must lie in 1e-30..1e+30, got 0"), ("--learning-rate nan", "got nan"),
    ("--learning-rate inf", "got inf"), ("--min-accuracy high", "'high'"),
    ("--min-accuracy 98", "--min-accuracy must lie in 0..1, got 98"),
    ("--label-smoothing 1.5", "--label-smoothing must lie in 0..1"), ("--weight-decay -1", "--weight-decay must lie"),
    ("--augment rotation", "'rotation'"), ("--augment shift=-1", "got 'shift=-1'"),
    ("--augment twist=1", "must give numbers of 0 or more to some of rotation, scale"),
    ("--weights data", "--weights must name a file, and data is a folder"),
])  # fmt: skip
def test_wrong_usage_is_exit_status_2(command: Command, flags: str, message: str) -> None:
    status, out, err = command(*flags.split())
    assert (status, out) == (2, "") and message in err


def test_missing_images_are_named_with_what_to_do(command: Command) -> None:
    Path("data/mnist/train-labels-idx1-ubyte").unlink()
    failed(command, "train-labels-idx1-ubyte'; to put it right: make data DATASET=mnist")


def test_resume_names_the_flag_that_differs(command: Command) -> None:
    command()
    for flags, was in (
        ("--seed 7", "seed 0, not 7"),
        ("--epochs 8", "epochs 3, not 8, and the cosine schedule was laid out for those"),
        ("--validation", "validation False, not True"),
        ("--init small", "init he, not small"),
        ("--layers 784 9 10", "layers [784, 8, 10], not [784, 9, 10]"),
        ("--optimizer sgd", "optimizer adam, not sgd"),
    ):
        failed(command, f"{CHECKPOINT} is of a run with {was}; resume with its flags", "--resume", *flags.split())


def test_resume_refuses_a_checkpoint_without_a_whole_state(command: Command) -> None:
    command()
    checkpoint = load_tree(CHECKPOINT)
    state = cast(dict[str, object], checkpoint["state"])
    changes: list[dict[str, object]] = [{"moments": {}}, {"params": {}}, {"step": 1.5}, {"loss": 1}, {"more": 0}]
    damages: list[dict[str, object]] = [{"seconds": "1"}, {"state": None}, {"epoch": None}]
    damages += ({"state": state | change} for change in changes)
    for damage in damages:
        save_tree(CHECKPOINT, checkpoint | damage)
        failed(command, f"{CHECKPOINT} does not hold the state of such a run", "--resume")
    for config in {}, None, cast(dict[str, object], checkpoint["config"]) | {"dataset": None}:
        save_tree(CHECKPOINT, checkpoint | {"config": config})
        failed(command, f"{CHECKPOINT} is of a run with dataset None, not mnist", "--resume")
    save_tree(CHECKPOINT, checkpoint | {"epoch": -1})
    failed(command, f"{CHECKPOINT} has -1 epochs behind it", "--resume")


def test_weights_of_something_else_are_not_scored(command: Command) -> None:
    command()
    flags = "--evaluate", "--dataset", "fashion-mnist", "--weights", str(WEIGHTS)
    failed(command, f"{WEIGHTS} is for mnist, relu; name its --dataset", *flags)
    weights = load_weights(WEIGHTS)
    save_weights(WEIGHTS, {**weights, "activation": "swish"})
    failed(command, f"{WEIGHTS} is for mnist, swish", "--evaluate")
    save_weights(WEIGHTS, {**weights, "dataset": 200 * "\x1b[2J\n"})  # would wipe the terminal
    assert re.fullmatch(r"train.py: [\x20-\x7e]{600,1000}\n", command("--evaluate")[2])


@each(("flags", "lower"), [
    ("--optimizer sgd --learning-rate 1e30", "1e+29"),
    ("--layers 784 8 8 8 10 --learning-rate 1e10", "1e+09"),
])  # fmt: skip
def test_a_run_that_diverges_stops_with_its_place(command: Command, flags: str, lower: str) -> None:
    status, out, err = command(*flags.split())
    assert (status, out) == (1, "") and not WEIGHTS.exists() and err.count("\n") == 1
    expected = r"the loss is \S+ and training diverges at epoch 1, step [1-4]; try --learning-rate "
    assert re.search(expected + re.escape(lower), err)
