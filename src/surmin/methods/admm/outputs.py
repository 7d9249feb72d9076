"""dlADMM's subproblems in a layer's output: after an activation, and at the top, at the loss.

Legend: z the variable for a linear layer's output, m what the layer makes of its input, f the activation after it, b
the variable for f(z); u the dual variable of z = m at the top, ρ the penalty, ℓ the loss of one sample.
"""

import math

import torch
from torch import Tensor, nn

from surmin.losses import ConvexLoss
from surmin.stages.elementwise import elementwise_derivative, elementwise_second_derivative
from surmin.stages.layer import Layer

SMOOTH = (nn.Tanh, nn.Sigmoid, nn.LogSigmoid, nn.Softplus, nn.Softsign, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Identity)
GRID = 9
NEWTON_STEPS = 6
MAX_STEPS, LOOK_EVERY = 500, 10


def solve_hidden(activation: Layer | None, m: Tensor, b: Tensor) -> Tensor:
    """The z that minimises (z - m)² + (b - f(z))², entry by entry.

    For ReLU the better of the two branches' minimisers, in closed form. For smooth activations the best of 9 points
    within |b - f(m)| of m, beyond which nothing is better than m itself, and from there six Newton steps, each taken
    unless it leads up.

    Args:
        activation: f, one of `SMOOTH` or ReLU; None for the identity.
        m: the layer's output.
        b: of the same shape.
    """
    if activation is None:
        return (m + b) / 2
    if isinstance(activation.module, nn.ReLU):
        below, above = m.clamp_max(0), ((m + b) / 2).clamp_min(0)
        is_below = (below - m).square() + b.square() < (above - m).square() + (b - above).square()
        return torch.where(is_below, below, above)
    return _polished(activation, _best_of_grid(activation, m, b), m, b)


def solve_top(loss: ConvexLoss, targets: Tensor, m: Tensor, u: Tensor, penalty: float, start: Tensor) -> Tensor:
    """The z that minimises ℓ(z) + ⟨u, z - m⟩ + ½ρ‖z - m‖², for every sample.

    By Nesterov's accelerated gradient for strongly convex functions, at most 500 steps, until no entry of the gradient,
    checked every ten steps, exceeds the dtype's resolution to the power ¾.

    Args:
        loss: of the network's outputs.
        targets: of the batch.
        m: the last layer's output.
        u: of the same shape, per sample.
        penalty: ρ.
        start: where to start.
    """
    smoothness = loss.smoothness(m) + penalty
    root = math.sqrt(penalty / smoothness)
    momentum = (1 - root) / (1 + root)
    tolerance = torch.finfo(m.dtype).eps ** 0.75
    z = ahead = start
    for step in range(1, MAX_STEPS + 1):
        gradient = loss.gradient(ahead, targets) + u + penalty * (ahead - m)
        before, z = z, ahead - gradient / smoothness
        ahead = z + momentum * (z - before)
        if step % LOOK_EVERY == 0 and not float(gradient.abs().max()) > tolerance:
            break
    return z


def _best_of_grid(activation: Layer, m: Tensor, b: Tensor) -> Tensor:
    reach = (b - activation.forward(m)).abs()
    best, least = m, reach.square()
    for share in torch.linspace(-1, 1, GRID).tolist():
        z = m + share * reach
        value = _value(z, activation.forward(z), m, b)
        best, least = torch.where(value < least, z, best), torch.minimum(value, least)
    return best


def _polished(activation: Layer, z: Tensor, m: Tensor, b: Tensor) -> Tensor:
    """Newton's method; where the function bends down, with the curvature of f's linearization instead."""
    slack = 1 + 8 * torch.finfo(z.dtype).eps
    image = activation.forward(z)
    for _ in range(NEWTON_STEPS):
        gap, first = b - image, elementwise_derivative(activation, z)
        curvature = 1 + first.square()
        full = curvature - gap * elementwise_second_derivative(activation, z)
        trial = z - (z - m - gap * first) / torch.where(full > 0, full, curvature)
        there = activation.forward(trial)
        is_good = _value(trial, there, m, b) <= slack * _value(z, image, m, b)
        z, image = torch.where(is_good, trial, z), torch.where(is_good, there, image)
    return z


def _value(z: Tensor, image: Tensor, m: Tensor, b: Tensor) -> Tensor:
    """The objective, with the image f(z)."""
    return (z - m).square() + (b - image).square()
