"""What lies on disk: datasets (fetched, verified, loaded), their augmentation, weights."""

import sys

if sys.hexversion < 0x030B0000:
    sys.exit("Python 3.11 or newer is needed")  # in place of a traceback
