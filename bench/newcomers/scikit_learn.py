"""784-128-64-10 in scikit-learn: python scikit_learn.py DATASET TARGET AUGMENT SEED WEIGHTS."""

import math
import pickle
import sys

import numpy as np
from scipy.ndimage import affine_transform
from sklearn.neural_network import MLPClassifier


def read(name, header):
    return np.fromfile(f"data/{dataset}/train-{name}-ubyte", np.uint8, offset=header)


def augmented(image):
    """An image rotated by up to 10 degrees, scaled by up to a tenth, and shifted by up to a pixel."""
    turn, size, *shift = rng.uniform(-1, 1, 4) * (math.radians(10), 0.1, 1, 1)
    cos, sin = (1 + size) * math.cos(turn), (1 + size) * math.sin(turn)
    A, centre = np.array([[cos, sin], [-sin, cos]]), np.array([13.5, 13.5])
    return affine_transform(image.reshape(28, 28), A, centre - A @ centre + shift, order=1).ravel()


dataset, target, augment, seed, weights = sys.argv[1:]
rng = np.random.default_rng(int(seed))
X, Y = read("images-idx3", 16).reshape(-1, 784).astype(np.float32) / 255, read("labels-idx1", 8)
X, Y, X_val, Y_val = X[:50_000], Y[:50_000], X[50_000:], Y[50_000:]
model = MLPClassifier(
    (128, 64), solver="adam", learning_rate_init=0.001, batch_size=128, alpha=0, random_state=int(seed)
)
accuracy, epoch = 0.0, 0
while accuracy < float(target):
    images = np.stack([augmented(image) for image in X]) if augment == "yes" else X
    model.partial_fit(images, Y, classes=range(10))
    accuracy, epoch = model.score(X_val, Y_val), epoch + 1
    print(epoch, accuracy, flush=True)
with open(weights, "wb") as file:
    pickle.dump(model, file)
