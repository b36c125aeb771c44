"""Tests of fault injection: a few tries of every fault, and that harm is noticed where there is some."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

import nn
from bench import common, faults, hostile
from data.load import HOME
from data.weights import load_weights

SHORT = "--samples 300 --layers 784 8 10 --epochs 3"
TRIES = {name: 2 for name in faults.FAULTS} | {
    "kill -9 of the default run on MNIST, then --resume": 0,
    "weights files cut at every 1/200th or changed": 100,
    "hostile weights files, load_weights and train.main": 12,
    **{f"{name} files changed": 100 for name in faults.LAYOUTS},
    "every call of a write fails in turn": 20,
}


@pytest.mark.skipif(not (HOME / "mnist").exists(), reason="the images are not there: make data")
@pytest.mark.parametrize("name", faults.FAULTS)
def test_a_few_tries_do_no_harm(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(faults, "MOST_MEMORY", float("inf"))  # of this process, not of the fault
    monkeypatch.setattr(faults, "SHORT", SHORT)
    monkeypatch.setattr(faults, "RUNS", (SHORT,))
    counts = faults.attempt(name, TRIES[name])
    assert counts["held"] == counts["tried"] >= TRIES[name] and counts.keys() <= {"tried", "held"}


def test_each_hostile_file_is_another() -> None:
    files = len(hostile.RUNNING) + len(hostile.REFUSED)
    assert files == len(hostile.HOSTILE) == len(set(hostile.HOSTILE.values())) >= 110


def test_hostile_weights_are_sound_but_for_their_fault(tmp_path: Path) -> None:
    path = tmp_path / "w.pkl"
    path.write_bytes(hostile.weights())
    assert load_weights(path)["layers"] == [2, 4]
    for name, content in hostile.REFUSED.items():
        path.write_bytes(content)
        with pytest.raises(ValueError, match="does not hold weights") as refusal:
            load_weights(path)
        assert ("missing" in str(refusal.value)) == (name == "no layers"), name
        assert ("format 1" in str(refusal.value)) == (name == "another format"), name


def test_harm_is_counted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def harmful(dice: random.Random, tries: int) -> faults.Verdicts:
        Path("left").touch()
        yield from ["", "lost: all", "executed: it"]
        faults.limited(lambda: time.sleep(0), ValueError)
        faults.limited(lambda: nn.count_layers({}), ValueError)
        faults.limited(lambda: [][1], ValueError)

    monkeypatch.setattr(faults, "FAULTS", {"harm": (harmful, 1)})
    assert faults.attempt("harm", 1) == Counter(tried=3, held=1, lost=1, executed=1, crashed=1)
    assert capsys.readouterr().err.splitlines()[:2] == ["harm: lost: all", "harm: executed: it"]
    monkeypatch.setattr(faults, "SECONDS", -1)
    with pytest.raises(RuntimeError, match="it takes"):
        faults.limited(lambda: 0)


@pytest.mark.parametrize(("harm", "status"), [({}, 0), ({"lost": 1}, 1), ({"executed": 1}, 1), ({"crashed": 2}, 1)])
def test_harm_decides_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], harm: dict[str, int], status: int
) -> None:
    monkeypatch.setattr(faults, "FAULTS", {"fault": (faults.writes_failing, 9)})
    monkeypatch.setattr(faults, "attempt", lambda name, tries: Counter({"tried": tries, "held": 8} | harm))
    assert faults.main([]) == status
    out = capsys.readouterr().out
    assert "| fault | 9 | 8 |" in out
    harms = "lost", "executed", "crashed"
    assert out.endswith("\n" + ", ".join(f"{name}: {harm.get(name, 0)}" for name in harms) + "\n")


def test_ctrl_c_ends_all_in_silence_so_that_make_alone_says_it(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.faults", "--share", "0.1"],
        cwd=common.ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while not list(tmp_path.glob("*/*")):  # what is in the folder of the first fault
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "") and out.startswith("seed ")
    assert not list(tmp_path.iterdir())
