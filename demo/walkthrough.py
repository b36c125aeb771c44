# %% [markdown]
"""
# A guided tour: from one neuron to a network that reads

Every step prints or plots what it made. Read it in `demo/walkthrough.ipynb`, run its cells there, or run all of it as a
script, which leaves its figures in `plots/walkthrough/`: `python -m demo.walkthrough`. To change it, change
`demo/walkthrough.py`, of which `make notebook` makes the notebook.

The network is the one in `nn.py`. Nothing of it is written again here, so keep that file open beside this one.
"""

# %%
# The next line is a comment to Python; Jupytext makes a command of it, which has the notebook show figures.
# %matplotlib inline
import sys
from pathlib import Path

sys.path.insert(  # the folder of nn.py; a notebook has no __file__
    0, str(next(f for f in Path(globals().get("__file__", "notebook")).resolve().parents if (f / "nn.py").exists()))
)

import numpy as np
from matplotlib.figure import Figure

import nn
from data.augment import Images, Strengths
from data.batches import make_batches
from data.datasets import DATASETS
from data.load import load, load_sets, scale_pixels
from demo import plots

np.set_printoptions(precision=3, suppress=True)


def show(figure: Figure, name: str) -> Figure:
    """The figure, for a notebook to show where it ends a cell; a script saves it."""
    if "__file__" in globals():
        folder = Path("plots", "walkthrough")
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / f"{name}.png")
        print("drawn:", folder / f"{name}.png")
    return figure


# %% [markdown]
# ## 1. One neuron, by hand
#
# One input $x$, one weight $w$, one bias $b$, one target $t$. The neuron answers $z_2$, and the loss $L$ says how wrong
# that is:
#
# $$ z_1 = x \, w \qquad z_2 = z_1 + b \qquad z_3 = t - z_2 \qquad L = z_3^2 $$
#
# How does $L$ change when $w$ changes a little? The chain rule multiplies the slopes of the steps, from the last back:
#
# $$ \frac{dL}{dz_3} = 2 z_3 \qquad \frac{dz_3}{dz_2} = -1 \qquad \frac{dz_2}{db} = 1 \qquad
# \frac{dz_2}{dz_1} = 1 \qquad \frac{dz_1}{dw} = x $$
#
# $$ \frac{dL}{db} = 2 z_3 \cdot (-1) \cdot 1 = -2 z_3 \qquad
# \frac{dL}{dw} = 2 z_3 \cdot (-1) \cdot 1 \cdot x = -2 z_3 \, x $$
#
# The two share their first factors. That is all that *backpropagation* means: go back once, and reuse what is known.

# %%
x, t = 2.0, 2.37
w, b = 0.5, 0.1


def neuron(w: float, b: float) -> tuple[float, float]:
    """z3 and the loss L."""
    z3 = t - (x * w + b)
    return z3, z3**2


z3, L = neuron(w, b)
dL_db = -2 * z3
dL_dw = -2 * z3 * x
print(f"z3 = {z3:.2f}   L = {L:.4f}   dL/db = {dL_db:.2f}   dL/dw = {dL_dw:.2f}")

# %% [markdown]
# Is that right? Ask in a way that needs no chain rule: nudge the weight both ways and see how far the loss moves, by a
# *finite difference*:
#
# $$ \frac{dL}{dw} \approx \frac{L(w + h) - L(w - h)}{2h} $$
#
# So are the gradients of `nn.py` tested, every entry of them.

# %%
h = 1e-4
by_b = (neuron(w, b + h)[1] - neuron(w, b - h)[1]) / (2 * h)
by_w = (neuron(w + h, b)[1] - neuron(w - h, b)[1]) / (2 * h)
print(f"by nudging:  dL/db = {by_b:.2f}   dL/dw = {by_w:.2f}")

# %% [markdown]
# `nn.py` does the same for many neurons. A loss, to it, is any function of the last layer's $Z$ and the targets $T$
# that gives a value, and its gradient with respect to $Z$. Here is ours; for one sample of one neuron, both are (1, 1).


# %%
def squared_error(Z: nn.Array, T: nn.Array) -> tuple[np.floating, nn.Array]:
    """L = z3² and dL/dZ = −2 · z3."""
    return ((T - Z) ** 2).sum(), -2 * (T - Z)


one_neuron = {"W1": np.array([[w]]), "b1": np.array([b])}
value, grads = nn.loss_and_gradients(one_neuron, np.array([[x]]), np.array([[t]]), loss=squared_error)
print(f"by nn.py:    dL/db = {grads['b1'][0]:.2f}   dL/dw = {grads['W1'][0, 0]:.2f}   L = {value:.4f}")

