"""Writes a file whole or not at all."""

import os
from contextlib import suppress
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Makes path hold content, all at once, whoever else is writing it. OSError that names path."""
    temporary = path.with_name(f"{path.name}.{os.urandom(8).hex()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(
            f"cannot write {path}: {error.strerror}; check the folder's permissions and the space on its disk"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()
