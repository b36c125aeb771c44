"""Checkpoints: a run after an epoch, whole, to go on from as if it had never stopped.

As order and noise are drawn anew from seed and epoch, no generator's state belongs to it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict, cast

import numpy as np

from data.pickles import load_tree


class Checkpoint(TypedDict):
    """How far a run has come."""

    state: Mapping[str, object]  # of nn.State
    epoch: int  # epochs done
    seconds: float  # spent on them
    config: Mapping[str, object]  # the hyperparameters of the run


def checkpoint_path(weights: Path) -> Path:
    """Where the checkpoint of a run is kept: beside its weights."""
    return weights.with_name(weights.name.removesuffix(".pkl") + ".checkpoint.pkl")


def load_checkpoint(path: Path, fresh: Checkpoint) -> Checkpoint:
    """The checkpoint of a run that began with fresh. ValueError where there is none, or it is of another run."""
    if not path.exists():
        raise ValueError(f"there is nothing to resume: {path} does not exist; start without --resume")
    saved, now = load_tree(path), fresh["config"]
    config = saved.get("config")
    was = config if isinstance(config, dict) else {}
    extends = now["schedule"] == "constant" and not cast(dict[str, float], now["augment"]).get("fade")
    for name, value in now.items():
        if was.get(name) != value and not (name == "epochs" and extends):
            why = f", and the {now['schedule']} schedule or fade is laid out for those" if name == "epochs" else ""
            raise ValueError(f"{path} is of a run with {name} {was.get(name)}, not {value}{why}; resume with its flags")
    if outline({**saved, "config": now}) != outline(cast(Mapping[str, object], fresh)):
        raise ValueError(f"{path} does not hold the state of such a run; start without --resume")
    checkpoint = cast(Checkpoint, {**saved, "config": now})
    if not 0 <= checkpoint["epoch"] <= cast(int, now["epochs"]):
        raise ValueError(f"{path} has {checkpoint['epoch']} epochs behind it, more than --epochs {now['epochs']}")
    return checkpoint


def outline(tree: object) -> object:
    """The form of a tree: keys, dtypes, shapes and types without the values."""
    if isinstance(tree, Mapping):
        return {k: outline(v) for k, v in tree.items()}
    return (tree.dtype, tree.shape) if isinstance(tree, np.ndarray) else type(tree)
