"""784-128-64-10 in Keras on JAX: python keras_mlp.py DATASET TARGET no SEED WEIGHTS."""

import os
import sys

os.environ["KERAS_BACKEND"] = "jax"
import keras
import numpy as np
from keras import layers


def read(name, header):
    return np.fromfile(f"data/{dataset}/train-{name}-ubyte", np.uint8, offset=header)


class StopAt(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs):
        print(epoch + 1, logs["val_accuracy"], flush=True)
        self.model.stop_training = logs["val_accuracy"] >= float(target)


dataset, target, _, seed, weights = sys.argv[1:]
keras.utils.set_random_seed(int(seed))
X, Y = read("images-idx3", 16).reshape(-1, 784).astype(np.float32) / 255, read("labels-idx1", 8)
model = keras.Sequential([layers.Input((784,))])
for units in (128, 64):
    model.add(layers.Dense(units, activation="relu"))
model.add(layers.Dense(10))
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(optimizer=keras.optimizers.Adam(0.001), loss=loss, metrics=["accuracy"])
held_out = X[50_000:], Y[50_000:]
model.fit(X[:50_000], Y[:50_000], 128, 1000, verbose=0, validation_data=held_out, callbacks=[StopAt()])
model.save(weights)
