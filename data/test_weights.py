"""Tests of weights on disk: what is saved comes back, and what is damaged, foreign or hostile is refused."""

import copyreg
import errno
import io
import math
import os
import pickle
import pickletools
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import data.weights
from data.weights import Weights, load_tree, load_weights, save_tree, save_weights

pytestmark = pytest.mark.filterwarnings("error")

each = pytest.mark.parametrize
SHAPES = {"W1": (4, 3), "b1": (3,), "W2": (3, 2), "b2": (2,)}
FURTHER: dict[str, object] = {
    "smoothing": 0.5, "none": None, "yes": True, "name": "ä", "bytes": b"\0", "big": 2**127, "no": {},
    "nested": {"moments": {"m": {"W1": np.arange(6.0).reshape(2, 3)}}, "list": ["a", "b"]}, "long": 1000 * "a",
}  # fmt: skip


def made_up(seed: int = 0, dtype: type = np.float64) -> Weights:
    rng = np.random.default_rng(seed)
    return Weights(
        params={k: rng.normal(0, 1, shape).astype(dtype) for k, shape in SHAPES.items()},
        layers=[4, 3, 2],
        activation="tanh",
        loss="cross_entropy",
        dataset="mnist",
        classes=["no", "yes"],
        accuracy=0.75,
        measured_on="test",
    )


