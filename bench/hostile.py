"""Files that pose as weights: some run code (to make the file "canary"), some take time or memory, some are unsound."""

import copyreg
import gzip
import io
import pickle
import pickletools
import struct

import numpy as np

from data.pickles import seal


def text(letters: str) -> bytes:
    """The opcode that pushes a text of up to 255 letters."""
    return b"\x8c" + bytes([len(letters)]) + letters.encode()


def named(function: str) -> bytes:
    """Opcodes that push module:function."""
    return b"".join(map(text, function.split(":"))) + b"\x93"


def call(function: str, *arguments: object) -> bytes:
    """Opcodes that call module:function with arguments: builtins, or bytes that are opcodes themselves."""
    pushes = (each if isinstance(each, bytes) else pickle.dumps(each, 2)[2:-1] for each in arguments)
    return named(function) + b"(" + b"".join(pushes) + b"tR"


def sound_but(**changed: object) -> bytes:
    """A file of weights, 2 inputs and 4 classes, that is sound but for what is changed, in its bias or beside."""
    W1: dict[str, object] = {"dtype": "<f4", "shape": [2, 4], "bytes": bytearray(32)}
    b1 = {"dtype": "<f4", "shape": [4], "bytes": bytearray(16)} | {k: changed.pop(k) for k in W1.keys() & changed}
    texts = {"activation": "relu", "loss": "cross_entropy", "dataset": "mnist", "measured_on": "test"}
    tree = {"format": 1, "params": {"W1": W1, "b1": b1}, "layers": [2, 4], "classes": list("0123"), "accuracy": 0.5}
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, 5)
    pickler.fast = True
    pickler.dump(tree | texts | changed | {"sha256": 64 * "0"})
    return seal(buffer.getvalue())


