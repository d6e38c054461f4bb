"""Cross-attention encoders of VocaLiST, with the relations that distillation looks at.

Source: Kadandale et al., "VocaLiST: An Audio-Visual Synchronisation Model for Lips and Voices",
Interspeech 2022, whose encoders follow Tsai et al., "Multimodal Transformer for Unaligned
Multimodal Language Sequences", ACL 2019. Parameter names and their order are the published ones.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = [
    "CrossAttention",
    "CrossAttentionEncoder",
    "CrossAttentionLayer",
    "LayerRelations",
    "Positions",
    "future_mask",
]


class LayerRelations(NamedTuple):
    """What one attention layer knew. B batch, H heads, Lq queries, Lk keys, D = d / H.

    attention_logits: (B, H, Lq, Lk), Q·Kᵀ/√D with the mask added (−inf where hidden), no softmax.
    values: (B, H, Lk, D), the projected values; their relation is V·Vᵀ/√D.
    """

    attention_logits: Tensor
    values: Tensor

    def attention(self) -> Tensor:
        """The attention weights (B, H, Lq, Lk): each row sums to one."""
        return functional.softmax(self.attention_logits, dim=-1)

    def value_logits(self) -> Tensor:
        """The value relation before its softmax, V·Vᵀ/√D: (B, H, Lk, Lk)."""
        return self.values @ self.values.transpose(-1, -2) / math.sqrt(self.values.shape[-1])


def future_mask(queries: int, keys: int) -> Tensor:
    """Additive mask (queries, keys) float32: −inf at and beyond diagonal 1 + |keys − queries|.

    With 16 queries and 5 keys nothing is hidden; with 5 queries and 16 keys, query i does not see
    key columns i + 12 and above.
    """
    hidden = torch.full((queries, keys), float("-inf"))
    return torch.triu(hidden, diagonal=1 + abs(keys - queries))


class Positions(nn.Module):
    """Sinusoidal positions of the published encoders, with their quirk.

    Row p of the table (p ≥ 1) is [sin(p·ω), cos(p·ω)] with ω_i = exp(−i·ln(10000)/(d/2 − 1)).
    Token t gets row t + 1 only where its feature channel 0 is not zero, else nothing: the
    published code reads channel 0 as a token id whose padding value is 0. Behind a ReLU that
    happens often, so it must be kept for published weights to give published numbers.
    """

    _table: Tensor

    def __init__(self, dim: int, max_tokens: int = 64) -> None:
        super().__init__()
        half = dim // 2
        rate = torch.exp(
            torch.arange(half, dtype=torch.float32) * -(math.log(10000.0) / (half - 1))
        )
        angle = torch.arange(1, max_tokens + 1, dtype=torch.float32)[:, None] * rate[None, :]
        self.register_buffer("_float_tensor", torch.zeros(1))  # in published files, never read
        self.register_buffer("_table", torch.cat([angle.sin(), angle.cos()], 1), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Positions (B, L, d) for tokens (B, L, d) before their scaling."""
        table = self._table[: tokens.shape[1]]
        return torch.where(tokens[..., :1] != 0, table, torch.zeros_like(table))


class CrossAttention(nn.Module):
    """Multi-head attention of queries over keys and values from another sequence.

    ``in_proj_weight`` (3d, d) stacks Wq, Wk, Wv. q is scaled by D^-0.5 after projection and bias.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim {dim} is not divisible by {heads} heads")
        self.dim = dim
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def _project(self, tokens: Tensor, part: int) -> Tensor:
        rows = slice(part * self.dim, (part + 1) * self.dim)
        flat = functional.linear(tokens, self.in_proj_weight[rows], self.in_proj_bias[rows])
        return flat.unflatten(-1, (self.heads, self.dim // self.heads)).transpose(1, 2)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor
    ) -> tuple[Tensor, LayerRelations]:
        """(B, Lq, d), (B, Lk, d), (B, Lk, d), mask (Lq, Lk) → attended (B, Lq, d), relations."""
        q = self._project(query, 0) * (self.dim // self.heads) ** -0.5
        k = self._project(key, 1)
        v = self._project(value, 2)
        relations = LayerRelations(q @ k.transpose(-1, -2) + mask, v)
        mixed = relations.attention() @ v
        return self.out_proj(mixed.transpose(1, 2).flatten(2)), relations


class CrossAttentionLayer(nn.Module):
    """Pre-norm layer: attention, then feed-forward of width 4d. One norm serves Q, K and V."""

    def __init__(
        self, dim: int, heads: int, *, relu_dropout: float = 0.1, residual_dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.relu_dropout = relu_dropout
        self.residual_dropout = residual_dropout
        self.self_attn = CrossAttention(dim, heads)
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)
        self.layer_norms = nn.ModuleList([nn.LayerNorm(dim), nn.LayerNorm(dim)])
        for linear in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def _drop(self, tokens: Tensor, rate: float) -> Tensor:
        return functional.dropout(tokens, rate, self.training)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor
    ) -> tuple[Tensor, LayerRelations]:
        """Query tokens (B, Lq, d) after one layer, and what the attention knew."""
        norm = self.layer_norms[0]
        attended, relations = self.self_attn(norm(query), norm(key), norm(value), mask)
        query = query + self._drop(attended, self.residual_dropout)
        hidden = functional.relu(self.fc1(self.layer_norms[1](query)))
        hidden = self.fc2(self._drop(hidden, self.relu_dropout))
        return query + self._drop(hidden, self.residual_dropout), relations


class CrossAttentionEncoder(nn.Module):
    """Layers whose queries attend to the same keys and values, then a last LayerNorm."""

    def __init__(
        self, dim: int, heads: int = 8, layers: int = 4, *, embed_dropout: float = 0.25
    ) -> None:
        super().__init__()
        self.dim = dim
        self.embed_dropout = embed_dropout
        self.register_buffer("version", torch.tensor([2.0]))  # in published files, never read
        self.embed_positions = Positions(dim)
        self.layers = nn.ModuleList([CrossAttentionLayer(dim, heads) for _ in range(layers)])
        self.layer_norm = nn.LayerNorm(dim)

    def _embed(self, tokens: Tensor) -> Tensor:
        return math.sqrt(self.dim) * tokens + self.embed_positions(tokens)

    def _drop(self, tokens: Tensor) -> Tensor:
        return functional.dropout(tokens, self.embed_dropout, self.training)

    def forward(self, query: Tensor, source: Tensor) -> tuple[Tensor, tuple[LayerRelations, ...]]:
        """(B, Lq, d) attending to (B, Lk, d) → (B, Lq, d) and the relations of each layer.

        In training, keys and values are the source under two dropouts of its own.
        """
        embedded = self._embed(source)
        key, value = self._drop(embedded), self._drop(embedded)
        tokens = self._drop(self._embed(query))
        mask = future_mask(query.shape[1], source.shape[1]).to(tokens)
        relations = []
        for layer in self.layers:
            tokens, known = layer(tokens, key, value, mask)
            relations.append(known)
        return self.layer_norm(tokens), tuple(relations)
