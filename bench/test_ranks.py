"""Tests of training over MPI, with ranks on this machine, and of the model of its cost."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import nn
from bench import ranks
from bench.common import ROOT
from data.weights import load_weights

SMALL = "--layers 784 16 10 --optimizer sgd --learning-rate 0.1 --samples 2000 --batch-size 500".split()
LONG = "--layers 784 16 10 --samples 20000 --batch-size 2000 --epochs 8".split()


def start(count: int, *command: str) -> "subprocess.Popen[str]":
    """A script on that many ranks, in this project's folder; it takes Ctrl-C, and prints as Python does."""
    return subprocess.Popen(
        [ranks.MPIEXEC, "-n", str(count), sys.executable, "-m", "mpi4py", *command],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def train(count: int, weights: Path, *flags: str) -> tuple[int, str, str]:
    """Exit status, output and errors of train.py."""
    process = start(count, "train.py", "--weights", str(weights), *flags)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def assert_close(ours: nn.Params, theirs: nn.Params, error: float) -> None:
    for k in ours:
        assert np.abs(ours[k] - theirs[k]).max() <= error * np.abs(theirs[k]).max()


def test_the_command_is_as_accurate_with_ranks_and_rank_0_alone_prints(tmp_path: Path) -> None:
    steps, errors = [], []
    for count in (1, 2, 3):
        once = "--samples 128 --batch-size 128 --epochs 1 --optimizer sgd".split()  # augmented; Adam magnifies rounding
        assert train(count, tmp_path / "step.pkl", *once)[0] == 0
        steps.append(load_weights(tmp_path / "step.pkl")["params"])
        status, out, err = train(count, tmp_path / "w.pkl", *"--samples 10000 --epochs 2 --augment none".split())
        assert (status, err) == (0, "")
        found = re.fullmatch(r"epoch   1/2 .*\nepoch   2/2 .*\ntest accuracy .* \((\d+) errors in 10000\), .*\n", out)
        assert found
        errors.append(int(found[1]))
    for step in steps[1:]:
        assert_close(step, steps[0], 1e-6)
    assert max(errors) - min(errors) <= 10


def test_a_checkpoint_goes_on_with_any_number_of_ranks(tmp_path: Path) -> None:
    assert train(1, tmp_path / "whole.pkl", *SMALL, "--epochs", "30")[0] == 0
    whole = load_weights(tmp_path / "whole.pkl")["params"]
    for before, after in ((3, 1), (1, 2), (2, 3)):
        weights, checkpoint = tmp_path / "parts.pkl", tmp_path / "parts.checkpoint.pkl"
        for file in weights, checkpoint:
            file.unlink(missing_ok=True)
        process = start(before, "train.py", "--weights", str(weights), *SMALL, "--epochs", "30")
        assert process.stdout
        process.stdout.readline()  # of the first epoch
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]
        assert process.returncode == 130 and not weights.exists()
        assert said.count("train.py: stopped; the same command with --resume goes on") == said.count("train.py") == 1
        assert train(after, weights, *SMALL, "--epochs", "30", "--resume")[0] == 0
        assert_close(load_weights(weights)["params"], whole, 1e-4)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_killed_ends_the_run_and_the_rest_can_go_on(tmp_path: Path, rank: int) -> None:
    process = start(2, "train.py", "--weights", str(tmp_path / "w.pkl"), *LONG)
    assert process.stdout
    process.stdout.readline()
    of_this = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True).stdout.split()
    ids = [pid for pid in of_this if f"PMI_RANK={rank}\0" in Path(f"/proc/{pid}/environ").read_text()]
    started = time.monotonic()
    os.kill(int(ids[0]), signal.SIGKILL)
    process.communicate(timeout=30)
    print(f"{time.monotonic() - started:.2f} s from kill -9 of rank {rank} to the end of all")
    assert process.returncode != 0 and not (tmp_path / "w.pkl").exists()
    assert train(2, tmp_path / "w.pkl", *LONG, "--resume")[0] == 0


def test_a_rank_that_fails_ends_all_with_its_message(tmp_path: Path) -> None:
    script = (
        "import sys, nn, train\n"
        "from mpi4py import MPI\n"
        "def fail(*rest): raise MemoryError('no memory for one')\n"
        "if MPI.COMM_WORLD.rank == 1: nn.update_params = fail\n"
        "sys.exit(train.main(sys.argv[1:]))\n"
    )
    process = start(3, "-c", script, *SMALL, "--weights", str(tmp_path / "w.pkl"))
    out, err = process.communicate(timeout=30)
    assert process.returncode == 1 and out == "" and err.count("train.py: no memory for one\n") == 1


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        ("--epochs x", 2, "error: argument --epochs"),
        ("--help", 0, "show this help message"),
        ("--layers 784 5", 2, "train.py: --layers must go from 784 to 10"),
        ("--optimizer sgd --learning-rate 1e30", 1, "train.py: the loss is "),
        ("--resume", 1, "train.py: there is nothing to resume"),
        ("--epochs 1 --samples 500 --min-accuracy 1", 1, "below --min-accuracy"),
    ],
)
def test_what_befalls_all_is_said_once(tmp_path: Path, flags: str, status: int, message: str) -> None:
    got, out, err = train(3, tmp_path / "w.pkl", *flags.split())
    assert (got, (out + err).count(message)) == (status, 1)


@pytest.mark.skipif(not ranks.can_shape(), reason="a slower line needs root, ip, tc and unshare")
def test_a_slower_line_takes_the_time_of_the_bytes_that_cross_it() -> None:
    shared, line = ranks.Job(128, 64, steps=10), ranks.Job(128, 64, rate=200, steps=10)
    seconds = 2 * 4 * line.size * 8 / 200e6  # each rank sends all its gradients once; both share the line
    assert ranks.launch(shared).allreduce < 0.7 * seconds < ranks.launch(line).allreduce


def test_the_model_finds_what_made_the_steps() -> None:
    truth, job = np.array([(1e-4, 2e-11, 3e-9), (1e-4, 1e-9, 2.0)]), ranks.Job(128, 1024, 800)
    np.testing.assert_allclose(ranks.fit({job: ranks.predict(truth, job) for job in ranks.JOBS}), truth, rtol=1e-6)
    size = 785 * 128 + 129 * 128 + 129 * 10
    assert ranks.predict(truth, job, 1) == pytest.approx((1e-4 + 2e-11 * 1024 * size + 3e-9 * size, 0))
    assert ranks.predict(truth, job, 4).allreduce == pytest.approx(2e-4 + 1.5 * 4 * size * (1e-9 + 2 / 1e8))