# %% [markdown]
# The gradient is negative: a larger $w$ makes the loss smaller. **Gradient descent** steps against the gradient, by a
# learning rate $\eta$:
#
# $$ w \leftarrow w - \eta \frac{dL}{dw} $$
#
# In the figure, the dashed line has the slope $dL/dw$, and the arrow is one step with $\eta = 0.08$. Look at how far it
# goes: with $\eta = 0.2$ it would end on the other side of the valley.

# %%
rate = 0.08
figure = Figure(figsize=(6, 3))
axes = figure.add_subplot(title="The loss of one neuron, and one step down", xlabel="w", ylabel="L")
line = np.linspace(0, 2.3, 100)
axes.plot(line, [neuron(v, b)[1] for v in line], color=plots.BLUE)
axes.plot(line, L + dL_dw * (line - w), "--", color=plots.GREY)
after = w - rate * dL_dw
axes.annotate("", (after, neuron(after, b)[1]), (w, L), arrowprops={"arrowstyle": "->", "color": plots.RED, "lw": 2})
axes.set(xlim=(0, 2.3), ylim=(-0.2, 4))
print(f"w = {w:.2f}, L = {L:.3f}   after the step: w = {after:.2f}, L = {neuron(after, b)[1]:.3f}")
show(figure, "1-neuron")

# %% [markdown]
# ## 2. Forward: a network answers
#
# A layer is many neurons side by side, and a batch is many inputs at once; both become one matrix product:
#
# $$ Z^{(l)} = A^{(l-1)} W^{(l)} + b^{(l)} \qquad A^{(l)} = f(Z^{(l)}) \qquad A^{(0)} = X $$
#
# Here are four inputs of two numbers each, and a question that no single neuron can answer: *are the two different?*
# Two inputs, three hidden units with $f = \tanh$, two outputs, one an answer: 0 for no, 1 for yes.

# %%
X = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
Y = np.array([0, 1, 1, 0])

tanh = nn.ACTIVATIONS["tanh"]
params = nn.init_params([2, 3, 2], nn.INITS["xavier"], np.random.default_rng(seed=3), np.float64)
for name, theta in params.items():
    print(f"{name} {theta.shape}\n{theta}")

# %% [markdown]
# `forward_propagation` returns every layer's result, since the way back will need them. Rows are samples: follow one
# row through. The last $Z$ are the *logits*. Softmax makes each row positive with the sum 1: read it as probabilities.

# %%
cache = nn.forward_propagation(params, X, tanh)
P = nn.softmax(cache["Z2"])
for name, A in (cache | {"softmax(Z2)": P}).items():
    print(f"{name} {A.shape}\n{A}")
W1, b1 = params["W1"], params["b1"]
z = 1 * W1[0, 0] + 1 * W1[1, 0] + b1[0]
print(f"by hand, row 3 and unit 0: z = 1 · {W1[0, 0]:.3f} + 1 · {W1[1, 0]:.3f} + {b1[0]:.3f} = {z:.3f}", end="")
print(f", tanh(z) = {np.tanh(z):.3f}; Z1[3, 0] = {cache['Z1'][3, 0]:.3f}, A1[3, 0] = {cache['A1'][3, 0]:.3f}")
print("sums of the rows of softmax(Z2):", P.sum(axis=1))

# %% [markdown]
# ## 3. Loss: how wrong is it?
#
# The *targets* $T$ are what the probabilities $P$ should be: `one_hot` writes 1 for the right answer of a row, 0 for
# others. Cross-entropy looks at one number a row, the probability $p$ given to the right answer, and takes $-\log p$: 0
# where $p = 1$, 0.69 for a coin's $p = 1/2$, and ever more as $p$ nears 0. The loss is the mean over the batch:
#
# $$ L = -\frac{1}{N} \sum_{n,k} T_{nk} \log P_{nk} $$

# %%
T = nn.one_hot(Y, 2, dtype=np.float64)
loss, dZ2 = nn.cross_entropy(cache["Z2"], T)
p = P[np.arange(4), Y]
print(f"T\n{T}")
print("p of the right answer:", p)
print("               −log p:", -np.log(p))
print(f"their mean {-np.log(p).mean():.4f}, and cross_entropy: {loss:.4f}")

# %% [markdown]
# ## 4. Backward: who is to blame?
#
# The same chain rule as in part 1, now with matrices, from the last layer to the first. The loss has told the first
# line, its gradient with respect to the logits; `backward_propagation` takes it from there:
#
# $$ \begin{aligned}
# dZ^{(2)} &= (P - T) / N && \text{what was answered, less what is right} \\
# dW^{(2)} &= A^{(1)\top} dZ^{(2)} & db^{(2)} &= \sum_n dZ^{(2)}_n \\
# dZ^{(1)} &= (dZ^{(2)} W^{(2)\top}) \odot f'(Z^{(1)}) && \text{the blame is handed back through the weights} \\
# dW^{(1)} &= A^{(0)\top} dZ^{(1)} & db^{(1)} &= \sum_n dZ^{(1)}_n
# \end{aligned} $$
#
# Each gradient has the shape of its parameter, as each weight wants its own answer: up or down, and how strongly?

