"""Tests of the recipes and the published networks that train nothing large."""

from pathlib import Path

import numpy as np
import pytest

import train
from bench import common, record, reproduce
from data.files import write_whole

EPOCHS = "epoch   1/2  loss 0.5000     6.1 s      6 s left\n", "epoch   2/2  loss 0.2500    12.3 s      0 s left\n"
ENDED = f"{''.join(EPOCHS)}test accuracy 99.00% (100 errors in 10000), 12.3 s\n"


@pytest.mark.parametrize("flags", [flags for flags, *_ in reproduce.NETWORKS.values()])
def test_train_takes_the_flags_of_every_network(flags: str) -> None:
    config = train.parse_config(flags.split())
    assert config.layers[0] == 784 and config.layers[-1] == 10


@pytest.mark.parametrize(("dataset", "recipe"), record.RECIPES)
def test_every_recipe_has_logs_of_all_its_epochs(dataset: str, recipe: str) -> None:
    config = train.parse_config(["--dataset", dataset, *record.RECIPES[dataset, recipe].split()])
    assert config.augment["flip"] == 0 or dataset != "mnist", "a mirrored digit is another digit or none"
    runs = record.read_log(dataset, recipe)
    assert [0, 1, 2] == [*runs][:3] and {len(record.read_run(run).losses) for run in runs.values()} == {config.epochs}


def test_a_run_that_was_stopped_goes_on_and_only_then_replaces_its_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a train.py that stops in its first run and ends in the next."""
    (tmp_path / "train.py").write_text(
        "import pathlib, sys\n"
        "checkpoint = pathlib.Path(sys.argv[sys.argv.index('--weights') + 1].replace('.pkl', '.checkpoint.pkl'))\n"
        "checkpoint.parent.mkdir(exist_ok=True)\n"
        f"print({EPOCHS[0].strip()!r} if '--resume' not in sys.argv else {ENDED.partition(chr(10))[2].strip()!r})\n"
        "first = not checkpoint.exists()\n"
        "checkpoint.touch()\n"
        "sys.exit(130 * first)\n"
    )
    for module in record, common:
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(record, "LOGS", tmp_path / "bench" / "logs")
    log, checkpoint = record.LOGS / "mnist-default.log", tmp_path / "weights" / "mnist-default-7.checkpoint.pkl"
    others = {seed: record.summarize("machine", f"train.py --seed {seed}", ENDED) for seed in (2, 7, 10)}
    write_whole(log, before := "\n".join(others.values()).encode())
    with pytest.raises(SystemExit, match="130"):
        record.main(["--recipe", "default", "--seeds", "7"])
    assert log.read_bytes() == before
    record.main(["--recipe", "default", "--seeds", "7"])
    runs = record.read_log("mnist", "default")
    assert list(runs) == [2, 7, 10] and (runs[2], runs[10]) == (others[2], others[10])
    assert runs[7].startswith("$ python train.py --dataset mnist --seed 7 --weights weights/mnist-default-7.pkl\n")
    assert "\n    1  0.5000      6.1\n    2  0.2500     12.3\n" in runs[7]
    assert record.read_run(runs[7]) == ([0.5, 0.25], 0.01, 12.3)
    assert "| mnist | `default` | 3 | 12 | 1.00 ± 0.00 |" in capsys.readouterr().out
    assert (tmp_path / "bench" / "record.png").read_bytes().startswith(b"\x89PNG")
    after = log.read_bytes()
    checkpoint.unlink()
    with pytest.raises(SystemExit, match="130"):  # a new run, as none is unfinished
        record.main(["--recipe", "default", "--seeds", "7"])
    assert checkpoint.exists() and log.read_bytes() == after


def test_a_run_without_a_result_is_kept_in_no_log() -> None:
    with pytest.raises(ValueError, match="has not ended"):
        record.summarize("machine", "train.py --seed 0", EPOCHS[0])


def test_a_network_below_its_claim_is_named_and_curves_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    dataset = rng.integers(0, 256, (3200, 784), np.uint8), rng.integers(0, 10, 3200)
    monkeypatch.setattr(reproduce, "load", lambda name, split: dataset)
    monkeypatch.setattr(reproduce, "train", lambda flags, seed: (0.07 - seed / 1000, 1.0))
    monkeypatch.setattr(reproduce, "ROOT", tmp_path)
    (tmp_path / "bench").mkdir()
    with pytest.raises(SystemExit, match="below what they should reach: Mgasa Lucas, Part 3$"):
        reproduce.main()
    assert capsys.readouterr().out.count("93.10% ± 0.10") == len(reproduce.NETWORKS)
    assert (tmp_path / "bench" / "curves.png").read_bytes().startswith(b"\x89PNG")
