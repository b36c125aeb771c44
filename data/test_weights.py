"""Tests of weights on disk: what is saved comes back, and what is damaged, foreign or hostile is refused."""

import copyreg
import errno
import hashlib
import io
import math
import os
import pickle
import pickletools
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

import data.pickles
from data.pickles import load_tree, save_tree, seal
from data.weights import Weights, load_weights, save_weights

pytestmark = pytest.mark.filterwarnings("error")

each = pytest.mark.parametrize
SHAPES = {"W1": (4, 3), "b1": (3,), "W2": (3, 2), "b2": (2,)}
FURTHER: dict[str, object] = {
    "smoothing": 0.5, "none": None, "yes": True, "name": "ä", "big": 2**127, "no": {},
    "nested": {"moments": {"m": {"W1": np.arange(6.0).reshape(2, 3)}}, "list": ["a", "b"]}, "long": 1000 * "a",
}  # fmt: skip


def brief(value: object) -> str:
    """The name of a parameter in the name of its test, however long it is."""
    return ascii(value[:20] if isinstance(value, bytes | str) else value)[:60]


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


def sealed(content: bytes) -> bytes:
    """A pickle with the checksum that it should have: its dict must end with that entry."""
    return seal(content[:-2] + text("sha256") + text(64 * "0") + content[-2:])


def text(letters: str) -> bytes:
    return b"\x8c" + bytes([len(letters)]) + letters.encode()


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
    assert held["sha256"] == hashlib.sha256(path.read_bytes()[:-66]).hexdigest()
    assert (dtype, shape, held["layers"], held["format"]) == ("<f8", [4, 3], [4, 3, 2], 1)
    assert bits(np.frombuffer(content, dtype).reshape(shape)) == bits(load_weights(path)["params"]["W1"])
    names = {opcode.name for opcode, _, _ in pickletools.genops(path.read_bytes())}
    assert not names & {"GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "REDUCE", "BUILD", "NEWOBJ", "NEWOBJ_EX", "MEMOIZE"}


TOUCH, SYSTEM, FORMAT = text("touch canary"), b"cos\nsystem\n", text("format") + b"K\x01"


@each(("opcode", "content"), [
    ("GLOBAL", SYSTEM + TOUCH + b"\x85R."),
    ("STACK_GLOBAL", b"\x80\x04" + text("os") + text("system") + b"\x93" + TOUCH + b"\x85R."),
    ("GLOBAL", b"\x80\x04}(" + text("params") + SYSTEM + TOUCH + b"\x85Ru."),
    ("INST", b"(" + TOUCH + b"ios\nsystem\n."),
    ("GLOBAL", b"(" + SYSTEM + TOUCH + b"o."),
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
    (b"}\x94h\0.", "MEMOIZE"),
    (b"]2a.", "it uses DUP"),  # could double what it holds with every byte
    (b"\x8e" + struct.pack("<Q", 2**40) + b"abc.", "BINBYTES8"),
    (b"\x96" + struct.pack("<Q", 2**40) + b"abc.", "or is cut short"),
    (b"\x96" + struct.pack("<Q", 2**64 - 1) + b"abc.", ""),
    (b"\x95" + struct.pack("<Q", 2**40) + b"}.", ""),
    (b"]" * 100_000 + b"a" * 99_999 + b".", "more than 10000 opcodes"),
    ((b"}" + text("a")) * 100_000 + b"N" + b"s" * 100_000 + b".", "more than 10000 opcodes"),
    (b"}" + text("params") + b")" + b"\x85" * 5000 + b"NN\x87s.", "EMPTY_TUPLE"),
    (b"})" + b"\x85" * 200_000 + b"Ns.", "EMPTY_TUPLE"),  # to hash a key as deep as that overruns the stack
    (b"](" + b"}" * 10_000 + b"e.", "more than 10000 opcodes"),  # a byte would be 72 bytes in memory
    (b"X" + struct.pack("<I", 1001) + 1001 * b"a" + b".", "a text of more than 1000 bytes"),
    (b"K\x01.", "format 1"), (b"}.", "format 1; to write it anew, train again"), (b"", ""),
    (b"}(" + text("format") + b"K\x02u.", "format 1"), (b"}(" + FORMAT + b"u.", "its SHA-256 is another"),
    (b"}.}.", "bytes after its end"), (b"}.\0", "bytes after its end"),
], ids=brief)  # fmt: skip
def test_a_file_that_is_no_weights_is_refused(path: Path, content: bytes, reason: str) -> None:
    refused(path, b"\x80\x04" + content, reason)


@each(("content", "reason"), [
    (b"}(" + FORMAT + text("a") + b"]" * 4000 + b"a" * 3999 + text("params") + b"}u.", "RecursionError"),
    (b"}(" + FORMAT + b"".join(b"\x8a\x08" + struct.pack("<q", i * (2**61 - 1)) + b"N" for i in range(4)) + b"u.",
     "params"),
    (b"}(" + FORMAT + b"u.", "params, layers, activation, loss, dataset, classes, accuracy, measured_on missing"),
], ids=brief)  # fmt: skip
def test_a_sound_file_that_is_no_weights_is_refused(path: Path, content: bytes, reason: str) -> None:
    refused(path, sealed(b"\x80\x04" + content), reason)


def test_a_file_cut_short_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    for length in {len(whole) * part // 50 for part in range(50)} | {1, len(whole) - 1}:
        refused(path, whole[:length])


def test_a_file_with_any_bit_flipped_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    for place in range(len(whole)):
        refused(path, whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])


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
    (1001 * "a", "a text of more than 1000 bytes"), (b"a", "BINBYTES"), (bytearray(b"a"), "belong to no array"),
    (10_000 * [[]], "more than 10000 opcodes"), ([np.arange(3)], "<i8"),
], ids=brief)  # fmt: skip
def test_what_could_not_be_read_is_not_written(path: Path, entry: object, reason: str) -> None:
    before = path.read_bytes()
    with pytest.raises(ValueError) as caught:
        save_weights(path, {**made_up(), "more": {"entry": entry}})
    assert f"{path} cannot hold this: " in str(caught.value) and reason in str(caught.value)
    assert path.read_bytes() == before


