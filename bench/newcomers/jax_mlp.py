"""784-128-64-10 in JAX: python jax_mlp.py DATASET TARGET AUGMENT SEED WEIGHTS [scan]."""

import math
import sys

import jax
import numpy as np
from jax import numpy as jnp
from jax.scipy.ndimage import map_coordinates


def read(name, header):
    return np.fromfile(f"data/{dataset}/train-{name}-ubyte", np.uint8, offset=header)


def augmented(x, key):
    """Each image rotated by up to 10 degrees, scaled by up to a tenth, and shifted by up to a pixel."""
    turn, size, right, down = jax.random.uniform(key, (4, len(x)), minval=-1)
    down_, right_ = jnp.mgrid[:28, :28] - 13.5

    def one(image, turn, size, right, down):
        cos, sin = (1 + 0.1 * size) * jnp.cos(turn), (1 + 0.1 * size) * jnp.sin(turn)
        places = [sin * right_ + cos * down_ + down + 13.5, cos * right_ - sin * down_ + right + 13.5]
        return map_coordinates(image.reshape(28, 28), places, order=1).ravel()

    return jax.vmap(one)(x, math.radians(10) * turn, size, right, down)


def forward(params, x):
    for W, b in params[:-1]:
        x = jax.nn.relu(x @ W + b)
    return x @ params[-1][0] + params[-1][1]


def loss(params, x, y):
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(forward(params, x)), y[:, None], axis=1))


def step(state, rows):
    params, m, v, t, key = state
    key, noise = jax.random.split(key)
    x = X[rows].astype(jnp.float32) / 255
    grads = jax.grad(loss)(params, augmented(x, noise) if augment == "yes" else x, Y[rows])
    m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, grads)
    v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, grads)
    c1, c2 = 1 - 0.9 ** (t + 1), 1 - 0.999 ** (t + 1)
    params = jax.tree.map(lambda p, m, v: p - 0.001 * m / c1 / (jnp.sqrt(v / c2) + 1e-8), params, m, v)
    return (params, m, v, t + 1, key), None


dataset, target, augment, seed, weights, *scan = sys.argv[1:]
rng, layers = np.random.default_rng(int(seed)), [784, 128, 64, 10]
X, Y = jnp.asarray(read("images-idx3", 16).reshape(-1, 784)), jnp.asarray(read("labels-idx1", 8).astype(np.int32))
X_val, Y_val = X[50_000:].astype(jnp.float32) / 255, Y[50_000:]
shapes = zip(layers, layers[1:])
params = [(jnp.float32(rng.normal(0, math.sqrt(2 / m), (m, n))), jnp.zeros(n)) for m, n in shapes]
zeros = jax.tree.map(jnp.zeros_like, params)
state = params, zeros, jax.tree.map(jnp.copy, zeros), jnp.float32(0), jax.random.key(int(seed))
one_step = jax.jit(step, donate_argnums=0)
many_steps = jax.jit(lambda state, rows: jax.lax.scan(step, state, rows), donate_argnums=0)
accuracy_of = jax.jit(lambda params: jnp.mean(forward(params, X_val).argmax(1) == Y_val))
accuracy, epoch = 0.0, 0
while accuracy < float(target):
    order = rng.permutation(50_000).astype(np.int32)
    if scan:
        state, _ = many_steps(state, order[: 390 * 128].reshape(390, 128))
    for i in range(390 * 128 if scan else 0, 50_000, 128):
        state, _ = one_step(state, order[i : i + 128])
    accuracy, epoch = float(accuracy_of(state[0])), epoch + 1
    print(epoch, accuracy, flush=True)
np.savez(weights, **{f"{name}{l}": A for l, layer in enumerate(state[0], 1) for name, A in zip("Wb", layer)})
