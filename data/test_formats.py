"""Tests of the layouts that samples come in, and of the sets made of them: tiny made-up files."""

import gzip
import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import data.load
from data.datasets import DATASETS, NAMES
from data.formats import find, read_split, save_predictions
from data.load import load, load_measured, load_sets, parse_dataset

each = pytest.mark.parametrize
Array = NDArray[np.generic]
COUNTS = {"train": 12, "test": 7}


def made_up(count: int, classes: int = 10) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images (count, 28, 28) of noise, and labels that begin with 0, 1, 2, ..."""
    images = np.random.default_rng(count).integers(0, 256, (count, 28, 28), np.uint8)
    return images, np.arange(count, dtype=np.uint8) % classes


def idx(entries: NDArray[np.uint8]) -> bytes:
    return struct.pack(f">{1 + entries.ndim}I", 2048 + entries.ndim, *entries.shape) + entries.tobytes()


def table(images: NDArray[np.uint8], labels: Array | None, header: bool = False) -> str:
    columns = [] if labels is None else [labels]
    rows = np.column_stack([*columns, images.reshape(len(images), -1)]).tolist()
    names = [",".join(["label"] * len(columns) + [f"pixel{i}" for i in range(784)])] * header
    return "\n".join([*names, *(",".join(map(str, row)) for row in rows)]) + "\n"


def write_idx(
    folder: Path, form: str = "{split}-{kind}-idx{axes}-ubyte", packed: bool = False, test: str = "t10k"
) -> None:
    """The four files, named by that form."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in COUNTS.items():
        for kind, axes, entries in zip(("images", "labels"), (3, 1), made_up(count)):
            name = form.format(split=split if split == "train" else test, kind=kind, axes=axes)
            content = idx(entries.swapaxes(1, 2) if "emnist" in name and axes == 3 else entries)
            (folder / f"{name}{'.gz' * packed}").write_bytes(gzip.compress(content) if packed else content)


def write_csv(folder: Path, header: bool, form: str = "{}.csv", packed: bool = False) -> None:
    for split, count in COUNTS.items():
        content = table(*made_up(count), header).encode()
        (folder / form.format(split)).write_bytes(gzip.compress(content) if packed else content)


def write_npz(path: Path, flat: bool = False) -> None:
    sets = {split: made_up(count) for split, count in COUNTS.items()}
    arrays = {f"x_{split}": images.reshape(-1, 784) if flat else images for split, (images, _) in sets.items()}
    np.savez_compressed(path, allow_pickle=False, **arrays, **{f"y_{k}": labels for k, (_, labels) in sets.items()})


def write_twice(folder: Path) -> None:
    write_idx(folder)
    write_idx(folder, packed=True)


LAYOUTS: dict[str, Callable[[Path], None]] = {
    "MNIST": write_idx,
    "MNIST with dots": lambda folder: write_idx(folder, "{split}-{kind}.idx{axes}-ubyte"),
    "gzipped": lambda folder: write_idx(folder, packed=True),
    "plain and gzipped": write_twice,
    "torchvision's root": lambda folder: write_idx(folder / "MNIST" / "raw"),
    "torchvision's MNIST": lambda folder: write_idx(folder / "raw", packed=True),
    "EMNIST": lambda folder: write_idx(folder, "emnist-mnist-{split}-{kind}-idx{axes}-ubyte", True, "test"),
    "Kaggle's, header": lambda folder: write_csv(folder, header=True),
    "CSV, no header": lambda folder: write_csv(folder, header=False),
    "CSV with a name": lambda folder: write_csv(folder, True, "mnist_{}.csv"),
    "CSV, gzipped": lambda folder: write_csv(folder, True, packed=True),
    "Keras's npz": lambda folder: write_npz(folder / "mnist.npz"),
    "npz of rows": lambda folder: write_npz(folder / "own.npz", flat=True),
}


@each("layout", LAYOUTS)
def test_every_layout_gives_the_images_upright_and_their_labels(tmp_path: Path, layout: str) -> None:
    LAYOUTS[layout](tmp_path)
    for split, count in COUNTS.items():
        images, labels = made_up(count)
        X, Y = load(str(tmp_path), split)
        assert X.dtype == np.uint8 and Y.dtype == np.int64
        assert np.array_equal(X, images.reshape(count, 784)) and np.array_equal(Y, labels)
    sets = load_sets(str(tmp_path))
    assert (sets.measured_on, sets.classes) == ("test", tuple("0123456789")) and len(sets.training[0]) == 12


