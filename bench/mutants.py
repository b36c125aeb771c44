"""Mutation testing: nn.py and train.py, changed in one place of their syntax tree at a time, must make a test fail.

`python -m bench.mutants --every 20` tries every 20th alone. Prints survivors; equivalent.txt lists those that may stay.
"""

import argparse
import ast
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from bench.common import ROOT

COPIED = ("nn.py", "train.py", "test_nn.py", "test_train.py", "pyproject.toml", "README.md", "Makefile")
AT_ONCE, TIMEOUT = 2, 300  # processes; seconds for one run of the tests, after which a mutant counts as caught
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult, ast.MatMult: ast.Add,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
EQUIVALENT = Path(__file__).with_name("equivalent.txt")  # a line each: the mutant, " | ", why it stays


class Mutant(NamedTuple):
    """A change: where it is and what it is, and the whole source with it."""

    file: str
    name: str
    source: str


def changes(node: ast.AST) -> Iterator[tuple[ast.AST, str, object]]:
    """The changes of a node, each as an object, its attribute and the attribute's other value."""
    if isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp) and type(node.op) in SWAPS:
        yield node, "op", SWAPS[type(node.op)]()
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
        yield node, "ops", [SWAPS[type(node.ops[0])](), *node.ops[1:]]
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield node, "value", not node.value
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield node, "value", node.value + 1
    elif isinstance(node, ast.IfExp):
        yield node, "test", ast.UnaryOp(ast.Not(), node.test)
    elif isinstance(node, ast.Call) and node.keywords:
        yield node, "keywords", node.keywords[:-1]
    elif isinstance(node, ast.If):
        yield node, "test", ast.Constant(False)


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that do something: without messages of errors, annotations and what runs as a script alone."""
    if isinstance(node, ast.Raise) or isinstance(node, ast.If) and "__name__" in ast.dump(node.test):
        return
    yield node
    for field, value in ast.iter_fields(node):
        if field not in ("annotation", "returns"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from walk(child)


def mutants(file: str) -> Iterator[Mutant]:
    """Every mutant of a file."""
    source = (ROOT / file).read_text(encoding="utf-8")
    tree, lines = ast.parse(source), source.splitlines()
    for node in walk(tree):
        for changed, attribute, value in changes(node):
            original, before = getattr(changed, attribute), ast.unparse(node).partition("\n")[0]
            setattr(changed, attribute, value)
            after = ast.unparse(node).partition("\n")[0]
            line = lines[getattr(node, "lineno", 1) - 1].strip()
            yield Mutant(file, f"{file}: {line}: {before} -> {after}", ast.unparse(tree))
            setattr(changed, attribute, original)


def is_caught(mutant: Mutant) -> bool:
    """Whether a test fails, or none ends, with the mutant in the place of its file."""
    with tempfile.TemporaryDirectory() as folder:
        for name in COPIED:
            shutil.copy(ROOT / name, folder)
        shutil.copytree(ROOT / "data", Path(folder) / "data", ignore=shutil.ignore_patterns("*mnist", "__pycache__"))
        (Path(folder) / mutant.file).write_text(mutant.source, encoding="utf-8")
        tests = ["test_nn.py", "test_train.py"][:: 1 if mutant.file == "nn.py" else -1]
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            return True
        return done.returncode != 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the survivors. Returns the exit status: 1 where one is not known to change nothing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="try every N-th mutant alone")
    every = parser.parse_args(arguments).every
    unchanged = Mutant("nn.py", "", (ROOT / "nn.py").read_text(encoding="utf-8"))
    if is_caught(unchanged):
        sys.exit("mutants: nothing to prove, a test fails without a mutant")
    tried = [mutant for file in ("nn.py", "train.py") for mutant in mutants(file)][::every]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        survived = [mutant.name for mutant, caught in zip(tried, pool.map(is_caught, tried)) if not caught]
    reasons = dict(line.rsplit(" | ", 1) for line in EQUIVALENT.read_text(encoding="utf-8").splitlines())
    unknown = [name for name in survived if name not in reasons]
    for name in survived:
        print(f"survived: {name} | {reasons.get(name, 'no test notices')}")
    print(f"mutants: {len(tried)} tried, {len(tried) - len(survived)} caught, {len(survived) - len(unknown)} may stay")
    return int(bool(unknown))


if __name__ == "__main__":
    sys.exit(main())
