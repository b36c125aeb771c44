"""Writes a file whole or not at all."""

import os
import stat
from contextlib import suppress
from pathlib import Path


def is_writable(path: Path) -> bool:
    """Whether path is a file, a link to one, or nothing yet: no folder, FIFO, device or socket."""
    return path.is_file() or not path.exists()


def write_whole(path: Path, content: bytes) -> None:
    """Makes path hold content, all at once, whoever else is writing it. A link stays one, and a file keeps its mode.

    OSError that names path.
    """
    if not is_writable(path):
        raise OSError(f"cannot write {path}: it is there and is no file; name another")
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f"{target.name}.{os.urandom(8).hex()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            temporary.chmod(stat.S_IMODE(target.stat().st_mode))
        os.replace(temporary, target)
    except OSError as error:
        raise OSError(
            f"cannot write {path}: {error.strerror}; check the folder's permissions and the space on its disk"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()