@each("name", ["{}", "{}/mnist.npz", "{}/mnist"])
def test_a_path_is_a_folder_or_a_file_or_how_names_begin(tmp_path: Path, name: str) -> None:
    write_npz(tmp_path / "mnist.npz")
    dataset = parse_dataset(name.format(tmp_path))
    assert np.array_equal(load(dataset, "test")[1], made_up(7)[1])


def test_a_folder_that_is_called_as_a_published_dataset_is_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnist").mkdir()
    write_npz(tmp_path / "mnist" / "mnist.npz")
    for name in "./mnist", "mnist/":
        assert np.array_equal(load(parse_dataset(name), "test")[1], made_up(7)[1])
    assert parse_dataset("mnist") == "mnist"


def test_one_of_several_datasets_is_named_by_how_its_files_begin(tmp_path: Path) -> None:
    write_idx(tmp_path, "emnist-letters-{split}-{kind}-idx{axes}-ubyte")
    write_idx(tmp_path, "emnist-digits-{split}-{kind}-idx{axes}-ubyte")
    with pytest.raises(
        ValueError, match="holds several datasets, emnist-digits-.*, emnist-letters-.*how its names begin"
    ):
        load(str(tmp_path), "train")
    assert len(load(parse_dataset(f"{tmp_path}/emnist-letters"), "train")[0]) == 12
    assert find(tmp_path, "nothing") is None


def test_folders_of_images_are_classes(tmp_path: Path) -> None:
    Image = pytest.importorskip("PIL.Image")
    images, _ = made_up(12)
    for i, image in enumerate(images):
        path = tmp_path / "train" / ("cat", "a dog")[i % 2] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    (tmp_path / "train" / "cat" / ".DS_Store").write_bytes(b"x")
    sets = load_sets(str(tmp_path))
    assert (sets.measured_on, sets.classes) == ("validation", ("a dog", "cat"))
    X, Y = load(str(tmp_path), "train")
    assert Y.tolist() == [0] * 6 + [1] * 6 and np.array_equal(
        X, images.reshape(12, -1)[[*range(1, 12, 2), *range(0, 12, 2)]]
    )
    assert (len(sets.training[0]), len(sets.measured[0])) == (10, 2)
    Image.new("L", (27, 28)).save(tmp_path / "train" / "cat" / "1.png")
    with pytest.raises(ValueError, match="train/cat/1.png is 27 x 28 pixels, expected 28 x 28"):
        load(str(tmp_path), "train")
    (tmp_path / "train" / "cat" / "1.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="train/cat/1.png is not an image that can be read"):
        load(str(tmp_path), "train")


def test_images_that_would_be_read_wrong_are_refused(tmp_path: Path) -> None:
    Image = pytest.importorskip("PIL.Image")
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "train" / ".hidden").mkdir()
    path = tmp_path / "train" / "a" / "1.png"
    for mode in "I;16", "RGBA", "LA":
        Image.new(mode, (28, 28)).save(path)
        with pytest.raises(ValueError, match="a/1.png has more than 8 bits a pixel, or transparency"):
            load(str(tmp_path), "train")
    Image.new("RGB", (28, 28), "white").save(path)
    assert load(str(tmp_path), "train")[0].min() == 255
    (tmp_path / "test").mkdir()
    with pytest.raises(ValueError, match="has one class, a: there is nothing to tell apart"):
        load_sets(str(tmp_path))
    (tmp_path / "train" / "b").mkdir()
    Image.new("L", (28, 28)).save(tmp_path / "train" / "b" / "2.png")
    with pytest.raises(ValueError, match="has 2 training samples, too few to set a sixth apart"):
        load_sets(str(tmp_path))
    Image.new("L", (28, 28)).save(tmp_path / "test" / "7.png")
    assert [len(part) for part in load(str(tmp_path), "test")] == [1, 0]
    (tmp_path / "test" / "a").mkdir()
    with pytest.raises(ValueError, match="holds folders of classes, and 7.png beside them"):
        load(str(tmp_path), "test")
    (tmp_path / "train" / "a\n").mkdir()
    with pytest.raises(ValueError, match="a class whose name cannot be printed"):
        load(str(tmp_path), "train")


