"""Causal self-attention and the transformer block around it.

Written with plain products and softmax, so that forward-mode and nested differentiation work through it.
"""

import math

import torch
from torch import Tensor, nn

from surmin.models.activations import make_activation

EXPANSION = 4  # hidden size of the feed-forward part, as a multiple of the width


class CausalSelfAttention(nn.Module):
    """Multi-head attention of every position to itself and earlier ones: (..., positions, width) to the same."""

    hidden: Tensor

    def __init__(self, context: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project_in = nn.Linear(width, 3 * width)
        self.project_out = nn.Linear(width, width)
        hidden = torch.full((context, context), -math.inf).triu(diagonal=1)  # to be added: filling in costs a copy each
        self.register_buffer("hidden", hidden, persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns the attended values, of the inputs' shape."""
        positions = inputs.shape[-2]
        queries, keys, values = (self._split_heads(part) for part in self.project_in(inputs).chunk(3, dim=-1))
        scores = queries / math.sqrt(queries.shape[-1]) @ keys.mT + self.hidden[:positions, :positions]
        attended = scores.softmax(dim=-1) @ values
        projected: Tensor = self.project_out(attended.transpose(-2, -3).flatten(start_dim=-2))
        return projected

    def _split_heads(self, part: Tensor) -> Tensor:
        return part.unflatten(-1, (self.heads, part.shape[-1] // self.heads)).transpose(-2, -3)


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)): (..., positions, width) to the same."""

    def __init__(self, context: int, width: int, heads: int, activation: str) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(width), CausalSelfAttention(context, width, heads))
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, EXPANSION * width),
            make_activation(activation),
            nn.Linear(EXPANSION * width, width),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns the block's output, of the inputs' shape."""
        attended: Tensor = inputs + self.attention(inputs)
        outputs: Tensor = attended + self.feed_forward(attended)
        return outputs