# %%
print(f"dZ2 from cross_entropy\n{dZ2}\n(softmax(Z2) − T) / 4\n{(P - T) / 4}")
grads = nn.backward_propagation(params, cache, dZ2, tanh)
for name, gradient in grads.items():
    print(f"d{name} {gradient.shape}\n{gradient}")

# %% [markdown]
# Is it right? Nudge one weight, `W1[1, 1]`, by $\pm h$. As $h$ shrinks the two numbers agree in more and more digits,
# and then in fewer, since two nearly equal losses differ only in the last of their 16 digits: small is good, too small
# is not. From here on `loss_and_gradients` does parts 2 to 4 in one call.

# %%
exact = float(grads["W1"][1, 1])
print(f"backward_propagation   {exact:+.12f}")
for h in (1e-1, 1e-3, 1e-5, 1e-7, 1e-9):
    nudge = np.zeros_like(params["W1"])
    nudge[1, 1] = h
    up, down = ({**params, "W1": params["W1"] + sign * nudge} for sign in (1, -1))
    rise = nn.loss_and_gradients(up, X, T, tanh)[0] - nn.loss_and_gradients(down, X, T, tanh)[0]
    print(f"nudged by h = {h:.0e}    {rise / (2 * h):+.12f}   off by {abs(rise / (2 * h) - exact):.0e}")

# %% [markdown]
# ## 5. Update: a step, and its size
#
# $$ \theta \leftarrow \theta - \eta \frac{\partial L}{\partial \theta} \quad \text{for each weight and bias } \theta $$
#
# `update_params` returns new parameters and leaves the old ones as they were, so one start can try several rates. Look
# at where the loss stops falling and rises: the slope is only true nearby, and too large a step leaps over the valley.

# %%
print(f"loss before the step: {loss:.3f}")
for rate in (0.01, 0.1, 1.0, 10.0, 100.0):
    moved = nn.update_params(params, grads, rate)
    print(f"after one step of η = {rate:6g}: {nn.loss_and_gradients(moved, X, T, tanh)[0]:.3f}")

# %% [markdown]
# Forward, backward, update, again and again: that is training, all of it. The colours show what the network answers
# everywhere between the four points. One neuron can only cut the plane along a straight line; look for the two cuts.

# %%
losses = []
for _ in range(300):
    value, grads = nn.loss_and_gradients(params, X, T, tanh)
    params = nn.update_params(params, grads, learning_rate=0.5)
    losses.append(value)
print(f"loss: {losses[0]:.3f} at first, {losses[100]:.3f} after 100 steps, {losses[-1]:.3f} at last")
print("answers:", nn.make_predictions(params, X, tanh), "  right:", Y)

side = np.linspace(-0.5, 1.5, 120)
plane = np.array([[u, v] for v in side for u in side])
yes = nn.softmax(nn.forward_propagation(params, plane, tanh)["Z2"])[:, 1].reshape(120, 120)
figure = Figure(figsize=(8, 3.2))
left, right = figure.subplots(1, 2, width_ratios=[1.4, 1])
left.plot(losses, color=plots.BLUE)
left.set(title="Loss", xlabel="steps", ylim=(0, None))
right.imshow(yes, cmap=plots.SIGNED, vmin=0, vmax=1, extent=(-0.5, 1.5, -0.5, 1.5), origin="lower")
right.scatter(*X.T, s=80, color="white", edgecolors=plots.INK)
right.set(title="Are the two different? Red: yes", xticks=(0, 1), yticks=(0, 1))
show(figure, "2-xor")

# %% [markdown]
# ## 6. Images
#
# From two inputs to 784: an image of 28 × 28 grey levels, written as one row. The labels are 0 to 9. The last 10,000
# training images are the *validation set*: never learnt from, they tell how the network reads what it has not seen.

# %%
try:
    sets = load_sets("mnist", validation=True)
    (X_train, Y_train), (X_val, Y_val) = sets.training, sets.measured
    X_test, Y_test = load("mnist", "test")
except (OSError, ValueError) as error:
    sys.exit(f"walkthrough: {error}")
print("training", X_train.shape, X_train.dtype, "  validation", X_val.shape, "  test", X_test.shape)
title = f"The first 48; the labels of the first row are {' '.join(map(str, Y_train[:12]))}"
show(plots.draw_gallery(X_train[:48].reshape(4, 12, 784), title), "3-images")

# %% [markdown]
# An untrained network knows nothing: expect a loss of about $\log 10 = 2.3$, and one right answer in ten.

