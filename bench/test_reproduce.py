"""Tests of the reproduction that train nothing large."""

from pathlib import Path

import numpy as np
import pytest

import train
from bench import reproduce
from bench.common import Result


@pytest.mark.parametrize("network", reproduce.NETWORKS, ids=lambda network: network.system)
def test_train_takes_the_flags_of_every_network(network: reproduce.Network) -> None:
    config = train.parse_config(network.flags.split())
    assert config.layers[0] == 784 and config.layers[-1] == 10


def test_curves_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    dataset = rng.integers(0, 256, (3200, 784), np.uint8), rng.integers(0, 10, 3200)
    monkeypatch.setattr(reproduce, "load", lambda name, split: dataset)
    reproduce.draw_curves(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_network_below_its_claim_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reproduce, "train", lambda network, seed: Result(0.07 - seed / 1000, 1.0))
    monkeypatch.setattr(reproduce, "draw_curves", lambda path: None)
    assert reproduce.main() == 1
    out, err = capsys.readouterr()
    assert out.count("93.10% ± 0.10") == len(reproduce.NETWORKS)
    assert err == "Mgasa Lucas, Part 3 stays below what it should reach\n"
