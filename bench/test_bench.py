"""Tests of the comparisons with other frameworks, which need none of them; those that are installed are run as well."""

import math
import subprocess
from pathlib import Path

import numpy as np
import pytest

import nn
from bench import compare, frameworks, scaling
from bench.compare import BOUND, OTHER, Measured, Row
from bench.faults import idx
from bench.frameworks import Images, Labels, Work


def made_up(N: int) -> tuple[Images, Labels]:
    """Images that are noise but for the bright rows that tell their label."""
    rng = np.random.default_rng(0)
    X, Y = rng.integers(0, 100, (N, 28, 28), np.uint8), np.arange(N) % 10
    for k in range(10):
        X[Y == k, 2 * k : 2 * k + 4] += 150
    return X.reshape(N, -1), Y


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with 203 such images to train on and 50 to test on, in the four files of MNIST."""
    for prefix, N in (("train", 203), ("t10k", 50)):
        X, Y = made_up(N)
        (tmp_path / f"{prefix}-images-idx3-ubyte").write_bytes(idx(X.reshape(N, 28, 28)))
        (tmp_path / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(Y.astype(np.uint8)))
    return tmp_path


@pytest.mark.parametrize("loss", nn.LOSSES)
@pytest.mark.parametrize("activation", nn.ACTIVATIONS)
def test_gradients_are_those_of_pytorch(activation: str, loss: str) -> None:
    torch = pytest.importorskip("torch")
    work, rng = Work((5, 4, 6, 3), "sgd", 7, 0.1, 7, activation, loss), np.random.default_rng(0)
    start = nn.init_params(work.layers, nn.INITS["he"], rng)
    params: nn.Params = {k: A + rng.normal(0, 0.1, A.shape) for k, A in start.items()}
    X, T = rng.normal(0, 1, (7, 5)), nn.one_hot(rng.integers(0, 3, 7), 3, 0.1, np.float64)
    value, grads = nn.loss_and_gradients(params, X, T, nn.ACTIVATIONS[activation], nn.LOSSES[loss])
    theirs, forward, loss_of = frameworks.torch_network(work, params)
    result = loss_of(forward(torch.from_numpy(X)), torch.from_numpy(T))
    result.backward()
    assert params["W1"].dtype == np.float64 and value == pytest.approx(result.item(), rel=1e-12)
    for k, tensor in zip(params, theirs):
        G = tensor.grad.numpy().T
        np.testing.assert_allclose(grads[k], G, rtol=1e-12, atol=1e-12 * np.abs(G).max(), err_msg=k)


def test_products_are_those_of_forward_and_backward_propagation() -> None:
    steps = frameworks.products((5, 4, 3), 7)
    shapes = [(left.shape, right.shape) for left, right, _ in steps]
    assert shapes == [((7, 5), (5, 4)), ((7, 4), (4, 3)), ((4, 7), (7, 3)), ((7, 3), (3, 4)), ((5, 7), (7, 4))]
    expected = [left @ right for left, right, _ in frameworks.products((5, 4, 3), 7)]
    assert sum(2 * left.size * right.shape[1] for left, right, _ in steps) == 7 * frameworks.flops((5, 4, 3))
    frameworks.multiply(steps)
    assert len({id(out) for _, _, out in steps}) == len(steps)
    assert all(out.dtype == np.float32 for _, _, out in steps)
    np.testing.assert_allclose(steps[0][2], expected[0], rtol=1e-5)
    np.testing.assert_array_equal(steps[1][0], steps[0][2])  # what comes out of a layer goes into the next
    np.testing.assert_array_equal(steps[4][1], steps[3][2])


def test_the_lower_bound_takes_every_sample_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    monkeypatch.setattr(frameworks, "multiply", lambda steps: rows.extend(len(steps[0][0]) for _ in steps[:1]))
    trainer = frameworks.lower_bound(Work((784, 3, 10), "sgd", 4, 0.1), *made_up(10))
    trainer.epoch()
    trainer.predict(np.ones((6, 784), np.float32))
    assert rows == [4, 4, 2, 6]


def test_prediction_is_timed(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(frameworks, "REPEATING", 0.01)
    work, (X, Y), read = Work((784, 8, 10), "sgd", 16, 0.1), made_up(20), []
    trainer = frameworks.ours(work, X, Y)
    trainer = trainer._replace(predict=lambda A: read.append(len(A)))
    answer = frameworks.answer("predict 3", trainer, X, Y, folder)
    assert 0 < answer["seconds"] < 0.1 and answer["peak"] > 1
    assert len(read) > 2 and set(read) == {3}


def test_frameworks_that_are_not_installed_are_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {"ours": ("numpy", frameworks.ours), "Abacus": ("no-such-package", frameworks.lower_bound)}
    monkeypatch.setattr(compare, "FRAMEWORKS", table)
    assert compare.installed() == {"ours": f"numpy {np.__version__}"}
    assert compare.describe_machine().endswith(f"numpy {np.__version__}. Not installed, so left out: Abacus.")


def test_threads_are_the_users_if_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    assert int(compare.threads()) >= 1
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    assert compare.threads() == "3"
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert compare.threads() == "2"


def test_lines_of_tables() -> None:
    assert compare.line("a", 0.12345, 12.345, 1234.4, math.nan) == "| a | 0.123 | 12.3 | 1234 | – |"
    assert compare.header("a", "b") == "\n| a | b |\n| --- | --- |"
    goals = {"unit": 3, BOUND: 1.5, "PyTorch": 2, OTHER: 1.4, "JAX": 1}
    row = Row(Work((784, 10), "sgd", 1, 0.1), goals)
    values = {"ours": 2.0, BOUND: 1.0, "PyTorch": 4.0, "scikit-learn": 3.0}
    table = {name: Measured(value, 100, 0.9, 0.8) for name, value in values.items()}
    assert compare.time_line("a", row, table, [*values, "JAX"]) == "| a | s an epoch | 2 | 1 | 4 | 3 | – | 1.5 | 2 |"
    assert compare.learnt_line("a", table, ["ours", "JAX"]) == "| a | 90.0 / 80.0, 100 | – |"
    assert list(compare.goal_lines("a", row, table)) == [
        "| a | at most 3 s an epoch | 2 | met |",
        "| a | at most 1.5 × the matmul bound | 2 | **missed** |",
        "| a | at least 2 × as fast as PyTorch | 2 | met |",
        "| a | at least 1.4 × as fast as the fastest other | 1.5 | met |",
    ]
    alone = {name: table[name] for name in ("ours", BOUND)}
    assert [text.split(" | ")[1] for text in compare.goal_lines("a", row, alone)] == [
        "at most 3 s an epoch",
        "at most 1.5 × the matmul bound",
    ]


def test_work_is_the_same_if_it_is_learnt_as_well() -> None:
    table = {"ours": Measured(1, 1, 0.9, 0.8), BOUND: Measured(1, 1, math.nan, math.nan)}
    assert compare.alike(table | {"JAX": Measured(1, 1, 0.9, 0.8 - compare.SAME / 2)})
    assert not compare.alike(table | {"JAX": Measured(1, 1, 0.9, 0.8 - compare.SAME * 2)})
    assert not compare.alike(table | {"JAX": Measured(1, 1, math.nan, math.nan)})


def test_quick_rows_keep_full_batches_full() -> None:
    for row in map(compare.shrink, compare.ROWS.values()):
        assert row.work.samples <= compare.QUICK and row.work.batch <= row.work.samples


def test_rows_are_measured_and_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {
        "ragged": Row(Work((784, 16, 10), "adam", 32, 0.01, 203), {BOUND: 1e9}, "train 5"),
        "squared": Row(
            Work((784, 16, 10), "sgd", 10, 1.0, 200, "sigmoid", "mean_squared_error"), {}, "train 20", "µs a step"
        ),
        "full": Row(Work((784, 16, 10), "sgd", 203, 0.5, 203), {"unit": 1e-9}, "train 60", "ms a step"),
    }
    tables = compare.compare(rows, names := list(compare.installed()), 1, folder)
    for title, table in tables.items():
        assert {"ours", BOUND} <= table.keys() and compare.alike(table), title
        assert table["ours"].train > 0.9 and table["ours"].test > 0.9, title
        assert all(measured.value > 0 and measured.peak > 1 for measured in table.values()), title
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith(f"| work | unit | {' | '.join(names)} |")
    assert lines[3].startswith("| ragged | s an epoch |")
    assert lines[-2].startswith("| ragged | at most 1e+09 × the matmul bound |") and lines[-2].endswith("| met |")
    assert lines[-1].startswith("| full | at most 1e-09 ms a step |") and lines[-1].endswith("| **missed** |")


def test_a_worker_that_stops_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="the process of matmul bound has stopped"):
        with compare.worker(BOUND, Work((784, 10), "sgd", 1, 0.1), tmp_path):
            pass
    assert "FileNotFoundError" in capfd.readouterr().err


def test_train_py_is_measured_as_a_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text = "import sys, time\nx = b'x' * 90_000_000\ntime.sleep(0.2)\nassert sys.argv[1] != '--fail'"
    (tmp_path / "train.py").write_text(text)
    monkeypatch.setattr(compare, "ROOT", tmp_path)
    seconds, peak = compare.run_train("--epochs 1")
    assert 0.2 < seconds < 5 and 90_000_000 / 2**20 < peak < 400
    with pytest.raises(subprocess.CalledProcessError):
        compare.run_train("--fail")


def test_scaling_uses_whole_batches_that_can_be_afforded() -> None:
    points = [point for row in scaling.panels().values() for point in row]
    assert len(points) == len(scaling.WIDTHS) + len(scaling.DEPTHS) + len(scaling.BATCHES)
    for point in points:
        assert point.work.samples % point.work.batch == 0
        assert 4 * point.work.batch <= point.work.samples <= scaling.WHOLE
    assert scaling.affordable((784, 4096, 4096, 10), 128) < scaling.affordable((784, 64, 64, 10), 128)


def test_scaling_measures_a_point() -> None:
    point = scaling.point(3, (784, 3, 3, 10), 5)._replace(work=Work((784, 3, 3, 10), "sgd", 5, 0.1, 20))
    measured = scaling.measure(point, *made_up(30))
    assert 0 < measured.bound < 600 and 0 < measured.ours < 600
    assert scaling.point_line("width", measured).startswith("| width 3 | 20 | ")