@each("name", ["format", "sha256"])
def test_names_of_the_file_are_not_taken(path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"{path} cannot hold this: {name} are names of the file's own"):
        save_weights(path, {**made_up(), name: 1})


def test_a_message_has_one_line_without_control_characters(path: Path) -> None:
    save_tree(path, {**made_up(), "measured_on": "a\n\x1b[31m\u202e" + 900 * "b"})
    with pytest.raises(ValueError) as caught:
        load_weights(path)
    assert str(caught.value).isprintable() and "a  [31m bb" in str(caught.value) and len(str(caught.value)) <= 1000


@each("dtype", ["<f2", "<i8", ">f8", "|O8"])
def test_weights_that_are_no_floats_of_ours_are_refused(path: Path, dtype: str) -> None:
    refused(path, seal(path.read_bytes().replace(text("<f8"), text(dtype), 1)), dtype)


@each("number", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_neither_written_nor_read(path: Path, number: float) -> None:
    whole, W1 = path.read_bytes(), load_weights(path)["params"]["W1"]
    entry = W1[1, 1].tobytes()
    assert whole.count(entry) == 1
    refused(path, seal(whole.replace(entry, struct.pack("<d", number))), "NaN or infinity")
    W1[1, 1] = number
    with pytest.raises(ValueError, match="NaN or infinity"):
        save_weights(path.with_name("other.pkl"), {**made_up(), "params": {**made_up()["params"], "W1": W1}})
    assert list(path.parent.iterdir()) == [path]


def test_a_file_too_large_is_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data.pickles, "MAX_BYTES", path.stat().st_size)
    load_weights(path)
    refused(path, path.read_bytes() + b"\0", f"more than {data.pickles.MAX_BYTES} bytes")


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