# %%
relu, adam = nn.ACTIVATIONS["relu"], nn.OPTIMIZERS["adam"]
params = nn.init_params([784, 64, 10], nn.INITS["he"], np.random.default_rng(seed=0))


def measure(params: nn.Params, X: Images, Y: nn.Labels) -> tuple[float, float]:
    """The loss, and the accuracy in 0..1, on images X with labels Y."""
    Z = nn.forward_propagation(params, scale_pixels(X), relu)["Z2"]
    loss, _ = nn.cross_entropy(Z, nn.one_hot(Y, 10))
    return float(loss), nn.get_accuracy(nn.get_predictions(Z), Y)


print("parameters:", sum(theta.size for theta in params.values()))
print("untrained: loss {:.2f}, accuracy {:.1%}".format(*measure(params, X_val, Y_val)))

# %% [markdown]
# ## 7. Training
#
# `gradient_descent` is the loop of part 5 with three changes. Each step looks at a batch of 128 images only: a rougher
# gradient, but 391 steps for the price of one. **Adam** gives each weight a step of its own size. And all that it uses
# is handed in: the batches by an iterator, which here shuffles the images anew each epoch and could augment them; the
# gradients by a function, which here first scales the pixels to 0..1. After each step it yields the state, all that the
# next one needs. Where the two curves part, it begins to learn the training images more than it learns to read.

# %%
gradients: nn.Gradients = lambda params, X, T: nn.loss_and_gradients(params, scale_pixels(X), T, relu)
T_train = nn.one_hot(Y_train, 10)
shown = {"training": (X_train[:10_000], Y_train[:10_000]), "validation": (X_val, Y_val)}
curves: tuple[dict[str, dict[int, float]], ...] = {name: {} for name in shown}, {name: {} for name in shown}
state = nn.init_state(params, adam)
for epoch in range(1, 6):
    batches = make_batches(X_train, T_train, 128, np.random.default_rng([0, epoch]), Strengths())
    losses = []
    for state in nn.gradient_descent(state, batches, adam, lambda step: 0.002, gradients):
        losses.append(state["loss"])
    for name, (X, Y) in shown.items():
        curves[0][name][epoch], curves[1][name][epoch] = measure(state["params"], X, Y)
    accuracy = curves[1]["validation"][epoch]
    print(f"epoch {epoch}  step {state['step']:4}  loss {np.mean(losses):.3f}  validation accuracy {accuracy:.2%}")
params = state["params"]
show(plots.draw_curves(*curves), "4-curves")

# %% [markdown]
# ## 8. What has it learned?
#
# First one image, forward through the trained network, as in part 2.

# %%
P = nn.softmax(nn.forward_propagation(params, scale_pixels(X_test[:1]), relu)["Z2"])
for digit, probability in enumerate(P[0]):
    print(f"{digit}  {probability:8.4%}  {'█' * round(40 * probability)}")
print("the label says", Y_test[0])

# %% [markdown]
# A hidden unit has 784 weights, one a pixel, so they can be shown as an image of what it looks for. Find strokes and
# their edges. The speckle in the corners is still the random start: no image has ink there, the gradient is always 0.

# %%
show(plots.draw_first_layer(params["W1"]), "5-first-layer")

# %% [markdown]
# Now the test set, once: it has chosen nothing, neither the rate nor the number of epochs, so this number is honest.
# And the mistakes: in which would you have hesitated, and where does the network have no excuse?

# %%
P = nn.softmax(nn.forward_propagation(params, scale_pixels(X_test), relu)["Z2"])
print(f"test accuracy {nn.get_accuracy(nn.get_predictions(P), Y_test):.2%}")
show(plots.draw_mistakes(X_test, Y_test, P, DATASETS["mnist"].classes), "6-mistakes")

# %% [markdown]
# ## Things to try
#
# - Part 1: one learning rate reaches the bottom in a single step. Which, and where does twice that rate lead?
# - Part 2: two hidden units, `[2, 2, 2]`. Seed 2 learns all four, seed 3 stays at a loss of 0.36. Which rows fail?
# - Part 2: no hidden layer, `[2, 2]`; the logits are then `Z1`. The loss ends at 0.69. Why there?
# - Part 6: an init that is all 0, `lambda rng, m, n: np.zeros((m, n))`. Only `b2` ever learns. Why?
# - Part 7: `nn.OPTIMIZERS["sgd"]` for Adam, with rates of 0.002 and of 0.2. What does Adam spare you?
# - Part 7: `Strengths(rotation=10, shift=1)` for the augmentation. Where do the two curves part now?
# - Part 8: shift the image by three pixels (`np.roll`), or dim it by half. What does the network hold on to?
# - All of it: `"fashion-mnist"` for `"mnist"`. Which clothes does it confuse, and would you?
#
# Then at full size: `make train`, its figures with `make plots`, and your own handwriting with `make demo`.
