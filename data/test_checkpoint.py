"""Tests of checkpoints: a run goes on from its own, and from no other's."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from data.checkpoint import Checkpoint, checkpoint_path, load_checkpoint
from data.pickles import save_tree

each = pytest.mark.parametrize
PARAMS = {"W1": np.arange(6, dtype=np.float32).reshape(2, 3), "b1": np.ones(3, np.float32)}
STATE = {"params": PARAMS, "moments": {"v": {k: 2 * A for k, A in PARAMS.items()}}, "step": 30, "loss": 0.5}
CONFIG: dict[str, object] = {"seed": 0, "layers": [2, 3], "schedule": "cosine", "epochs": 6, "augment": {"shift": 1.0}}
DONE = Checkpoint(state=STATE, epoch=3, seconds=1.5, config=CONFIG)


def begun(**changes: object) -> Checkpoint:
    """A run before its first epoch, its hyperparameters CONFIG with changes."""
    zeros = {k: np.zeros_like(A) for k, A in PARAMS.items()}
    state = {"params": zeros, "moments": {"v": zeros}, "step": 0, "loss": float("nan")}
    return Checkpoint(state=state, epoch=0, seconds=0.0, config=CONFIG | changes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The checkpoint DONE."""
    save_tree(tmp_path / "run.checkpoint.pkl", DONE)
    return tmp_path / "run.checkpoint.pkl"


def refused(path: Path, fresh: Checkpoint, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        load_checkpoint(path, fresh)
    assert str(path) in str(caught.value) and message in str(caught.value)


def same(one: object, other: object) -> bool:
    """Whether two trees are equal bit for bit."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    return type(one) is type(other) and one == other


def test_a_run_goes_on_from_every_bit_of_its_checkpoint(path: Path) -> None:
    assert same(load_checkpoint(path, begun()), DONE)


def test_equal_numbers_of_another_type_are_the_same_hyperparameters(path: Path) -> None:
    assert load_checkpoint(path, begun(augment={"shift": 1}))["epoch"] == 3


def test_a_checkpoint_lies_beside_its_weights() -> None:
    for weights, checkpoint in ("a/b.pkl", "a/b.checkpoint.pkl"), ("rate0.1", "rate0.1.checkpoint.pkl"):
        assert checkpoint_path(Path(weights)) == Path(checkpoint)


def test_nothing_to_resume_is_said(path: Path) -> None:
    path.unlink()
    refused(path, begun(), "there is nothing to resume")


@each(("changes", "message"), [
    ({"seed": 7}, "is of a run with seed 0, not 7; resume with its flags"),
    ({"layers": [2, 4]}, "is of a run with layers [2, 3], not [2, 4]; resume with its flags"),
    ({"augment": {"shift": 2.0}}, "is of a run with augment {'shift': 1.0}, not {'shift': 2.0}"),
    ({"schedule": "constant"}, "is of a run with schedule cosine, not constant"),
    ({"epochs": 8}, "is of a run with epochs 6, not 8, and the cosine schedule or fade is laid out for those"),
    ({"more": 1}, "is of a run with more None, not 1"),
])  # fmt: skip
def test_a_run_with_other_hyperparameters_is_refused_and_the_one_named(
    path: Path, changes: dict[str, object], message: str
) -> None:
    refused(path, begun(**changes), message)


def test_the_epochs_of_a_constant_schedule_may_change_but_not_below_those_done(path: Path) -> None:
    save_tree(path, {**DONE, "config": CONFIG | {"schedule": "constant"}})
    for epochs in (3, 5, 8):
        assert load_checkpoint(path, begun(schedule="constant", epochs=epochs))["epoch"] == 3
    refused(path, begun(schedule="constant", epochs=2), "has 3 epochs behind it, more than --epochs 2")
    fading = {"schedule": "constant", "augment": {"shift": 1.0, "fade": 0.5}}
    save_tree(path, {**DONE, "config": CONFIG | fading})
    refused(path, begun(**fading, epochs=8), "schedule or fade is laid out for those")


@each("damage", [
    {"state": None}, {"state": {**STATE, "moments": {}}}, {"state": {**STATE, "step": 1.5}},
    {"state": {**STATE, "more": 0}}, {"state": {**STATE, "params": {**PARAMS, "b1": np.ones(2, np.float32)}}},
    {"state": {**STATE, "params": {**PARAMS, "b1": np.ones(3)}}}, {"epoch": None}, {"epoch": 3.0}, {"seconds": "1"},
    {"more": 0},
])  # fmt: skip
def test_a_checkpoint_without_a_whole_state_is_refused(path: Path, damage: dict[str, object]) -> None:
    save_tree(path, {**DONE, **damage})
    refused(path, begun(), "does not hold the state of such a run; start without --resume")


@each("damage", [{"epoch": -1}, {"epoch": 7}])
def test_an_impossible_number_of_epochs_is_refused(path: Path, damage: dict[str, object]) -> None:
    save_tree(path, {**DONE, **damage})
    refused(path, begun(), f"has {damage['epoch']} epochs behind it")


@each("config", [None, {}, "seed"])
def test_a_checkpoint_without_its_hyperparameters_is_refused(path: Path, config: object) -> None:
    save_tree(path, {**DONE, "config": config})
    refused(path, begun(), "is of a run with seed None, not 0")


def test_a_state_that_is_not_finite_is_not_written(path: Path) -> None:
    before = path.read_bytes()
    moments = {"v": {**PARAMS, "b1": np.array([1, np.inf, 1], np.float32)}}
    with pytest.raises(ValueError, match="NaN or infinity"):
        save_tree(path, {**DONE, "state": {**STATE, "moments": moments}})
    assert path.read_bytes() == before


def test_a_damaged_checkpoint_is_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])
    refused(path, begun(), "does not hold weights")