PY, SH, SYSTEM, TOUCH, P4 = "open('canary', 'w')", "touch canary", b"cos\nsystem\n", text("touch canary"), b"\x80\x04"
PLANT = P4 + call("os:system", SH) + b"."  # "planted.pkl"; "planted.py" holds PY
copyreg.add_extension("os", "system", 0xF0)
CALLS: dict[str, list[object]] = {
    "os:system": [SH], "posix:system": [SH], "os:mkdir": ["canary"], "os:rename": ["planted.pkl", "canary"],
    "subprocess:call": [SH.split()], "subprocess:run": [SH.split()], "subprocess:Popen": [SH.split()],
    "subprocess:getoutput": [SH], "builtins:eval": [PY], "builtins:exec": [PY], "builtins:open": ["canary", "w"],
    "cProfile:run": [PY], "timeit:timeit": [PY, "pass", named("time:perf_counter"), 1],
    "runpy:run_path": ["planted.py"], "shutil:copyfile": ["hostile.pkl", "canary"], "logging:FileHandler": ["canary"],
    "urllib.request:urlretrieve": ["data:,x", "canary"], "numpy:load": ["planted.pkl", None, True],
    "numpy:savetxt": ["canary", [1.0]], "numpy:memmap": ["canary", "uint8", "w+", 0, 1],
    "numpy.testing._private.utils:runstring": [PY, {}], "numpy.f2py.crackfortran:myeval": [PY],
}  # fmt: skip
RUNNING = {f"call of {function}": P4 + call(function, *arguments) + b"." for function, arguments in CALLS.items()} | {
    "GLOBAL": SYSTEM + TOUCH + b"\x85R.", "protocol 0": SYSTEM + b"(S'touch canary'\ntR.",
    "INST": b"(" + TOUCH + b"ios\nsystem\n.", "OBJ": b"(" + SYSTEM + TOUCH + b"o.",
    "POP": SYSTEM + TOUCH + b"\x85R0}.", "memo": SYSTEM + b"\x940h\0" + TOUCH + b"\x85R.",
    "EXT1": P4 + b"\x82\xf0" + TOUCH + b"\x85R.", "EXT2": P4 + b"\x83\xf0\0" + TOUCH + b"\x85R.",
    "EXT4": P4 + b"\x84\xf0\0\0\0" + TOUCH + b"\x85R.", "in a key": P4 + b"}" + PLANT[2:-1] + b"Ns.",
    "NEWOBJ": P4 + call("numpy:memmap", "canary", "uint8", "w+", 0, 1)[:-1] + b"\x81.",
    "NEWOBJ_EX": P4 + call("numpy:memmap", "canary", "uint8", "w+", 0, 1)[:-1] + b"}\x92.",
    "among weights": P4 + b"}" + text("params") + PLANT[2:-1] + b"s.",
    "behind a frame": P4 + b"\x95" + struct.pack("<Q", len(PLANT) - 2) + PLANT[2:],
    "dotted name": P4 + call("pathlib:Path.touch", call("pathlib:Path", "canary")) + b".",
    "getattr": P4 + call("builtins:getattr", call("importlib:import_module", "os"), "system") + TOUCH + b"\x85R.",
    "methodcaller": P4 + call("operator:methodcaller", "touch") + call("pathlib:Path", "canary") + b"\x85R.",
    "partial": P4 + call("functools:partial", named("os:system"), SH) + b")R.",
    "numpy.vectorize": P4 + call("numpy:vectorize", named("os:system")) + TOUCH + b"\x85R.",
}  # fmt: skip
COLLIDING = [pickle.dumps((2**61 - 1) * i, 2)[2:-1] + b"N" for i in range(1, 30_000)]  # of hash 0, and None for each
ARGUMENTS = [b"1\n", *(struct.pack("<Q", n) for n in (2**31 - 1, 2**32 - 1, 2**40, 2**63))]
OPCODES = {
    **{f"{op.name} {n!r}": b"(}" + op.code.encode("latin-1") + n for op in pickletools.opcodes for n in ARGUMENTS},
    "LONG of a million digits": b"L" + b"9" * 1_000_000 + b"L\n.",
    "FROZENSET for a key": b"}(K\x01\x91Ns.", "a list for a key": b"}]Ns.", "no STOP": b"}",
    "APPENDS to a number": b"K\1(Ne.", "doubled by DUP": b")" + b"2\x86" * 60 + b".",
    "doubled by the memo": b"]" + b"".join(b"\x94h%ch%c\x86" % (i, i) for i in range(60)) + b".",
    "lists in lists": b"]" * 100_000 + b"a" * 99_999 + b".", "tuples in tuples": b")" + b"\x85" * 200_000 + b".",
    "dicts in dicts": (b"}" + text("a")) * 100_000 + b"N" + b"s" * 100_000 + b".",
    "a deep key": b"})" + b"\x85" * 200_000 + b"Ns.", "millions of dicts": b"](" + b"}" * 9_000_000 + b"e.",
    "keys that collide": b"}(" + b"".join(COLLIDING) + b"u.",
    "a long name": b"}(" + text("params") + b"}X\0\0\x10\0" + b"a" * 2**20 + b"Ns" + text("layers") + b"](K\2K\4eu.",
}  # fmt: skip
CHANGED: dict[str, dict[str, object]] = {
    "a huge shape": {"shape": [2**40, 4]}, "a shape that overflows": {"shape": [2**32, 2**32]},
    "a negative shape": {"shape": [-2, -2]}, "another shape": {"shape": [2, 2]}, "a shape of texts": {"shape": ["4"]},
    "a shape of floats": {"shape": [4.0]}, "a shape of a long": {"shape": [2**2000]},
    "too few bytes": {"bytes": bytearray(12)}, "bytes cut within a number": {"bytes": bytearray(15)},
    "too many bytes": {"bytes": bytearray(20)}, "no bytes": {"bytes": bytearray()},
    "NaN": {"bytes": bytearray(16 * b"\xff")}, "infinity": {"bytes": bytearray(4 * b"\0\0\x80\x7f")},
    "objects": {"dtype": "|O"}, "pointers": {"dtype": "<O8", "shape": [2]}, "records": {"dtype": "V4"},
    "integers": {"dtype": "<i4"}, "complex": {"dtype": "<c8", "shape": [2]}, "halves": {"dtype": "<f2", "shape": [8]},
    "big-endian": {"dtype": ">f4"}, "no dtype": {"dtype": "canary\n" * 99}, "another format": {"format": 2},
    "no layers": {"layers": None}, "layers of texts": {"layers": ["2", "4"]}, "other layers": {"layers": [3, 4]},
    "numbers for parameters": {"params": {"W1": 1, "b1": 1}}, "too few classes": {"classes": ["0"]},
    "numbers for classes": {"classes": [0, 1, 2, 3]}, "an accuracy of 2": {"accuracy": 2.0},
    "an accuracy of NaN": {"accuracy": float("nan")}, "measured on another set": {"measured_on": "training"},
}  # fmt: skip
ZIP = io.BytesIO()
np.savez_compressed(ZIP, zeros=np.zeros(10**7), objects=np.array([None, PLANT]))
REFUSED = {name: b"\x80\x05" + content for name, content in OPCODES.items()} | {
    "protocol 255": b"\x80\xff}.", "nothing": b"", "zeros": bytes(10**6),
    "a web page": b"<!DOCTYPE html><title>Sign in</title>",
    "a gzip bomb": gzip.compress(bytes(1 << 25), 1), "a zip bomb with a pickle": ZIP.getvalue(),
    "a pickle of NumPy's": pickle.dumps({"params": {"W1": np.zeros((2, 4))}}),
    "objects of NumPy's": pickle.dumps(np.array([None, PLANT])),
    **{name: sound_but(**changed) for name, changed in CHANGED.items()},
}  # fmt: skip
HOSTILE = RUNNING | REFUSED
