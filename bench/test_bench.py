"""Tests of the comparisons with other frameworks, which need none of them; those that are installed are run as well."""

import functools
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nn
from bench import common, compare, frameworks, headline, scaling
from bench.frameworks import BOUND, Labels, Work
from data.augment import Images
from data.formats import read_idx
from data.load import HOME


def made_up(N: int) -> tuple[Images, Labels]:
    """Images that are noise but for the bright rows that tell their label."""
    rng = np.random.default_rng(0)
    X, Y = rng.integers(0, 100, (N, 28, 28), np.uint8), np.arange(N) % 10
    for k in range(10):
        X[Y == k, 2 * k : 2 * k + 4] += 150
    return X.reshape(N, -1), Y


@pytest.mark.parametrize("loss", nn.LOSSES)
@pytest.mark.parametrize("activation", nn.ACTIVATIONS)
def test_gradients_are_those_of_pytorch(activation: str, loss: str) -> None:
    torch = pytest.importorskip("torch")
    from torch.nn import functional

    if not hasattr(functional, activation):
        pytest.skip(f"PyTorch has no {activation}")
    rng, gelu = np.random.default_rng(0), functools.partial(functional.gelu, approximate="tanh")
    params = nn.init_params((5, 4, 6, 3), nn.INITS["he"], rng, np.float64)
    params = {k: A + rng.normal(0, 0.1, A.shape) for k, A in params.items()}
    X, T = rng.normal(0, 1, (7, 5)), nn.one_hot(rng.integers(0, 3, 7), 3, 0.1, np.float64)
    value, grads = nn.loss_and_gradients(params, X, T, nn.ACTIVATIONS[activation], nn.LOSSES[loss])
    theirs = {k: torch.from_numpy(A).requires_grad_() for k, A in params.items()}
    A, targets = torch.from_numpy(X), torch.from_numpy(T)
    for l in (1, 2, 3):
        Z = A @ theirs[f"W{l}"] + theirs[f"b{l}"]
        A = gelu(Z) if activation == "gelu" else getattr(functional, activation)(Z)
    squared = functional.mse_loss(torch.sigmoid(Z), targets, reduction="sum") / (2 * len(T))
    result = functional.cross_entropy(Z, targets) if loss == "cross_entropy" else squared
    result.backward()
    assert value == pytest.approx(result.item(), rel=1e-12)
    for k, tensor in theirs.items():
        G = tensor.grad.numpy()
        np.testing.assert_allclose(grads[k], G, rtol=1e-12, atol=1e-12 * np.abs(G).max(), err_msg=k)


def test_products_are_those_of_forward_and_backward_propagation() -> None:
    steps = frameworks.products((5, 4, 3), 7)
    shapes = [(left.shape, right.shape) for left, right, _ in steps]
    assert shapes == [((7, 5), (5, 4)), ((7, 4), (4, 3)), ((4, 7), (7, 3)), ((7, 3), (3, 4)), ((5, 7), (7, 4))]
    frameworks.multiply(steps)
    assert len({id(out) for _, _, out in steps}) == len(steps)
    assert all(out.dtype == np.float32 for _, _, out in steps)
    np.testing.assert_allclose(steps[0][2], steps[0][0] @ steps[0][1], rtol=1e-5)
    np.testing.assert_array_equal(steps[1][0], steps[0][2])  # what comes out of a layer goes into the next
    np.testing.assert_array_equal(steps[4][1], steps[3][2])


def test_the_lower_bound_takes_every_sample_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    monkeypatch.setattr(frameworks, "multiply", lambda steps: rows.extend(len(steps[0][0]) for _ in steps[:1]))
    trainer = frameworks.lower_bound(Work((784, 3, 10), "sgd", 4, 0.1), *made_up(10))
    trainer.epoch()
    trainer.predict(np.ones((6, 784), np.float32))
    assert rows == [4, 4, 2, 6]


def test_what_is_not_installed_is_left_out_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert common.print_installed({"ours": ["numpy"], "Abacus": ["numpy", "no-such-package"]}) == ["ours"]
    assert capsys.readouterr().out.endswith(f"numpy {np.__version__}.\nNot installed, so left out: Abacus.\n")


def test_threads_are_the_users_if_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    assert int(common.threads()) >= 1
    for name, count in (("OPENBLAS_NUM_THREADS", "3"), ("OMP_NUM_THREADS", "2")):
        monkeypatch.setenv(name, count)
        assert common.threads() == count


def test_lines_of_tables() -> None:
    assert common.line("a", 0.12345, 12.345, 999.6, 1234.4) == "| a | 0.123 | 12.3 | 1000 | 1234 |"
    assert common.header("a", "b") == "\n| a | b |\n| --- | --- |"


@pytest.mark.parametrize(
    ("accuracy", "mismatched"),
    [(0.8 - compare.SAME / 2, []), (0.8 - 2 * compare.SAME, ["a"]), (0.8 + 2 * compare.SAME, ["a"]), (math.nan, ["a"])],
)
def test_work_is_the_same_if_it_is_learnt_as_well(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], accuracy: float, mismatched: list[str]
) -> None:
    figures = {"ours": 2.0, BOUND: 1.0, "PyTorch": 4.0}, {"ours": 0.8, "PyTorch": accuracy}
    monkeypatch.setattr(compare, "measure", lambda *its: figures)
    assert compare.compare({"a": Work((784, 10), "sgd", 1, 0.1)}, list(figures[0]), 1, "mnist") == mismatched
    assert "| a | s/epoch | 2 | 2 | 4 (2.00) |" in capsys.readouterr().out


