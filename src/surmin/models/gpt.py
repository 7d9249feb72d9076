"""Small GPT: a decoder-only transformer over integer tokens."""

import torch
from torch import Tensor, nn

from surmin.models.attention import TransformerBlock
from surmin.models.errors import ModelError, require_positive


class TokenEmbedding(nn.Module):
    """Sum of a token's and its position's embedding: int64 (..., positions) to (..., positions, width)."""

    def __init__(self, vocabulary: int, context: int, width: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.randn(context, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Returns the embeddings; there may be fewer positions than the context, not more."""
        positions, context = tokens.shape[-1], len(self.positions)
        if positions > context:
            raise ModelError(f"samples of {positions} tokens are longer than the context of {context}")
        embedded: Tensor = self.tokens(tokens) + self.positions[:positions]
        return embedded


def gpt(
    vocabulary: int, context: int, layers: int, width: int, heads: int = 4, activation: str = "gelu"
) -> nn.Sequential:
    """Returns token embedding, `layers` pre-norm transformer blocks, layer norm and a linear head; no dropout.

    Args:
        vocabulary: number of tokens; inputs are int64 (n, positions), outputs (n, positions, vocabulary).
        context: the most positions a sample may have.
        layers: number of transformer blocks.
        width: size of a position's vector, divisible by `heads`.
        heads: attention heads per block.
        activation: a key of `ACTIVATIONS`, for the feed-forward parts.

    Raises:
        ModelError: a size below 1, a width that the heads do not divide, or an unknown activation.
    """
    require_positive(vocabulary=vocabulary, context=context, layers=layers, width=width, heads=heads)
    if width % heads:
        raise ModelError(f"width {width} is not divisible by {heads} heads")
    blocks = [TransformerBlock(context, width, heads, activation) for _ in range(layers)]
    embedding = TokenEmbedding(vocabulary, context, width)
    return nn.Sequential(embedding, *blocks, nn.LayerNorm(width), nn.Linear(width, vocabulary))
