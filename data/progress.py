"""The progress bar: tqdm's, or none where tqdm is not installed."""

from importlib.util import find_spec
from typing import TYPE_CHECKING

__all__ = ["tqdm"]

if TYPE_CHECKING or find_spec("tqdm"):
    from tqdm import tqdm
else:

    class tqdm:
        """Takes what tqdm takes, and shows nothing."""

        def __init__(self, iterable=(), **options):
            self.iterable = iterable

        def __iter__(self):
            return iter(self.iterable)

        def update(self, n):
            pass

        def close(self):
            pass
