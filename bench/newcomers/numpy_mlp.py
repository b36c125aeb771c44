"""784-128-64-10 with this project: python numpy_mlp.py DATASET TARGET AUGMENT SEED WEIGHTS."""

import sys
from collections import deque
from pathlib import Path

import numpy as np

import nn
from data.augment import Strengths
from data.batches import make_batches, scale_parts
from data.load import load_sets, scale_pixels
from data.weights import save_weights

dataset, target, augment, seed, weights = sys.argv[1:]
rng, adam, layers = np.random.default_rng(int(seed)), nn.OPTIMIZERS["adam"], [784, 128, 64, 10]
strengths = Strengths(rotation=10, scale=0.1, shift=1) if augment == "yes" else Strengths()
(X, Y), (X_val, Y_val), measured_on, classes = load_sets(dataset, validation=True)
T = nn.one_hot(Y, 10)


def gradients(params: nn.Params, x: nn.Samples, t: nn.Array) -> tuple[float, nn.Params]:
    return nn.loss_and_gradients(params, scale_pixels(x), t)


state, accuracy, epoch = nn.init_state(nn.init_params(layers, nn.INITS["he"], rng), adam), 0.0, 0
while accuracy < float(target):
    batches = make_batches(X, T, 128, rng, strengths)
    states = nn.gradient_descent(state, batches, adam, lambda step: 0.001, gradients)
    state = deque(states, maxlen=1).pop()  # the last
    predictions = [nn.make_predictions(state["params"], x) for x in scale_parts(X_val)]
    accuracy, epoch = nn.get_accuracy(np.concatenate(predictions), Y_val), epoch + 1
    print(epoch, accuracy, flush=True)
trained = {"params": state["params"], "layers": layers, "activation": "relu", "loss": "cross_entropy"}
measured = {"accuracy": accuracy, "measured_on": measured_on, "dataset": dataset, "classes": list(classes)}
save_weights(Path(weights), trained | measured)
