"""Tests of the READMEs: their examples run, and their commands, flags, modules and links are there."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

import train
from data.load import load

ROOT = Path(train.__file__).parent
PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob("[a-z]*/README.md")})
TEXT = {page: page.read_text(encoding="utf-8") for page in PAGES}
EXAMPLES = [code for text in TEXT.values() for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]
LINES = re.findall(r"`([^`\n]+)`|^\$ (.+)$", "\n".join(TEXT.values()), re.MULTILINE)
COMMANDS = sorted({part for pair in LINES for line in pair for part in line.split(" && ")})


def words(program: str) -> list[list[str]]:
    """The words after program, an expression, of each command that begins with it."""
    lines = [line for line in COMMANDS if re.match(rf"{program}\b", line)]
    return [shlex.split(re.sub(rf"^{program}", "", line)) for line in lines]


@pytest.mark.parametrize("code", EXAMPLES)
def test_example_runs(code: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    assert "load_weights" not in code or Path("weights/mnist.pkl").exists(), "there are no weights; make train"
    exec(compile(code, "README.md", "exec"), {})
    out = capsys.readouterr().out
    assert "#" in out or out == f"{[str(label) for label in load('mnist', 'test')[1][:10]]}\n"


def test_make_targets_are_there() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {found for line in COMMANDS for found in re.findall(r"^make ([a-z]+)", line)}
    assert {"train", "test", "predict", "demo", "plots", "notebook"} <= named <= targets


def test_flags_of_training_are_there() -> None:
    """Of make train and make evaluate, of python train.py and its parts between backquotes."""
    makes = [dict(word.split("=", 1) for word in line if "=" in word) for line in words("make (?:train|evaluate)")]
    lines = [shlex.split(given["ARGS"]) for given in makes if "ARGS" in given] + words("python train.py")
    assert len(lines) >= 3
    for flags in lines:
        train.parse_config(["mnist" if flag.startswith("path/") else flag for flag in flags])


def test_modules_and_links_are_there() -> None:
    modules = {line[0] for line in words(r"(?:\.venv/bin/)?python -m ")}
    assert {"demo.app", "data.fetch"} <= modules
    assert all(importlib.util.find_spec(name) for name in modules - {"pip"})
    links = [(page, link) for page, text in TEXT.items() for link in re.findall(r"\]\(([\w./-]+)\)", text)]
    assert len(links) > 20 and not [(page, link) for page, link in links if not (page.parent / link).exists()]