def test_rows_are_measured_and_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (X, Y), (X_test, Y_test) = made_up(203), made_up(50)
    np.savez(tmp_path / "made-up.npz", x_train=X, y_train=Y, x_test=X_test, y_test=Y_test)  # a file as Keras has it
    rows = {
        "ragged": Work((784, 16, 10), "adam", 32, 0.002, 203),
        "steps": Work((784, 16, 10), "sgd", 10, 0.1, 200, "µs/step"),
        "predict": Work((784, 16, 10), "sgd", 10, 0.1, 200, "µs/image"),
    }
    names = common.print_installed({name: [package] for name, (package, _) in frameworks.FRAMEWORKS.items()})
    capsys.readouterr()
    assert compare.compare(rows, names, 20, str(tmp_path)) == []
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("| work | unit | ours | ours / bound |")
    assert [text.split(" | ")[0] for text in lines[3:]] == ["| ragged", "| steps", "| predict"]
    assert all(float(cell) > 0 for text in lines[3:] for cell in text.rstrip(" |").split(" | ")[2:4])


@pytest.mark.skipif(sys.platform != "linux", reason="memory is told by Linux alone")
def test_scaling_measures_a_mapped_file(tmp_path: Path) -> None:
    X, Y = made_up(30)
    scaling.write_idx(tmp_path / "images", X, 70)
    mapped = scaling.map_idx(tmp_path / "images")
    np.testing.assert_array_equal(mapped, np.concatenate([X, X, X[:10]]))
    np.testing.assert_array_equal(read_idx(tmp_path / "images", (28, 28)).reshape(-1, 784), mapped)
    seconds, bound, memory = scaling.measure(Work((784, 3, 3, 10), "sgd", 5, 0.1, 70), tmp_path / "images", Y)
    assert 0 < bound < 600 and 0 < seconds < 600 and 10 < memory < 1000


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_what_does_not_fit_in_memory_trains_from_a_mapped_file() -> None:
    script = "from bench import scaling; scaling.train_on_large(2_000_000, 10)"
    said = subprocess.run([sys.executable, "-c", script], cwd=common.ROOT, check=True, capture_output=True, text=True)
    trained, refused = said.stdout.splitlines()
    assert trained.startswith("1.6 GB of images under a limit of 500 MB: 10 steps of 128 in ")
    assert refused.startswith("the same file read as a whole: Unable to allocate 1.46 GiB")


def test_headline_times_a_whole_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow.py").write_text("import time; x = b'x' * 90_000_000; time.sleep(0.2); print('3 0.98')")
    (tmp_path / "fails.py").write_text("assert False")
    monkeypatch.setattr(headline, "SCRIPTS", tmp_path)
    took = headline.run(headline.Tool("slow.py", ()), ("mnist", 0.9, "no"), 0, str(tmp_path))
    assert 0.2 < took.seconds < 30 and took.cpu < took.seconds and 90_000_000 / 2**20 < took.peak
    assert took.epochs == 3
    with pytest.raises(subprocess.CalledProcessError):
        headline.run(headline.Tool("fails.py", ()), ("mnist", 0.9, "no"), 0, str(tmp_path))


def test_headline_tells_medians_of_warm_runs_and_its_plot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = iter([9, 30, 5, 1, 4, 6, 2, 5, 7, 3, 9, 8])  # interleaved, the first turn cold
    monkeypatch.setattr(headline, "run", lambda *its: headline.Run(s := next(seconds), 2 * s, 100, 7))
    monkeypatch.setattr(headline, "forget", lambda paths: None)
    measured = headline.measure(["numpy-mlp", "JAX, scan", "Keras"], ("mnist", 0.9, "no"), 3)
    headline.print_row("digits", measured)
    out = capsys.readouterr().out
    assert "| numpy-mlp | 2 | 9 | 4 | 100 | 7 | 1 |" in out and "| JAX, scan | 5 | 30 | 10 | 100 | 7 | 2.5 |" in out
    assert out.endswith("fastest other / ours: 2.50\n")
    headline.draw({"digits": measured}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_what_an_installation_brings_is_counted(tmp_path: Path) -> None:
    folders = {part for path in headline.installed_files(["matplotlib"]) for part in path.parts}
    assert {"matplotlib", "numpy", "PIL"} < folders and "mpi4py" not in folders
    assert not any("numpy" in path.parts for path in headline.installed_files(["mpi4py"]))
    (tmp_path / "a.py").write_text('"""What it is."""\n\n# why\nx = 1\n    y = 2\n')
    assert headline.code_lines(tmp_path / "a.py") == 2


@pytest.mark.skipif(not (HOME / "mnist").exists(), reason="the images are not there: make data")
def test_our_script_trains_in_little_memory() -> None:
    """Measured from a small process: a child's peak is no less than what its parent held."""
    script = """
from bench import headline
print(*headline.run(headline.TOOLS["numpy-mlp"], ("mnist", 0.9, "no"), 0, ""))"""
    said = subprocess.run([sys.executable, "-c", script], cwd=common.ROOT, check=True, capture_output=True, text=True)
    seconds, cpu, peak, epochs = map(float, said.stdout.split())
    assert epochs == 1 and 0 < cpu and 0 < seconds and 50 < peak < 250
