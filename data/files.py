"""Writes a file whole or not at all."""

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

if sys.platform != "win32":
    import fcntl


def check_writable(path: Path) -> tuple[Path, Path]:
    """The file that a write of path replaces, links followed, and the temporary one beside it.

    OSError that names path where either is no file (a folder, FIFO, device, socket or endless link), or the folder
    cannot be written.
    """
    target = Path(os.path.realpath(path))
    temporary = Path(f"{target}.tmp")
    for place in target, temporary:
        with suppress(FileNotFoundError, NotADirectoryError):
            if not stat.S_ISREG(place.lstat().st_mode):
                raise OSError(f"cannot write {path}: {place} is there and is no file; name another")
    folder = next(parent for parent in target.parents if parent.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise OSError(f"cannot write {path}: the folder {folder} cannot be written; name another")
    return target, temporary


def write_whole(path: Path, content: bytes) -> None:
    """Makes path hold content, all at once, whoever else is writing it. A link stays one, and a file keeps its mode.

    OSError that names path.
    """
    target, temporary = check_writable(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open_locked(temporary) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            if target.exists():
                temporary.chmod(stat.S_IMODE(target.stat().st_mode))
            if sys.platform == "win32":
                file.close()  # no open file can be renamed there
            os.replace(temporary, target)  # before the lock ends with the file
    except BaseException as error:  # a signal's, too
        discard(temporary)
        if isinstance(error, OSError):
            hint = "check the folder's permissions and the space on its disk"
            raise OSError(f"cannot write {path}: {error.strerror}; {hint}") from error
        raise


@contextmanager
def open_locked(path: Path) -> Iterator[BinaryIO]:
    """path, empty and open for writing. What a killed run has left there goes; a run that is writing ends first."""
    while True:
        with open(path, "ab") as file:
            if sys.platform != "win32":
                with suppress(OSError):  # a file system without locks
                    fcntl.flock(file, fcntl.LOCK_EX)
            if is_at(path, file):  # else the run before has renamed it
                file.truncate(0)
                yield file
                return


def is_at(path: Path, file: BinaryIO) -> bool:
    """Whether that open file is the one at path."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def discard(path: Path) -> None:
    """Removes path, unless another run is writing it."""
    with suppress(OSError), open(path, "rb") as file:
        if sys.platform != "win32":
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_at(path, file):
            if sys.platform == "win32":
                file.close()  # no open file can be removed there
            path.unlink()
