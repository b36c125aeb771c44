"""Writes a file whole or not at all."""

import os
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

if sys.platform != "win32":
    import fcntl


def is_writable(path: Path) -> bool:
    """Whether path is a file, a link to one, or nothing yet: no folder, FIFO, device or socket."""
    return path.is_file() or not path.exists()


def write_whole(path: Path, content: bytes) -> None:
    """Makes path hold content, all at once, whoever else is writing it. A link stays one, and a file keeps its mode.

    OSError that names path.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f"{target.name}.tmp")
    for place in path, temporary:
        if not is_writable(place):
            raise OSError(f"cannot write {path}: {place} is there and is no file; name another")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open_locked(temporary) as file:
            try:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                if target.exists():
                    temporary.chmod(stat.S_IMODE(target.stat().st_mode))
                if sys.platform == "win32":
                    file.close()  # no open file can be renamed there
                os.replace(temporary, target)  # before the lock ends with the file
            except BaseException:
                with suppress(OSError):
                    temporary.unlink()
                raise
    except OSError as error:
        raise OSError(
            f"cannot write {path}: {error.strerror}; check the folder's permissions and the space on its disk"
        ) from error


def open_locked(path: Path) -> BinaryIO:
    """path, empty and open for writing. What a killed run has left there goes; a run that is writing ends first."""
    while True:
        file = open(path, "ab")
        if sys.platform != "win32":
            with suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):  # the run before has renamed it
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                file.truncate(0)
                return file
        file.close()
