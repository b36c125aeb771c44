"""Tests of fault injection: a few trials of every fault, and that harm is noticed where there is some."""

import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench import faults, hostile
from bench.common import ROOT
from data.load import HOME
from data.weights import load_weights

SHORT = "--samples 300 --layers 784 8 10 --epochs 3"
unpickle = lambda path: pickle.loads(path.read_bytes())
needs_images = pytest.mark.skipif(not (HOME / "mnist").exists(), reason="the images are not there: make data")


@pytest.fixture(autouse=True)
def shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "MOST_MEMORY", float("inf"))  # of this process, not of the fault
    monkeypatch.setattr(faults, "SHORT", SHORT)
    monkeypatch.setattr(faults, "RUNS", (SHORT,))


@needs_images
@pytest.mark.parametrize("fault", [name for name in faults.FAULTS if "default run" not in name])  # it takes long
def test_a_few_trials_do_no_harm(fault: str) -> None:
    number = faults.FAULTS[fault][1]
    assert not faults.attempt(fault, every=number // (100 if number > 50 else 2) + 1)


@needs_images
@pytest.mark.parametrize(
    ("fault", "part", "bad", "harm"),
    [
        ("SIGTERM at a random moment, then --resume", "whole", lambda flags: ({"mnist.pkl": b""}, 0.1), "lost"),
        ("every call of a write fails in turn", "save_weights", lambda path, _: path.write_bytes(b"new"), "lost"),
        ("hostile weights files, load_weights and train.main", "load_weights", unpickle, "executed"),
        ("IDX files changed", "read_split", lambda place, split: sys.exit(split), "crashed"),
        ("npz files changed", "SECONDS", -1.0, "crashed"),
        ("npz files changed", "MOST_MEMORY", 0.0, "crashed"),
        ("CSV files changed", "SEED", 0, ""),
    ],
)
def test_harm_decides_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fault: str, part: str, bad: object, harm: str
) -> None:
    monkeypatch.setattr(faults, "FAULTS", {fault: (faults.FAULTS[fault][0], 5)})
    monkeypatch.setattr(faults, part, bad)
    assert faults.main(["--every", "2"]) == bool(harm)
    out, err = capsys.readouterr()
    harms = err.count(f"{fault}, trial ")
    counts = [f"{verdict}: {harms * (verdict == harm)}" for verdict in ("lost", "executed", "crashed")]
    assert out.endswith(f"| {fault} | 3 | {3 - harms} |\n\n{', '.join(counts)}\n") and bool(harms) == bool(harm)


def test_hostile_files_are_distinct_and_sound_but_for_their_fault(tmp_path: Path) -> None:
    assert len(hostile.RUNNING) + len(hostile.REFUSED) == len(set(hostile.HOSTILE.values())) >= 400
    path = tmp_path / "w.pkl"
    path.write_bytes(hostile.sound_but())
    assert load_weights(path)["layers"] == [2, 4]
    for name, content in hostile.REFUSED.items():
        path.write_bytes(content)
        with pytest.raises(ValueError, match="does not hold weights") as refusal:
            load_weights(path)
        assert ("missing" in str(refusal.value)) == (name == "no layers"), name
        assert ("format 1" in str(refusal.value)) == (name == "another format"), name


def test_ctrl_c_ends_all_in_silence_so_that_make_alone_says_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    command, piped = [sys.executable, "-m", "bench.faults", "--every", "10"], subprocess.PIPE
    hear = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, cwd=ROOT, text=True, stdout=piped, stderr=piped, preexec_fn=hear)
    while not list(tmp_path.glob("*/*")):  # what is in the folder of the first fault
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "") and out.startswith("seed ")
    assert not list(tmp_path.iterdir())