def bits(tree: object) -> object:
    """The tree with dtype, shape and bytes in the place of each array: equal where all is equal bit for bit."""
    if isinstance(tree, Mapping):
        return {k: bits(branch) for k, branch in tree.items()}
    return (tree.dtype.str, tree.shape, tree.tobytes()) if isinstance(tree, np.ndarray) else tree


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of weights, alone in the current folder."""
    monkeypatch.chdir(tmp_path)
    save_weights(tmp_path / "weights.pkl", {**made_up(), **FURTHER})
    return tmp_path / "weights.pkl"


def refused(path: Path, content: bytes, *reasons: str) -> None:
    """load_weights refuses the content, and names the file and the reasons."""
    path.write_bytes(content)
    with pytest.raises(ValueError) as caught:
        load_weights(path)
    assert all(text in str(caught.value) for text in (f"{path} does not hold weights: ", *reasons))


@each("dtype", [np.float32, np.float64])
def test_save_and_load_bring_back_every_bit(path: Path, dtype: type) -> None:
    weights = {**made_up(1, dtype), **FURTHER}
    save_weights(path, weights)
    assert bits(load_weights(path)) == bits(load_tree(path)) == bits(weights)
    assert list(path.parent.iterdir()) == [path]
    load_weights(str(path))["params"]["W1"][0, 0] = 1  # what was loaded can be changed


def test_a_tree_needs_no_weights(path: Path) -> None:
    save_tree(path, FURTHER)
    assert bits(load_tree(path)) == bits(FURTHER)


def test_a_new_folder_is_made(path: Path) -> None:
    save_weights(path.parent / "new" / "folder" / "weights.pkl", made_up())
    assert bits(load_weights(path.parent / "new" / "folder" / "weights.pkl")) == bits(made_up())


def test_missing_weights_are_named_with_what_to_do() -> None:
    with pytest.raises(FileNotFoundError, match="no weights at nowhere.pkl; to make them: make train"):
        load_weights("nowhere.pkl")


def test_the_file_holds_builtins_alone(path: Path) -> None:
    held = pickle.loads(path.read_bytes())
    dtype, shape, content = held["params"]["W1"].values()
    assert (dtype, shape, held["layers"], held["format"]) == ("<f8", [4, 3], [4, 3, 2], 1)
    assert bits(np.frombuffer(content, dtype).reshape(shape)) == bits(load_weights(path)["params"]["W1"])
    names = {opcode.name for opcode, _, _ in pickletools.genops(path.read_bytes())}
    assert not names & {"GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "REDUCE", "BUILD", "NEWOBJ", "NEWOBJ_EX", "MEMOIZE"}


def text(letters: str) -> bytes:
    return b"\x8c" + bytes([len(letters)]) + letters.encode()


TOUCH, SYSTEM, FORMAT = text("touch canary"), b"cos\nsystem\n", text("format") + b"K\x01"


@each(("opcode", "content"), [
    ("GLOBAL", SYSTEM + TOUCH + b"\x85R."),
    ("STACK_GLOBAL", b"\x80\x04" + text("os") + text("system") + b"\x93" + TOUCH + b"\x85R."),
    ("REDUCE", b"\x80\x04}(" + text("params") + SYSTEM + TOUCH + b"\x85Ru."),
    ("INST", b"(" + TOUCH + b"ios\nsystem\n."),
    ("OBJ", b"(" + SYSTEM + TOUCH + b"o."),
    ("EXT1", b"\x80\x04\x82\xf0" + TOUCH + b"\x85R."),
])  # fmt: skip
def test_a_hostile_file_runs_nothing(path: Path, opcode: str, content: bytes) -> None:
    copyreg.add_extension("os", "system", 0xF0)
    try:
        refused(path, content, "it uses", opcode)
        assert not Path("canary").exists()
        pickle.loads(content)
        assert Path("canary").exists(), "the file is as hostile as it is meant to be"
    finally:
        copyreg.remove_extension("os", "system", 0xF0)


@each(("content", "reason"), [
    (b"}}b.", "it uses BUILD"),
    (b"}r\xff\xff\xff\x7f.", "it uses LONG_BINPUT"),  # a memo of 2^31 places
    (b"}\x94h\0.", "BINGET"),
    (b"]2a.", "it uses DUP"),  # could double what it holds with every byte
    (b"\x8e" + struct.pack("<Q", 2**40) + b"abc.", "1099511627776 bytes"),
    (b"B" + struct.pack("<I", 2**31) + b"abc.", "2147483648 bytes"),
    (b"\x95" + struct.pack("<Q", 2**40) + b"}.", ""),
    (b"]" * 100_000 + b"a" * 99_999 + b".", "more than 10000 opcodes"),
    ((b"}" + text("a")) * 100_000 + b"N" + b"s" * 100_000 + b".", "more than 10000 opcodes"),
    (b"}" + text("params") + b")" + b"\x85" * 5000 + b"NN\x87s.", "TUPLE1"),
    (b"})" + b"\x85" * 200_000 + b"Ns.", "TUPLE1"),  # to hash a key as deep as that overruns the stack
    (b"}(" + FORMAT + text("a") + b"]" * 4000 + b"a" * 3999 + text("params") + b"}u.", "RecursionError"),
    (b"](" + b"}" * 10_000 + b"e.", "more than 10000 opcodes"),  # a byte would be 72 bytes in memory
    (b"X" + struct.pack("<I", 1001) + 1001 * b"a" + b".", "a text of more than 1000 characters"),
    (b"}(" + FORMAT + b"".join(b"\x8a\x08" + struct.pack("<q", i * (2**61 - 1)) + b"N" for i in range(4)) + b"u.",
     "params"),
    (b"K\x01.", "format 1"), (b"}.", "format 1; to write it anew, train again"), (b"", ""),
    (b"}(" + text("format") + b"K\x02u.", "format 1"),
    (b"}(" + FORMAT + b"u.", "params, layers, activation, loss, dataset, classes, accuracy, measured_on missing"),
])  # fmt: skip
def test_a_file_that_is_no_weights_is_refused(path: Path, content: bytes, reason: str) -> None:
    refused(path, b"\x80\x04" + content, reason)


def test_a_file_cut_short_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    for length in {len(whole) * part // 50 for part in range(50)} | {1, len(whole) - 1}:
        refused(path, whole[:length])


def test_a_changed_byte_is_refused_or_harmless(path: Path) -> None:
    whole, refusals = path.read_bytes(), 0
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x15]) + whole[place + 1 :])
        try:
            params = load_weights(path)["params"]
            assert {k: A.shape for k, A in params.items()} == SHAPES
            assert all(np.isfinite(A).all() for A in params.values())
        except ValueError as error:
            refusals += str(path) in str(error)
    assert refusals > len(whole) / 5


@each(("change", "reason"), [
    *(({name: None}, f"{name} missing, or not of the right type") for name in Weights.__annotations__),
    ({"accuracy": 1}, "accuracy missing, or not of the right type"),
    ({"params": {**made_up()["params"], "W1": np.ones((3, 4))}}, "do not fit its layers [4, 3, 2]"),
    ({"params": {**made_up()["params"], "W3": np.ones((2, 2))}}, "do not fit its layers [4, 3, 2]"),
    ({"params": {**made_up()["params"], "W1": 0.5}}, "do not fit its layers [4, 3, 2]"),
    ({"params": {**made_up()["params"], "W1": np.ones((4, 3)).tolist()}}, "do not fit its layers [4, 3, 2]"),
    ({"params": {**made_up()["params"], "b2": {}}}, "do not fit its layers [4, 3, 2]"),
    ({"layers": [4, 2]}, "do not fit its layers [4, 2]"),
    ({"layers": [4, 3, 3]}, "layers [4, 3, 3] do not fit 2 classes"),
    ({"layers": [2]}, "layers [2] do not fit 2 classes"),
    ({"layers": [4, 3.0, 2]}, "layers [4, 3.0, 2] do not fit 2 classes"),
    ({"classes": ["yes"]}, "do not fit 1 classes"),
    ({"classes": ["no", 1]}, "classes must be texts, got ['no', 1]"),
    ({"accuracy": 98.5}, "accuracy in 0..1, got 98.5"), ({"accuracy": math.nan}, "accuracy in 0..1, got nan"),
    ({"measured_on": "training"}, "measured_on must be test or validation, got training"),
])  # fmt: skip
def test_weights_that_do_not_fit_are_neither_written_nor_read(
    path: Path, change: dict[str, object], reason: str
) -> None:
    before = path.read_bytes()
    with pytest.raises(ValueError) as caught:
        save_weights(path, {**made_up(), **change})
    assert reason in str(caught.value) and path.read_bytes() == before
    save_tree(path, {**made_up(), **change})
    refused(path, path.read_bytes(), reason)


@each(("entry", "reason"), [
    (np.arange(3), "<i8"), (np.ones(3, np.float16), "<f2"), (np.array([None]), "|O"), (np.float64(1), "it uses"),
    ((1, 2), "it uses TUPLE2"), ({1, 2}, "it uses"), (math.inf * np.ones(1), "NaN or infinity"),
    (1001 * "a", "a text of more than 1000 characters"), (10_000 * [[]], "more than 10000 opcodes"),
])  # fmt: skip
def test_what_could_not_be_read_is_not_written(path: Path, entry: object, reason: str) -> None:
    before = path.read_bytes()
    with pytest.raises(ValueError) as caught:
        save_weights(path, {**made_up(), "more": {"entry": entry}})
    assert f"{path} cannot hold this: " in str(caught.value) and reason in str(caught.value)
    assert path.read_bytes() == before


@each("dtype", ["<f2", "<i8", ">f8", "|O8"])
def test_weights_that_are_no_floats_of_ours_are_refused(path: Path, dtype: str) -> None:
    refused(path, path.read_bytes().replace(text("<f8"), text(dtype), 1), dtype)


@each("number", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_neither_written_nor_read(path: Path, number: float) -> None:
    whole, W1 = path.read_bytes(), load_weights(path)["params"]["W1"]
    entry = W1[1, 1].tobytes()
    assert whole.count(entry) == 1
    refused(path, whole.replace(entry, struct.pack("<d", number)), "NaN or infinity")
    W1[1, 1] = number
    with pytest.raises(ValueError, match="NaN or infinity"):
        save_weights(path.with_name("other.pkl"), {**made_up(), "params": {**made_up()["params"], "W1": W1}})
    assert list(path.parent.iterdir()) == [path]


def test_a_file_too_large_is_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data.weights, "MAX_BYTES", path.stat().st_size)
    load_weights(path)
    refused(path, path.read_bytes() + b"\0", f"more than {data.weights.MAX_BYTES} bytes")


class FullDisk(io.FileIO):
    def write(self, content: Any) -> int:
        super().write(bytes(content)[:10])
        raise OSError(errno.ENOSPC, "No space left on device")


@each("fails", ["builtins.open", "os.fsync", "os.replace"])
def test_a_write_that_fails_leaves_what_was_there(path: Path, monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    def failing(path: Path | int, *rest: object) -> FullDisk:
        if fails == "builtins.open":
            return FullDisk(path, "wb")
        raise OSError(errno.EIO, "Input/output error")

    before = path.read_bytes()
    with monkeypatch.context() as patched, pytest.raises(OSError, match=f"cannot write {path}: .*; check the folder"):
        patched.setattr(fails, failing)
        save_weights(path, made_up(1))
    assert {each.name: each.read_bytes() for each in path.parent.iterdir()} == {path.name: before}


def test_a_link_stays_one_and_a_file_keeps_its_mode(path: Path) -> None:
    path.chmod(0o640)
    link = path.with_name("link.pkl")
    link.symlink_to(path.name)
    save_weights(link, made_up(1))
    assert link.is_symlink() and path.stat().st_mode & 0o777 == 0o640
    assert bits(load_weights(path)) == bits(load_weights(link)) == bits(made_up(1))


@each("kind", ["folder", "FIFO", "device", "dangling link"])
def test_what_is_no_file_is_not_replaced(path: Path, kind: str) -> None:
    other = {"device": Path("/dev/null")}.get(kind, path.with_name("other"))
    if kind == "folder":
        other.mkdir()
    elif kind == "FIFO":
        os.mkfifo(other)
    elif kind == "dangling link":
        other.symlink_to("new")
    before = other.lstat()
    if kind == "dangling link":
        save_weights(other, made_up(1))
        assert other.is_symlink() and bits(load_weights(path.with_name("new"))) == bits(made_up(1))
    else:
        with pytest.raises(OSError, match=f"cannot write {other}: it is there and is no file; name another"):
            save_weights(other, made_up(1))
        assert (other.lstat().st_mode, other.lstat().st_ino) == (before.st_mode, before.st_ino)


def test_writers_of_one_file_in_one_process_do_not_mix(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, fsync = made_up(1), made_up(2), os.fsync

    def meanwhile(number: int) -> None:
        monkeypatch.setattr(os, "fsync", fsync)
        save_weights(path, second)
        assert bits(load_weights(path)) == bits(second)
        fsync(number)

    monkeypatch.setattr(os, "fsync", meanwhile)
    save_weights(path, first)
    assert bits(load_weights(path)) == bits(first) and list(path.parent.iterdir()) == [path]


def test_a_device_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data.weights, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="/dev/zero does not hold weights"):
        load_weights("/dev/zero")