def test_classes_are_the_labels_that_there_are(tmp_path: Path) -> None:
    images, labels = made_up(52, 26)
    (tmp_path / "train.csv").write_text(table(images, labels + 1))
    (tmp_path / "test.csv").write_text(table(images[:3], np.array([26, 1, 3])))
    sets = load_sets(str(tmp_path))
    assert sets.classes == tuple(str(k) for k in range(1, 27))
    assert sets.training[1].tolist() == labels.tolist() and sets.measured[1].tolist() == [25, 0, 2]
    (tmp_path / "test.csv").write_text(table(images[:3], np.array([26, 27, 3])))
    with pytest.raises(ValueError, match="the test set of .* has the label 27, none of 1, 2, .*, 26"):
        load_sets(str(tmp_path))
    with pytest.raises(ValueError, match="the train set of .* has the label 10, none of 1, 2"):  # of the weights
        load_measured(str(tmp_path), True, ("1", "2"), unlabelled=False)


def test_without_test_labels_the_last_sixth_of_the_shuffled_training_set_is_measured(tmp_path: Path) -> None:
    images, labels = made_up(60)
    order = np.argsort(labels, kind="stable")  # sorted by class, as folders are
    (tmp_path / "train.csv").write_text(table(images[order], labels[order]))
    for test in None, table(images[:5], None):
        if test:
            (tmp_path / "test.csv").write_text(test)
        sets, again = load_sets(str(tmp_path)), load_sets(str(tmp_path), validation=True)
        assert sets.measured_on == "validation" and [len(Y) for _, Y in sets[:2]] == [50, 10]
        assert len(set(sets.measured[1].tolist())) > 4 and np.array_equal(sets.measured[0], again.measured[0])
        seen = {x.tobytes() for X, _ in sets[:2] for x in X}
        assert seen == {image.tobytes() for image in images}
        (X, Y), which = load_measured(str(tmp_path), False, sets.classes, unlabelled=False)
        assert which == "validation" and np.array_equal(X, sets.measured[0])
    assert len(set(load_sets(str(tmp_path), samples=20).training[1].tolist())) > 4
    (X, Y), which = load_measured(str(tmp_path), False, sets.classes, unlabelled=True)
    assert (which, len(X), len(Y)) == ("test", 5, 0)
    (tmp_path / "train.csv").write_text(test or "")
    with pytest.raises(ValueError, match="the train set of .* has no labels"):
        load_sets(str(tmp_path))


def test_predictions_are_written_as_kaggle_takes_them(tmp_path: Path) -> None:
    save_predictions(tmp_path / "new" / "own.csv", ["7", "a, b"])
    assert (tmp_path / "new" / "own.csv").read_text() == 'ImageId,Label\n1,7\n2,"a, b"\n'
    save_predictions(tmp_path / "new" / "own.csv", ["8"])
    (tmp_path / "test.csv").write_text(before := table(*made_up(2)))
    with pytest.raises(FileExistsError, match="test.csv holds no predictions, and is not replaced"):
        save_predictions(tmp_path / "test.csv", ["7"])
    assert (tmp_path / "test.csv").read_text() == before


# Bad files


IMAGES, LABELS = NAMES[:2]
PIXELS, DIGITS = made_up(12)
CONTENT = {IMAGES: idx(PIXELS), LABELS: idx(DIGITS)}


