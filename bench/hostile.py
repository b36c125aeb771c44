"""Files that pose as weights: each is to run code, namely to make the file "canary", or to take time and memory."""

import gzip
import io
import pickle
import struct
import zipfile

import numpy as np

from data.pickles import seal


def text(letters: str) -> bytes:
    return b"\x8c" + bytes([len(letters)]) + letters.encode()


def long1(number: int) -> bytes:
    return b"\x8a\x0b" + number.to_bytes(11, "little")


def named(function: str) -> bytes:
    """Opcodes that push module:function."""
    return b"".join(map(text, function.split(":"))) + b"\x93"


def call(function: str, *arguments: object) -> bytes:
    """Opcodes that call module:function with arguments: builtins, or bytes that are opcodes themselves."""
    pushes = (each if isinstance(each, bytes) else pickle.dumps(each, 2)[2:-1] for each in arguments)
    return named(function) + b"(" + b"".join(pushes) + b"tR"


def array(dtype: str = "<f4", shape: tuple[object, ...] = (4,), content: bytes = bytes(16)) -> dict[str, object]:
    """An array as files of weights hold it."""
    return {"dtype": dtype, "shape": list(shape), "bytes": bytearray(content)}


def weights(bias: object = None, **changed: object) -> bytes:
    """A file of weights that is sound but for what is given."""
    params = {"W1": array(shape=(2, 4), content=bytes(32)), "b1": array() if bias is None else bias}
    tree = {"format": 1, "params": params, "layers": [2, 4], "classes": list("0123"), "accuracy": 0.5}
    texts = {"activation": "relu", "loss": "cross_entropy", "dataset": "mnist", "measured_on": "test"}
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, 5)
    pickler.fast = True
    pickler.dump(tree | texts | changed | {"sha256": 64 * "0"})
    return seal(buffer.getvalue())


