"""Tests of the recipes that train nothing large."""

from pathlib import Path

import pytest

import train
from bench import record

ENDED = "epoch   1/2  loss 0.5000\nepoch   2/2  loss 0.2500\ntest accuracy 99.00% (100 errors in 10000), 12.3 s\n"


@pytest.mark.parametrize(("dataset", "recipe"), record.RECIPES)
def test_train_takes_the_flags_of_every_recipe(dataset: str, recipe: str) -> None:
    config = train.parse_config(["--dataset", dataset, *record.RECIPES[dataset, recipe].split()])
    assert config.layers[0] == 784 and config.layers[-1] in (0, 10)
    assert config.augment["flip"] == 0 or dataset != "mnist", "a mirrored digit is another digit or none"


@pytest.mark.parametrize(("dataset", "recipe"), record.RECIPES)
def test_every_recipe_has_logs_of_all_its_epochs(dataset: str, recipe: str) -> None:
    config = train.parse_config(record.RECIPES[dataset, recipe].split())
    logs = [record.read(path) for path in record.LOGS.glob(f"{dataset}-{recipe}-*.log")]
    assert len(logs) >= 3 and {len(log.losses) for log in logs} == {config.epochs}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project, with a train.py that stops in its first run and ends in the next."""
    (tmp_path / "train.py").write_text(
        "import pathlib, sys\n"
        "checkpoint = pathlib.Path(sys.argv[sys.argv.index('--weights') + 1].replace('.pkl', '.checkpoint.pkl'))\n"
        "checkpoint.parent.mkdir(exist_ok=True)\n"
        "print('epoch   1/2  loss 0.5000' if '--resume' not in sys.argv else "
        f"{ENDED.partition(chr(10))[2].strip()!r})\n"
        "first = not checkpoint.exists()\n"
        "checkpoint.touch()\n"
        "sys.exit(130 * first)\n"
    )
    monkeypatch.setattr(record, "ROOT", tmp_path)
    monkeypatch.setattr(record, "LOGS", tmp_path / "bench" / "logs")
    record.LOGS.mkdir(parents=True)
    return tmp_path


def test_a_run_that_was_stopped_goes_on_and_then_replaces_the_log(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, checkpoint = record.LOGS / "mnist-default-7.log", folder / "weights" / "mnist-default-7.checkpoint.pkl"
    log.write_text("of an earlier run")
    with pytest.raises(SystemExit, match="130"):
        record.main(["--recipe", "default", "--seeds", "7"])
    assert log.read_text() == "of an earlier run"
    record.main(["--recipe", "default", "--seeds", "7"])
    assert log.read_text().splitlines(keepends=True)[2:] == ENDED.splitlines(keepends=True)
    assert record.read(log) == ([0.5, 0.25], 1.0, 12.3)
    assert "| mnist | `default` | 1 | 12 | 1.00 |" in capsys.readouterr().out
    assert (folder / "bench" / "record.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit, match="130"):  # as before its first checkpoint: that of the last run is gone
        record.main(["--recipe", "default", "--seeds", "7"])
    assert checkpoint.exists() and record.read(log).seconds == 12.3


def test_a_log_that_has_no_result_is_named(folder: Path) -> None:
    log = record.LOGS / "mnist-minute-1.log"
    log.write_text(ENDED.partition("\n")[0])
    with pytest.raises(SystemExit) as stopped:
        record.main(["--seeds"])
    assert str(stopped.value).startswith(f"bench.record: {log} is of a run that has not ended; remove it")
    log.write_text(ENDED)
    record.main(["--seeds"])


def test_the_table_tells_mean_and_deviation(capsys: pytest.CaptureFixture[str]) -> None:
    logs = [record.Log([0.1], error, 10.0) for error in (0.4, 0.5, 0.6)]
    record.print_table({("mnist", "best"): logs})
    assert "| mnist | `best` | 3 | 10 | 0.50 ± 0.10 |" in capsys.readouterr().out
