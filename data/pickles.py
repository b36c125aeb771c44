"""Trees of dicts, lists, builtins and arrays on disk: a pickle of builtins alone, so that loading one can run nothing.

An array is a dict of its dtype, shape and bytes. The last entry is the SHA-256 of all the bytes before it.
"""

import hashlib
import io
import pickle
import pickletools
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np

from data.files import write_whole

FORMAT = 1  # of the file
DIGEST, END = 64, 2  # its last bytes: the SHA-256 in hex, and the opcodes that end the dict and the pickle
MAX_BYTES, MAX_OPCODES, MAX_TEXT = 1 << 31, 10_000, 1000  # an array takes 15 opcodes or so
PLAIN = (
    "PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT SHORT_BINUNICODE BINUNICODE "
    "BYTEARRAY8 EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS".split()
)
OPCODES = {opcode.code.encode("latin-1"): opcode.name for opcode in pickletools.opcodes}


def pack(tree: object) -> object:
    """The tree with each array in it as a dict of dtype, shape and bytes."""
    if isinstance(tree, np.ndarray):
        return {"dtype": tree.dtype.str, "shape": list(tree.shape), "bytes": bytearray(tree.tobytes())}
    if isinstance(tree, Mapping):
        return {k: pack(v) for k, v in tree.items()}
    return [pack(v) for v in tree] if isinstance(tree, list) else tree


def unpack(tree: object) -> object:
    """The inverse of pack, which shares the bytes. ValueError or TypeError for what is no array of finite floats."""
    if isinstance(tree, bytearray):
        raise ValueError("there are bytes that belong to no array")
    if not isinstance(tree, dict):
        return [unpack(v) for v in tree] if isinstance(tree, list) else tree
    if tree.keys() != {"dtype", "shape", "bytes"}:
        return {k: unpack(v) for k, v in tree.items()}
    dtype = unpack(tree["dtype"])
    if dtype not in ("<f4", "<f8"):
        raise ValueError(f"arrays must be of <f4 or <f8, float32 or float64, got {dtype!r:.100}")
    A = np.frombuffer(tree["bytes"], str(dtype)).reshape(tree["shape"])
    if not np.isfinite(A).all():
        raise ValueError("NaN or infinity among the numbers")
    return A


def check_opcodes(content: bytes) -> None:
    """ValueError unless content is the pickle of builtins, few but for the bytes of arrays."""
    stream = io.BytesIO(content)
    opcodes = pickletools.genops(stream)
    for _ in range(MAX_OPCODES):  # each is looked at before it is decoded
        place = stream.tell()
        name = OPCODES.get(content[place : place + 1], "an unknown opcode, or is cut short")
        if name not in PLAIN:
            raise ValueError(f"it uses {name}, where weights are plain numbers, texts and bytes")
        if name == "BINUNICODE" and int.from_bytes(content[place + 1 : place + 5], "little") > MAX_TEXT:
            raise ValueError(f"a text of more than {MAX_TEXT} bytes")
        if name == "BYTEARRAY8":  # stepped over, not copied
            stream.seek(place + 9 + int.from_bytes(content[place + 1 : place + 9], "little"))
            continue
        next(opcodes)
        if name == "STOP" and stream.read(1):
            raise ValueError("there are bytes after its end")
        if name == "STOP":
            return
    raise ValueError(f"more than {MAX_OPCODES} opcodes")


def decode(content: bytes) -> dict[str, object]:
    """The tree of which content is the pickle. ValueError, or nearly any other, unless it is plain, small and whole."""
    if len(content) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES} bytes")
    check_opcodes(content)
    tree = pickle.loads(content)
    if not isinstance(tree, dict) or tree.pop("format", None) != FORMAT:
        raise ValueError(f"it is not of format {FORMAT}; to write it anew, train again: make train")
    if not tree or tree.popitem() != ("sha256", digest(content)):
        raise ValueError("its SHA-256 is another, so it is damaged; to write it anew, train again: make train")
    return cast(dict[str, object], unpack(tree))


def digest(content: bytes) -> str:
    """The SHA-256, in hex, of all before its own place."""
    return hashlib.sha256(memoryview(content)[: -DIGEST - END]).hexdigest()


def seal(content: bytes) -> bytes:
    """The pickle with its SHA-256 in its place."""
    return content[: -DIGEST - END] + digest(content).encode() + content[-END:]


def save_tree(path: Path, tree: Mapping[str, object]) -> None:
    """Writes a tree of dicts, lists, builtins and arrays to path. ValueError for what load_tree would refuse."""
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, protocol=5)
    pickler.fast = True  # no memo: nothing in the file refers to another part of it
    if own := {"format", "sha256"} & tree.keys():
        raise ValueError(f"{path} cannot hold this: {', '.join(sorted(own))} are names of the file's own")
    try:
        pickler.dump(pack({"format": FORMAT, **tree, "sha256": DIGEST * "0"}))
        content = seal(buffer.getvalue())
        decode(content)
    except Exception as error:  # as in load_tree
        raise ValueError(f"{path} cannot hold this: {error!r:.500}") from error
    write_whole(path, content)


def load_tree(path: Path) -> dict[str, object]:
    """The tree that save_tree wrote. ValueError for a file that is damaged, foreign or asks to run anything."""
    if not path.is_file():
        raise ValueError(f"{path} does not hold weights: it is no file")
    with open(path, "rb") as file:
        content = file.read(min(path.stat().st_size, MAX_BYTES) + 1)
    try:
        return decode(content)
    except Exception as error:  # a damaged file can raise nearly any
        raise ValueError(f"{path} does not hold weights: {error!r:.500}") from error
