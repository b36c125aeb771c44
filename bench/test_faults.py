"""Tests of the soak: a few tries of every fault, and that it notices harm where there is some."""

import random
import time
from collections import Counter
from pathlib import Path

import pytest

import nn
from bench import hostile, soak
from data.load import HOME

SHORT = "--pictures 300 --layers 784 8 10 --epochs 3"
TRIES = {name: 2 for name in soak.FAULTS} | {
    "kill -9 in the middle of the default run on MNIST, then --resume": 0,
    "weights files cut at every 1/200th or changed": 100,
    "hostile weights files, load_params and train.main": 12,
    "IDX files changed": 100,
    "gzip files changed, bombs": 100,
    "every call of a write fails in turn": 20,
}


@pytest.mark.skipif(not (HOME / "mnist").exists(), reason="the pictures are not there: make data")
@pytest.mark.parametrize("name", soak.FAULTS)
def test_a_few_tries_do_no_harm(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(soak, "BYTES", float("inf"))  # of this process, not of the fault
    monkeypatch.setattr(soak, "SHORT", SHORT)
    monkeypatch.setattr(soak, "RUNS", (SHORT,))
    counts = soak.attempt(name, TRIES[name])
    assert counts["held"] == counts["tried"] >= TRIES[name] and counts.keys() <= {"tried", "held"}


def test_each_kind_of_file_is_another() -> None:
    kinds = len(hostile.RUNNING) + len(hostile.REFUSED)
    assert kinds == len(hostile.HOSTILE) == len(set(hostile.HOSTILE.values())) >= 40


def test_harm_is_counted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def harmful(dice: random.Random, tries: int) -> soak.Verdicts:
        Path("left").touch()
        yield from ["", "lost: all", "executed: it"]
        soak.limited(lambda: time.sleep(0), ValueError)
        soak.limited(lambda: nn.shapes_of([]), ValueError)
        soak.limited(lambda: [][1], ValueError)

    monkeypatch.setattr(soak, "FAULTS", {"harm": (harmful, 1)})
    assert soak.attempt("harm", 1) == Counter(tried=3, held=1, lost=1, executed=1, crashed=1)
    assert capsys.readouterr().err.splitlines()[:2] == ["harm: lost: all", "harm: executed: it"]
    monkeypatch.setattr(soak, "SECONDS", -1)
    with pytest.raises(RuntimeError, match="it takes"):
        soak.limited(lambda: 0)


@pytest.mark.parametrize(("harm", "status"), [({}, 0), ({"lost": 1}, 1), ({"executed": 1}, 1), ({"crashed": 2}, 1)])
def test_harm_decides_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], harm: dict[str, int], status: int
) -> None:
    monkeypatch.setattr(soak, "FAULTS", {"fault": (soak.idx_mutated, 9)})
    monkeypatch.setattr(soak, "alone", lambda name, share: Counter({"tried": 9, "held": 8} | harm))
    assert soak.main([]) == status
    out = capsys.readouterr().out
    assert "| fault | 9 | 8 |" in out
    kinds = "lost", "executed", "crashed"
    assert out.endswith("\n" + ", ".join(f"{kind}: {harm.get(kind, 0)}" for kind in kinds) + "\n")