@each(("name", "content", "reason"), [
    (IMAGES, b"", "found 0 bytes, expected a header of 16"),
    (IMAGES, CONTENT[IMAGES][:15], "found 15 bytes, expected a header of 16"),
    (IMAGES, CONTENT[IMAGES][:-1], "after the header come 9407 bytes, expected 9408 for 12 entries"),
    (IMAGES, CONTENT[IMAGES] + b"\0", "after the header come more than 9408 bytes"),
    (IMAGES, gzip.compress(CONTENT[IMAGES])[:-9], "ended before the end-of-stream marker"),
    (IMAGES, CONTENT[LABELS], "magic number .* is 2049, not 2051"),
    (LABELS, CONTENT[IMAGES], "magic number .* is 2051, not 2049"),
    (LABELS, CONTENT[LABELS][:-1], "come 11 bytes, expected 12"),
    (IMAGES, struct.pack(">4I", 2051, 2**32 - 1, 28, 28) + PIXELS.tobytes(), "says that 3367254359280 bytes follow"),
    (IMAGES, struct.pack(">4I", 2051, 0, 28, 28), "found 0 images and 12 labels"),
    (IMAGES, idx(PIXELS.reshape(12, 14, 56)), r"size of an image is \(14, 56\), expected \(28, 28\)"),
    (LABELS, idx(np.append(DIGITS[:-1], np.uint8(10))), "has the label 10, none of 0, 1, "),
    (LABELS, idx(DIGITS[:-1]), "found 12 images and 11 labels"),
    (IMAGES, None, "mnist holds no train set: found no IDX files, train.csv, an npz"),
    (LABELS, None, f"beside .*mnist/{IMAGES} lie no labels, {LABELS}"),
])  # fmt: skip
def test_a_wrong_file_of_a_published_dataset_is_named_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes | None, reason: str
) -> None:
    write_idx(tmp_path / "mnist")
    monkeypatch.setattr(data.load, "HOME", tmp_path)
    (tmp_path / "mnist" / name).unlink() if content is None else (tmp_path / "mnist" / name).write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=f"{reason}.*: make data DATASET=mnist"):
        load("mnist", "train")
    load("mnist", "test")


@each("name", [IMAGES, LABELS])
def test_any_change_of_a_header_is_refused(tmp_path: Path, name: str) -> None:
    write_idx(tmp_path)
    for place in range(16 if name == IMAGES else 8):
        for bit in range(8):
            content = bytearray(CONTENT[name])
            content[place] ^= 1 << bit
            (tmp_path / name).write_bytes(content)
            with pytest.raises(ValueError, match=name):
                read_split(tmp_path, "train")


ROW = ",".join(["3", *["0"] * 784])
HEADER = ",".join(["label", *(f"pixel{i}" for i in range(784))])


@each(("text", "reason"), [
    ("", "line 1 has 1 columns, expected a label and 784 grey levels"),
    ("label\n3\n", "line 1 has 1 columns"),
    (f"{ROW}\n{ROW},0\n", "line 2"),
    (f"{ROW}\n{ROW}\n{ROW[:-1]}x\n", "'x' to uint8 at line 3, column 785"),
    (f"{HEADER}\n{ROW}\n{ROW[:-1]}300\n", "'300' to uint8 at line 3, column 785"),
    (f"{ROW}\n{ROW[:-1]}-1\n", "'-1' to uint8 at line 2, column 785"),
    (f"{ROW}\n{ROW[:-1]}0.5\n", "'0.5' to uint8 at line 2, column 785"),
    (f"{ROW}\nA{ROW[1:]}\n", "'A' to uint8 at line 2, column 1"),
    (f"{HEADER[6:]},class\n{ROW}\n", "line 1 begins with pixel0, expected the label first"),
    (f"{HEADER}\n", "found no samples"), (f"{HEADER[6:]}\n{ROW}\n", "line 1 has 784 columns, the others 785"),
])  # fmt: skip
@pytest.mark.filterwarnings("error")
def test_a_wrong_csv_is_refused_with_its_line(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "train.csv").write_text(text)
    with pytest.raises(ValueError, match=f"train.csv: .*{reason}"):
        read_split(tmp_path, "train")


@each(("header", "labelled"), [("label,pixel", True), ("\ufefflabel,", True), ("id,pixel", False), ("ImageId,", False)])
def test_headers_of_many_kinds_are_known(tmp_path: Path, header: str, labelled: bool) -> None:
    name, _, start = header.partition(",")
    header = ",".join([name, *(f"{start}{i}" for i in range(784))])
    (tmp_path / "test.csv").write_text(f"{header}\r\n{ROW}\r\n", encoding="utf-8")
    images, labels = read_split(tmp_path, "test")
    assert images.shape == (1, 784) and (labels is not None) == labelled


