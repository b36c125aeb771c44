"""Proves the tests of nn.py: each of these faults, put into a copy of nn.py alone, must make one of them fail.

python -m bench.mutants
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent
COPIED = ["nn.py", "train.py", "test_nn.py", "pyproject.toml", "data/__init__.py", "data/augment.py", "data/load.py"]
AT_ONCE, TIMEOUT = 2, 300  # processes; seconds for one run of the tests

MUTANTS = [  # (a fragment that nn.py holds once, what takes its place)
    # activations and their derivatives
    ("np.maximum(Z, 0)", "np.maximum(Z, 0.1)"),
    ("0.5 * (1 + np.tanh(0.5 * Z))", "0.5 * (1 - np.tanh(0.5 * Z))"),
    ("0.5 * (1 + np.tanh(0.5 * Z))", "0.5 * (1 + np.tanh(Z))"),
    ("0.5 * (1 + np.tanh(0.5 * Z))", "1 / (1 + np.exp(-Z))"),
    ("return np.tanh(Z)", "return np.tanh(2 * Z)"),
    ("(A > 0).astype", "(A >= 0).astype"),
    ("A * (1 - A)", "A * (1 + A)"),
    ("1 - A * A", "1 - A"),
    # softmax and the losses
    ("np.exp(Z - Z.max(axis=1, keepdims=True))", "np.exp(Z - Z.max())"),
    ("np.exp(Z - Z.max(axis=1, keepdims=True))", "np.exp(Z)"),
    ("E /= E.sum(axis=1, keepdims=True)", "E /= E.sum(axis=0, keepdims=True)"),
    ("np.eye(classes, dtype=dtype)", "np.eye(classes)"),
    ("shifted: Array = Z - Z.max(axis=1, keepdims=True)", "shifted: Array = Z - Z.max()"),
    ("shifted: Array = Z - Z.max(axis=1, keepdims=True)", "shifted: Array = 1 * Z"),
    ("np.exp(shifted).sum(axis=1))", "np.exp(shifted).sum(axis=1) + 1e-9)"),
    ("- shifted[np.arange(len(Y)), Y]", "+ shifted[np.arange(len(Y)), Y]"),
    ("np.arange(len(Y)), Y]).sum() / len(Y)", "np.arange(len(Y)), Y]).sum()"),
    ("Y] - Z.mean(axis=1)", "Y] + Z.mean(axis=1)"),
    ("cross_entropy(Z, Y) + SMOOTHING", "cross_entropy(Z, Y) - SMOOTHING"),
    ("(1 - SMOOTHING) * one_hot", "one_hot"),
    ("- SMOOTHING / A.shape[1]) / len(Y)", ") / len(Y)"),
    ("0.5 * ((A", "((A"),
    ("** 2).sum() / len(Y)", "** 2).sum()"),
    ("Z.mean(axis=1)).sum() / len(Y)", "Z.mean(axis=1)).sum()"),
    ("(A - one_hot(Y, A.shape[1], A.dtype)) / len(Y)", "(A - one_hot(Y, A.shape[1], A.dtype))"),
    ("(A - one_hot(Y, A.shape[1], A.dtype)) / len(Y)", "2 * (A - one_hot(Y, A.shape[1], A.dtype)) / len(Y)"),
    ("(A - one_hot(Y, A.shape[1], A.dtype)) / len(Y)", "(one_hot(Y, A.shape[1], A.dtype) - A) / len(Y)"),
    ("* f.derivative(A) / len(Y)", "/ len(Y)"),
    ("* f.derivative(A) / len(Y)", "* f.derivative(A)"),
    # start
    ("math.sqrt(2 / m)", "math.sqrt(1 / m)"),
    ("math.sqrt(2 / m)", "math.sqrt(2 / n)"),
    ("math.sqrt(2 / (m + n))", "math.sqrt(2 / m + n)"),
    ("math.sqrt(1 / m)", "1 / m"),
    ("rng.uniform(-1, 1,", "rng.uniform(0, 1,"),
    ("rng.normal(0, 0.01,", "rng.normal(0, 0.1,"),
    ("else np.zeros(shape)", "else np.ones(shape)"),
    (".astype(dtype) for k", ".astype(np.float32) for k"),
    ("len(layers) < 2 or", "len(layers) < 1 or"),
    ("min(layers) < 1", "min(layers) < 0"),
    # forward, backward, predictions
    ("X.ndim != 2 or X.shape[1]", "X.ndim != 2 and X.shape[1]"),
    ('Z += params[f"b{l}"]', 'Z -= params[f"b{l}"]'),
    ("if l < L else", "if l <= L else"),
    ("if l < L else", "if l < L - 1 else"),
    ("np.dot(A.T, dZ)", "-np.dot(A.T, dZ)"),
    ("np.dot(A.T, dZ)", "np.dot(dZ.T, A)"),
    ("np.dot(A.T, dZ)", "np.dot(A.T, dZ) / len(A)"),
    ("dZ.sum(axis=0)", "dZ.mean(axis=0)"),
    ("dZ.sum(axis=0)", "dZ.sum(axis=1)"),
    ('dZ @ params[f"W{l}"].T', 'dZ @ params[f"W{l}"]'),
    ("dZ *= activation.derivative(A)", "pass"),
    ("activation.derivative(A)", "activation.derivative(activation.function(A))"),
    ("if l > 1:", "if l > 2:"),
    ("A.argmax(axis=1)", "A.argmax(axis=0)"),
    ("A.argmax(axis=1)", "A.argmin(axis=1)"),
    ("predictions == Y", "predictions != Y"),
    # optimisers and update
    ('0.9 * moments["v"][k] + g', '0.9 * moments["v"][k] - g'),
    ('0.9 * moments["v"][k] + g', '0.9 * moments["v"][k] + 0.1 * g'),
    ("m[k] += g", "m[k] -= g"),
    ('beta2 * moments["v"][k]', 'beta1 * moments["v"][k]'),
    ("v[k] += g * g", "v[k] += np.abs(g)"),
    ("(1 - beta**step) / (1 - beta)", "1 / (1 - beta)"),
    ("(1 - beta**step) / (1 - beta)", "(1 - beta**step)"),
    ("weight1 / math.sqrt(weight2)", "weight1 / weight2"),
    ("root += weight1 * eps", "root += eps"),
    ("root = np.sqrt(v[k])", "root = np.sqrt(v[k] + eps)"),
    ("(A.dtype, A.shape)", "(A.dtype, A.ndim)"),
    ("(A.dtype, A.shape)", "(None, A.shape)"),
    ("decayed[k] - rate", "decayed[k] + rate"),
    ("decayed[k] - rate * direction[k] for", "decayed[k].__isub__(rate * direction[k]) for"),
    ("rate, kept = float(learning_rate),", "rate, kept = learning_rate,"),
    ("float(1 - learning_rate * weight_decay)", "1 - np.float64(learning_rate) * weight_decay"),
    ("float(1 - learning_rate * weight_decay)", "float(1 + learning_rate * weight_decay)"),
    ("float(1 - learning_rate * weight_decay)", "float(1 - weight_decay)"),
    # the fold
    ("np.zeros_like(A) for", "np.ones_like(A) for"),
    ('rng.bit_generator.state = state["generator"]', "pass"),
    ('state["params"], state["moments"],', 'state["params"], init_state(state["params"], optimizer, rng)["moments"],'),
    ('state["moments"], state["step"]', 'state["moments"], 0'),
    ('range(state["epoch"] + 1, epochs + 1)', "range(1, epochs + 1)"),
    ('range(state["epoch"] + 1, epochs + 1)', 'range(state["epoch"] + 1, epochs)'),
    ("rng.permutation(len(X))", "np.arange(len(X))"),
    ("rng.permutation(len(X))", "np.random.default_rng(0).permutation(len(X))"),
    ("rng.permutation(len(X))", "rng.integers(0, len(X), len(X))"),
    ("range(0, len(X), batch_size))", "range(0, len(X) - batch_size + 1, batch_size))"),
    ("step += 1", "step += 2"),
    ("Y[rows[part]]", "Y[rows[: part.stop - part.start]]"),
    ("chance[part]", "chance[: part.stop - part.start]"),
    ("2 * rng.random((len(rows), draws), np.float32) - 1", "rng.random((len(rows), draws), np.float32)"),
    ("share = (j - i) / j", "share = (j - i) / n"),
    ("value += share * (next_value - value)", "value += share * next_value"),
    ("M + share * (grads[k] - M)", "M + share * grads[k]"),
    ("range(PIECE, n, PIECE)", "range(PIECE, n - PIECE, PIECE)"),
    ("optimizer.direction(grads, moments, step)", "optimizer.direction(grads, moments, step + 1)"),
    ("learning_rate(step), weight_decay)", "learning_rate(step))"),
    ("learning_rate(step), weight", "learning_rate(step - 1 or 1), weight"),
    ("watch(step, value)", "watch(step - 1, value)"),
    ("value * len(rows)", "value * batch_size"),
    ("loss=total / len(X)", "loss=value"),
    ("generator = dict(rng.bit_generator.state)\n        yield", 'generator = state["generator"]\n        yield'),
    # the checks of the data
    ("not 1 <= batch_size <= N", "not 0 <= batch_size <= N"),
    ("not 1 <= batch_size <= N", "not 1 <= batch_size"),
    ("[X.min(), X.max()]", "[X.max()]"),
    ("Y.shape != (N,) or", "Y.shape != (N,) and"),
    ("Y.min() < 0 or", "Y.min() < -1 or"),
    ("Y.max() >= K", "Y.max() > K"),
    # weights on disk
    ('"PROTO FRAME', '"GLOBAL REDUCE PROTO FRAME'),
    ('"PROTO FRAME', '"MEMOIZE BINGET LONG_BINPUT PROTO FRAME'),
    ("tree.tobytes()", "tree.T.tobytes()"),
    ('"<f8": np.float64', '"<f8": np.float32'),
    ('.reshape(tree["shape"]).copy()', '.reshape(tree["shape"])'),
    ("not np.isfinite(A).all()", "not np.isfinite(A).any()"),
    ("    decode(buffer.getvalue())", "    pass"),
    ('"PROTO FRAME', '"EMPTY_TUPLE TUPLE1 PROTO FRAME'),
    ("[unpack(v) for v in tree]", "tree"),
    ("pickler.fast = True", "pickler.fast = False"),
    (".{os.urandom(8).hex()}.tmp", ""),
    ('or opcodes[-1] != "STOP"', "or False"),
    ("os.fsync(file.fileno())", "pass"),
    ("temporary.unlink(missing_ok=True)", "pass"),
    ("len(data) > MAX_BYTES", "len(data) >= MAX_BYTES"),
    ("if shapes != expected", "if shapes.keys() != expected.keys()"),
]


def test(fragment: str, replacement: str) -> str:
    """The first test to fail with the fragment replaced, "" if none does. ValueError for a fragment not held once."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "data").mkdir()
        for file in COPIED:
            shutil.copy(HOME / file, folder / file)
        source = (folder / "nn.py").read_text()
        if source.count(fragment) != 1:
            raise ValueError(f"nn.py holds {fragment!r} {source.count(fragment)} times, not once")
        (folder / "nn.py").write_text(source.replace(fragment, replacement))
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "test_nn.py"]
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT)
        failed = re.search(r"^FAILED test_nn.py::(\w+)", done.stdout, re.MULTILINE)
        if not failed and done.returncode != 0:
            raise ValueError(f"the tests cannot run with {replacement!r}: {done.stdout[-500:]}{done.stderr[-500:]}")
        return failed[1] if failed else ""


def main() -> int:
    """Tries all mutants. Returns the exit status: 1 where one survived."""
    if failed := test("import math", "import math"):
        raise SystemExit(f"mutants: nothing to prove, {failed} fails without a mutant")
    survived = 0
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for (fragment, replacement), caught in zip(MUTANTS, pool.map(lambda mutant: test(*mutant), MUTANTS)):
            survived += not caught
            verdict = f"caught by {caught}" if caught else "SURVIVED"
            print(f"{fragment.strip()} -> {replacement.strip()}: {verdict}".replace("\n", " "), flush=True)
    print(f"mutants: {len(MUTANTS)} tried, {len(MUTANTS) - survived} caught")
    return int(survived > 0)


if __name__ == "__main__":
    sys.exit(main())
