"""Tests of the guided tour: it runs as a script from anywhere, its numbers are right, and notebooks can read it."""

import re
import runpy
import subprocess
import sys
import time
from pathlib import Path

import jupytext
import numpy as np
import pytest

import data.load

TOUR = Path(__file__).resolve().with_name("walkthrough.py")


@pytest.mark.skipif(not (data.load.HOME / "mnist").exists(), reason="the images are missing: make data")
def test_script_tells_the_truth(tmp_path: Path) -> None:
    started = time.perf_counter()
    command = [sys.executable, str(TOUR)]
    out = subprocess.run(command, cwd=tmp_path, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout
    assert time.perf_counter() - started < 60
    assert out.splitlines()[:3] == [
        "z3 = 1.27   L = 1.6129   dL/db = -2.54   dL/dw = -5.08",
        "by nudging:  dL/db = -2.54   dL/dw = -5.08",
        "by nn.py:    dL/db = -2.54   dL/dw = -5.08   L = 1.6129",
    ]
    assert "after the step: w = 0.91, L = 0.209\n" in out  # 1.27 - 2 * 0.08 * 5.08 = 0.4572, squared
    mean, value = re.findall(r"their mean (\S+), and cross_entropy: (\S+)\n", out)[0]
    assert mean == value
    assert min(float(gap) for gap in re.findall(r"off by (\S+)", out)) < 1e-10
    assert "answers: [0 1 1 0]   right: [0 1 1 0]\n" in out
    losses = [float(loss) for loss in re.findall(r"step +\d+  loss (\S+)", out)]
    assert len(losses) == 5 and losses == sorted(losses, reverse=True)
    assert float(re.findall(r"test accuracy (\S+)%", out)[0]) > 95
    drawn = re.findall(r"drawn: (\S+)", out)
    assert len(drawn) == 6 and all((tmp_path / path).read_bytes().startswith(b"\x89PNG") for path in drawn)


def test_missing_images_stop_it_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data.load, "HOME", tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    with np.printoptions(), pytest.raises(SystemExit, match="make data DATASET=mnist"):
        runpy.run_path(str(TOUR), run_name="__main__")


def test_jupytext_reads_it_as_a_notebook() -> None:
    notebook = jupytext.read(TOUR)
    assert notebook.metadata["jupytext"]["text_representation"]["format_name"] == "percent"
    marks = re.findall(r"^# %%(.*)$", TOUR.read_text(encoding="utf-8"), re.MULTILINE)
    expected = ["markdown" if "[markdown]" in mark else "code" for mark in marks]
    assert [cell.cell_type for cell in notebook.cells] == expected
    assert notebook.cells[0].source.startswith("# A guided tour")
    assert "\n%matplotlib inline\n" in notebook.cells[1].source
    for cell in notebook.cells[2:]:
        if cell.cell_type == "code":
            compile(cell.source, "cell", "exec")
