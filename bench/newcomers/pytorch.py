"""784-128-64-10 in PyTorch: python pytorch.py DATASET TARGET AUGMENT SEED WEIGHTS [compile]."""

import math
import sys

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


def read(name: str, header: int) -> torch.Tensor:
    return torch.from_numpy(np.fromfile(f"data/{dataset}/train-{name}-ubyte", np.uint8, offset=header))


def augmented(x: torch.Tensor) -> torch.Tensor:
    """Each image rotated by up to 10 degrees, scaled by up to a tenth, and shifted by up to a pixel."""
    turn, size, right, down = (2 * torch.rand(4, len(x)) - 1) * torch.tensor([math.radians(10), 0.1, 1 / 14, 1 / 14])[
        :, None
    ]
    cos, sin = (1 + size) * torch.cos(turn), (1 + size) * torch.sin(turn)
    theta = torch.stack([cos, -sin, right, sin, cos, down], 1).view(-1, 2, 3)
    images = x.view(-1, 1, 28, 28)
    return F.grid_sample(images, F.affine_grid(theta, list(images.shape), False), align_corners=False).flatten(1)


dataset, target, augment, seed, weights, *compiled = sys.argv[1:]
torch.manual_seed(int(seed))
X, Y = read("images-idx3", 16).view(-1, 784).float() / 255, read("labels-idx1", 8).long()
X, Y, X_val, Y_val = X[:50_000], Y[:50_000], X[50_000:], Y[50_000:]
model = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=0.001, fused=True)


def loss_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(x), y)


if compiled:
    loss_of = torch.compile(loss_of)
accuracy, epoch = 0.0, 0
while accuracy < float(target):
    for rows in torch.randperm(len(X)).split(128):
        x = augmented(X[rows]) if augment == "yes" else X[rows]
        optimizer.zero_grad()
        loss_of(x, Y[rows]).backward()
        optimizer.step()
    with torch.inference_mode():
        accuracy, epoch = (model(X_val).argmax(1) == Y_val).float().mean().item(), epoch + 1
    print(epoch, accuracy, flush=True)
torch.save(model.state_dict(), weights)