@each(("arrays", "reason"), [
    ({"x_test": PIXELS}, "x_train is not a file in the archive"),
    ({"x_train": PIXELS[:, 1:], "y_train": DIGITS}, r"x_train \(12, 27, 28\) must be \(N, 28, 28\)"),
    ({"x_train": PIXELS, "y_train": DIGITS[1:]}, r"y_train \(11,\) must be 12 whole numbers"),
    ({"x_train": PIXELS / 255, "y_train": DIGITS}, "must be whole numbers in 0..255"),
    ({"x_train": PIXELS.astype(int) - 1, "y_train": DIGITS}, "must be whole numbers in 0..255"),
    ({"x_train": PIXELS, "y_train": DIGITS / 1}, r"y_train \(12,\) must be 12 whole numbers"),
    ({"x_train": PIXELS, "y_train": np.array([{}] * 12, object)}, "cannot be loaded when allow_pickle=False"),
    ({"x_train": PIXELS[:0], "y_train": DIGITS[:0]}, "found 0 images"),
])  # fmt: skip
def test_a_wrong_npz_is_refused(tmp_path: Path, arrays: dict[str, Array], reason: str) -> None:
    np.savez(tmp_path / "own.npz", allow_pickle=True, **arrays)
    with pytest.raises((ValueError, FileNotFoundError), match=f"own.npz.*{reason}"):
        read_split(tmp_path, "train")


def test_what_holds_nothing_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match="holds no train set: found no IDX files, train.csv, an npz archive, or a "
    ):
        read_split(tmp_path, "train")
    with zipfile.ZipFile(tmp_path / "digit-recognizer.zip", "w") as archive:
        archive.writestr("train.csv", "x")
    for place in tmp_path, tmp_path / "digit-recognizer.zip":
        with pytest.raises(FileNotFoundError, match="holds digit-recognizer.zip, still packed; unpack it there"):
            read_split(place, "train")
    with pytest.raises(ValueError, match="no split 'valid', only train and test"):
        load("mnist", "valid")


# Published datasets


@each(("validation", "samples", "counts"), [
    (False, 0, (12, 7)), (False, 5, (5, 7)), (False, 12, (12, 7)), (True, 0, (10, 2)), (True, 10, (10, 2)),
])  # fmt: skip
def test_samples_are_the_first_and_the_validation_set_is_the_last_sixth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, validation: bool, samples: int, counts: tuple[int, int]
) -> None:
    write_idx(tmp_path / "mnist")
    monkeypatch.setattr(data.load, "HOME", tmp_path)
    X, Y = load("mnist", "train")
    tested = (X[10:], Y[10:]) if validation else load("mnist", "test")
    if validation:
        (tmp_path / "mnist" / NAMES[2]).unlink()  # the test set is not read
    sets = load_sets("mnist", validation, samples)
    assert (len(sets.training[0]), len(sets.measured[0])) == counts
    for i in (0, 1):
        assert np.array_equal(sets.training[i], (X, Y)[i][: counts[0]])
        assert np.array_equal(sets.measured[i], tested[i])
    assert (sets.measured_on, sets.classes) == ("validation" if validation else "test", DATASETS["mnist"].classes)
    N = 10 if validation else 12
    with pytest.raises(ValueError, match=f"there are {N} training samples, fewer than the 13 asked for"):
        load_sets("mnist", validation, 13)


def test_mutated_files_are_refused_or_well_formed(tmp_path: Path) -> None:
    """A few; fault injection (bench/faults.py) tries thousands."""
    packed, dice = io.BytesIO(), np.random.default_rng(0)
    np.savez_compressed(packed, x_train=PIXELS, y_train=DIGITS)
    for content in (packed.getvalue(),) * 200:
        damaged = bytearray(content)
        damaged[dice.integers(len(damaged))] = dice.integers(256)
        (tmp_path / "own.npz").write_bytes(damaged)
        try:
            images, labels = read_split(tmp_path, "train")
            assert images.shape == (12, 784) and labels is not None and labels.shape == (12,)
        except (ValueError, FileNotFoundError) as error:
            assert str(tmp_path / "own.npz") in str(error)