def zipped(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


PY, SH, SYSTEM, TOUCH, P4 = "open('canary', 'w')", "touch canary", b"cos\nsystem\n", text("touch canary"), b"\x80\x04"
PLANT = P4 + call("os:system", SH) + b"."
CALLS: dict[str, list[object]] = {
    "os:system": [SH], "posix:system": [SH], "os:mkdir": ["canary"], "subprocess:call": [SH.split()],
    "subprocess:Popen": [SH.split()], "subprocess:getoutput": [SH], "builtins:eval": [PY], "builtins:exec": [PY],
    "builtins:open": ["canary", "w"], "cProfile:run": [PY], "runpy:run_path": ["planted.py"],
    "timeit:timeit": [PY, "pass", named("time:perf_counter"), 1],
    "shutil:copyfile": ["hostile.pkl", "canary"], "numpy:load": ["planted.pkl", None, True],
    "numpy:savetxt": ["canary", [1.0]], "numpy:memmap": ["canary", "uint8", "w+", 0, 1],
    "numpy.testing._private.utils:runstring": [PY, {}], "numpy.f2py.crackfortran:myeval": [PY],
}  # fmt: skip
RUNNING = {f"call of {function}": P4 + call(function, *arguments) + b"." for function, arguments in CALLS.items()} | {
    "GLOBAL": SYSTEM + TOUCH + b"\x85R.",
    "protocol 0": SYSTEM + b"(S'touch canary'\ntR.",
    "INST": b"(" + TOUCH + b"ios\nsystem\n.",
    "OBJ": b"(" + SYSTEM + TOUCH + b"o.",
    "POP": SYSTEM + TOUCH + b"\x85R0}.",
    "memo": SYSTEM + b"\x940h\0" + TOUCH + b"\x85R.",
    "EXT1": P4 + b"\x82\xf0" + TOUCH + b"\x85R.",
    "EXT2": P4 + b"\x83\xf0\0" + TOUCH + b"\x85R.",
    "EXT4": P4 + b"\x84\xf0\0\0\0" + TOUCH + b"\x85R.",
    "in a key": P4 + b"}" + PLANT[2:-1] + b"Ns.",
    "among weights": P4 + b"}" + text("params") + PLANT[2:-1] + b"s.",
    "behind a frame": P4 + b"\x95" + struct.pack("<Q", len(PLANT) - 2) + PLANT[2:],
    "dotted name": P4 + call("pathlib:Path.touch", call("pathlib:Path", "canary")) + b".",
    "getattr": P4 + call("builtins:getattr", call("importlib:import_module", "os"), "system") + TOUCH + b"\x85R.",
    "methodcaller": P4 + call("operator:methodcaller", "touch") + call("pathlib:Path", "canary") + b"\x85R.",
    "partial": P4 + call("functools:partial", named("os:system"), SH) + b")R.",
    "numpy.vectorize": P4 + call("numpy:vectorize", named("os:system")) + TOUCH + b"\x85R.",
}
LIES = [
    ("BINBYTES8", b"\x8e", "<Q", 2**40), ("BINBYTES8", b"\x8e", "<Q", 2**63), ("BYTEARRAY8", b"\x96", "<Q", 2**40),
    ("BINUNICODE8", b"\x8d", "<Q", 2**40), ("LONG4", b"\x8b", "<i", 2**31 - 1), ("LONG4", b"\x8b", "<i", -1),
    ("BINBYTES", b"B", "<I", 2**32 - 1), ("BINUNICODE", b"X", "<I", 2**32 - 1), ("FRAME", b"\x95", "<Q", 2**40),
    ("LONG_BINPUT", b"}r", "<I", 2**31), ("LONG_BINGET", b"j", "<I", 2**31),
]  # fmt: skip
LYING = {f"{name} of {number}": opcode + struct.pack(form, number) + b"abc." for name, opcode, form, number in LIES}
OPCODES = LYING | {
    "NEWOBJ": b"csubprocess\nPopen\n)\x81.",
    "NEWOBJ_EX": b"csubprocess\nPopen\n)}\x92.",
    "BUILD": b"}}b.",
    "PERSID": b"Pcanary\n.",
    "BINPERSID": text("canary") + b"Q.",
    "LONG": b"L" + b"9" * 1_000_000 + b"L\n.",
    "INT": b"I1\n.", "FLOAT": b"F1\n.", "STRING": b"S'canary'\n.", "UNICODE": b"Vcanary\n.",
    "GET": b"g0\n.", "PUT": b"}p0\n.", "LIST": b"(l.", "DICT": b"(d.", "TUPLE": b"(t.", "EMPTY_SET": b"\x8f.",
    "FROZENSET for a key": b"}(K\x01\x91Ns.",
    "NEXT_BUFFER": b"\x97.", "READONLY_BUFFER": b"\x97\x98.",
    "doubled by DUP": b")" + b"2\x86" * 60 + b".",
    "doubled by the memo": b"]" + b"".join(b"\x94h%ch%c\x86" % (i, i) for i in range(60)) + b".",
    "lists in lists": b"]" * 100_000 + b"a" * 99_999 + b".",
    "tuples in tuples": b")" + b"\x85" * 200_000 + b".",
    "dicts in dicts": (b"}" + text("a")) * 100_000 + b"N" + b"s" * 100_000 + b".",
    "a deep key": b"})" + b"\x85" * 200_000 + b"Ns.",
    "a list for a key": b"}]Ns.",
    "millions of dicts": b"](" + b"}" * 9_000_000 + b"e.",
    "keys that collide": b"}(" + b"".join(long1((2**61 - 1) * i) + b"N" for i in range(1, 30_000)) + b"u.",
    "no STOP": b"}", "STOP alone": b".", "MARK alone": b"(.", "POP of nothing": b"0.",
    "APPENDS to a number": b"K\1(Ne.",
    "a long name": b"}(" + text("params") + b"}X\0\0\x10\0" + b"a" * 2**20 + b"Ns" + text("layers") + b"](K\2K\4eu.",
}  # fmt: skip
ARRAYS = {  # in the place of a bias of four float32
    "a huge shape": array(shape=(2**40, 4)), "a shape that overflows": array(shape=(2**32, 2**32)),
    "a negative shape": array(shape=(-2, -2)), "another shape": array(shape=(2, 2)),
    "a shape of texts": array(shape=("4",)), "a shape of floats": array(shape=(4.0,)),
    "a shape of a long": array(shape=(2**2000,)),
    "too few bytes": array(content=bytes(12)), "bytes cut within a number": array(content=bytes(15)),
    "too many bytes": array(content=bytes(20)), "no bytes": array(content=b""),
    "NaN": array(content=b"\xff" * 16), "infinity": array(content=b"\0\0\x80\x7f" * 4),
    "objects": array("|O"), "pointers": array("<O8", (2,)), "records": array("V4"), "integers": array("<i4"),
    "complex": array("<c8", (2,)), "halves": array("<f2", (8,)), "big-endian": array(">f4"),
    "no dtype": array("canary\n" * 99),
}  # fmt: skip
CHANGED: dict[str, dict[str, object]] = {
    "another format": {"format": 2}, "no layers": {"layers": None}, "layers of texts": {"layers": ["2", "4"]},
    "other layers": {"layers": [3, 4]}, "numbers for parameters": {"params": {"W1": 1, "b1": 1}},
    "too few classes": {"classes": ["0"]}, "numbers for classes": {"classes": [0, 1, 2, 3]},
    "an accuracy of 2": {"accuracy": 2.0}, "an accuracy of NaN": {"accuracy": float("nan")},
    "measured on another set": {"measured_on": "training"},
}  # fmt: skip
REFUSED = {name: b"\x80\x05" + content for name, content in OPCODES.items()} | {
    "protocol 255": b"\x80\xff}.",
    "nothing": b"",
    "zeros": bytes(10**6),
    "a web page": b"<!DOCTYPE html><title>Sign in</title>",
    "a gzip bomb": gzip.compress(bytes(1 << 25), 1),
    "a zip bomb": zipped("data.pkl", bytes(10**7)),
    "a pickle in a zip": zipped("archive/data.pkl", PLANT),
    "a pickle of NumPy's": pickle.dumps({"params": {"W1": np.zeros((2, 4))}}),
    "objects of NumPy's": pickle.dumps(np.array([None, PLANT])),
}
REFUSED |= {name: weights(bias) for name, bias in ARRAYS.items()}
REFUSED |= {name: weights(**changed) for name, changed in CHANGED.items()}
HOSTILE = RUNNING | REFUSED
