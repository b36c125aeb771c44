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
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.common import ROOT

COPIED = ("nn.py", "train.py", "test_nn.py", "test_train.py", "pyproject.toml", "README.md", "Makefile")
AT_ONCE, TIMEOUT = 2, 300  # processes; seconds for one run of the tests, after which a mutant counts as caught
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult, ast.MatMult: ast.Add,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
EQUIVALENT = Path(__file__).with_name("equivalent.txt")  # a line each: the mutant, " | ", why it stays


def changes(node: ast.AST) -> Iterator[tuple[str, object]]:
    """The change of a node, if it has one, as an attribute and its other value."""
    match node:
        case ast.BinOp(op=op) | ast.AugAssign(op=op) | ast.BoolOp(op=op) if type(op) in SWAPS:
            yield "op", SWAPS[type(op)]()
        case ast.Compare(ops=[op, *ops]) if type(op) in SWAPS:
            yield "ops", [SWAPS[type(op)](), *ops]
        case ast.Constant(value=bool(value)):
            yield "value", not value
        case ast.Constant(value=int(value) | float(value)):
            yield "value", value + 1
        case ast.IfExp(test=test):
            yield "test", ast.UnaryOp(ast.Not(), test)
        case ast.Call(keywords=[*keywords, _]):
            yield "keywords", keywords
        case ast.If():
            yield "test", ast.Constant(False)


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that do something: without messages of errors, annotations and what runs as a script alone."""
    if isinstance(node, ast.Raise) or isinstance(node, ast.If) and "__name__" in ast.dump(node.test):
        return
    yield node
    annotations = getattr(node, "annotation", None), getattr(node, "returns", None)
    for child in ast.iter_child_nodes(node):
        if child not in annotations:
            yield from walk(child)


def mutants(file: str) -> Iterator[tuple[str, str, str]]:
    """Every mutant of a file: the file, where the change is and what it is, and the whole source with it."""
    source = (ROOT / file).read_text(encoding="utf-8")
    tree, lines = ast.parse(source), source.splitlines()
    for node in walk(tree):
        for attribute, value in changes(node):
            original, before = getattr(node, attribute), ast.unparse(node).partition("\n")[0]
            setattr(node, attribute, value)
            line, after = lines[getattr(node, "lineno", 1) - 1].strip(), ast.unparse(node).partition("\n")[0]
            yield file, f"{file}: {line}: {before} -> {after}", ast.unparse(tree)
            setattr(node, attribute, original)


def is_caught(file: str, source: str) -> bool:
    """Whether a test fails, or none ends, with the source in the place of a file."""
    with tempfile.TemporaryDirectory() as folder:
        for name in COPIED:
            shutil.copy(ROOT / name, folder)
        shutil.copytree(ROOT / "data", Path(folder) / "data", ignore=shutil.ignore_patterns("*mnist", "__pycache__"))
        (Path(folder) / file).write_text(source, encoding="utf-8")
        tests = ["test_nn.py", "test_train.py"][:: 1 if file == "nn.py" else -1]
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            return True
        return done.returncode != 0


def main() -> None:
    """Prints the survivors. SystemExit with status 1 where one is not known to change nothing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="try every N-th mutant alone")
    every = parser.parse_args().every
    if is_caught("nn.py", (ROOT / "nn.py").read_text(encoding="utf-8")):
        sys.exit("mutants: nothing to prove, a test fails without a mutant")
    found = [mutant for file in ("nn.py", "train.py") for mutant in mutants(file)]
    reasons = dict(line.rsplit(" | ", 1) for line in EQUIVALENT.read_text(encoding="utf-8").splitlines())
    if stale := reasons.keys() - {name for _, name, _ in found}:
        sys.exit(f"mutants: {EQUIVALENT.name} lists what is no mutant: {'; '.join(stale)}")
    files, names, sources = zip(*found[::every])
    with ThreadPoolExecutor(AT_ONCE) as pool:
        survived = [name for name, caught in zip(names, pool.map(is_caught, files, sources)) if not caught]
    for name in survived:
        print(f"survived: {name} | {reasons.get(name, 'no test notices')}")
    unknown = [name for name in survived if name not in reasons]
    print(f"mutants: {len(names)} tried, {len(names) - len(survived)} caught, {len(survived) - len(unknown)} may stay")
    sys.exit(bool(unknown))


if __name__ == "__main__":
    main()