@each("kind", ["folder", "FIFO", "device", "dangling link", "endless link"])
def test_what_is_no_file_is_not_replaced(path: Path, kind: str) -> None:
    other = {"device": Path("/dev/null")}.get(kind, path.with_name("other"))
    if kind == "folder":
        other.mkdir()
    elif kind == "FIFO":
        os.mkfifo(other)
    elif kind.endswith("link"):
        other.symlink_to("new" if kind == "dangling link" else other.name)
    before = other.lstat()
    if kind == "dangling link":
        save_weights(other, made_up(1))
        assert other.is_symlink() and bits(load_weights(path.with_name("new"))) == bits(made_up(1))
    else:
        with pytest.raises(OSError, match=f"cannot write {other}: {other} is there and is no file; name another"):
            save_weights(other, made_up(1))
        assert (other.lstat().st_mode, other.lstat().st_ino) == (before.st_mode, before.st_ino)


def test_a_link_in_the_place_of_the_temporary_file_is_not_followed(path: Path) -> None:
    other, link, before = path.with_name("other"), path.with_name("weights.pkl.tmp"), path.read_bytes()
    other.write_bytes(b"precious")
    link.symlink_to(other.name)
    with pytest.raises(OSError, match=f"{link} is there and is no file"):
        save_weights(path, made_up(1))
    assert other.read_bytes() == b"precious" and path.read_bytes() == before


def test_two_writers_of_one_file_take_turns(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync, second = os.fsync, Thread(target=save_weights, args=(path, made_up(2)))

    def meanwhile(number: int) -> None:
        monkeypatch.setattr(os, "fsync", fsync)
        second.start()
        second.join(0.2)
        assert second.is_alive(), "the second waits for the first"
        fsync(number)

    monkeypatch.setattr(os, "fsync", meanwhile)
    save_weights(path, made_up(1))
    second.join()
    assert bits(load_weights(path)) == bits(made_up(2)) and list(path.parent.iterdir()) == [path]


def test_what_a_killed_run_has_left_goes_with_the_next(path: Path) -> None:
    path.with_name("weights.pkl.tmp").write_bytes(bytes(10**6))
    save_weights(path, made_up(1))
    assert bits(load_weights(path)) == bits(made_up(1)) and list(path.parent.iterdir()) == [path]


@each("name", ["/dev/zero", "folder", "fifo"])
def test_what_is_no_file_is_not_read(path: Path, name: str) -> None:
    Path("folder").mkdir()
    os.mkfifo("fifo")
    with pytest.raises(ValueError, match=f"{name} does not hold weights: it is no file"):
        load_weights(name)


LARGE = 40_000_000
LOADING = """
import resource, sys
from pathlib import Path
from data.weights import load_weights
limit = 100_000_000 + 2 * Path(sys.argv[1]).stat().st_size  # NumPy takes most of the first
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    print(load_weights(sys.argv[1])["layers"])
except ValueError as error:
    print(str(error)[:200])
"""


@each(("content", "said"), [
    (b"}X" + struct.pack("<I", LARGE) + "ä".encode() * (LARGE // 2) + b"Ns.", "a text of more than 1000 bytes"),
    (b"}(" + text("format") + b"\x96" + struct.pack("<Q", LARGE) + bytes(LARGE) + b"u.", "is not of format 1"),
    (b"}(" + FORMAT + text("layers") + b"\x96" + struct.pack("<Q", LARGE) + bytes(LARGE) + b"u.", "to no array"),
    (b"]" * LARGE, "more than 10000 opcodes"), (None, "[25000, 1000, 1]"),
], ids=brief)  # fmt: skip
def test_memory_is_bounded_by_the_size_of_the_file(path: Path, content: bytes | None, said: str) -> None:
    if content is None:
        layers, shapes = [25_000, 1000, 1], {"W1": (25_000, 1000), "b1": (1000,), "W2": (1000, 1), "b2": (1,)}
        params = {k: np.zeros(shape, np.float32) for k, shape in shapes.items()}
        save_weights(path, {**made_up(), "params": params, "layers": layers, "classes": ["one"]})
    else:
        path.write_bytes(sealed(b"\x80\x05" + content))
    environment = {"OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent.parent)}
    ran = subprocess.run([sys.executable, "-c", LOADING, str(path)], env=environment, capture_output=True, timeout=20)
    assert said in ran.stdout.decode(), ran.stderr.decode()[-300:]
