"""The student: a bag of static token vectors, pooled by several learned queries, and a small network on top.

Everything that depends on one token alone (its vector, its weight under each query) is a table row, so that
serving gathers and pools and hardly multiplies. Position counts through a bias on the distance from the
beginning and from the end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

REACH = 64
"""Distances from either end beyond this one count alike."""


PAIR_LEFT, PAIR_RIGHT = 31_337, 15_487_469
"""What the ids of two neighbours are multiplied by to make the number of their bucket."""


@dataclass(frozen=True, slots=True)
class Design:
    """What distinguishes one student from another; widths in numbers of units, rates as fractions."""

    heads: int = 4
    hidden: int = 256
    dropout: float = 0.3
    token_dropout: float = 0.15
    learn_vectors: bool = True
    norm: bool = True
    pair_buckets: int = 0
    pair_width: int = 32
    seed: int = 0


class Batch(NamedTuple):
    """Texts end to end: token ids, shape (tokens,); where each text begins, shape (texts,), int64."""

    ids: Tensor
    offsets: Tensor


class Student(nn.Module):
    """Logits, shape (texts, labels), of a `Batch`; table rows get sparse gradients."""

    def __init__(self, vectors: Tensor, labels: int, design: Design) -> None:
        super().__init__()
        size, width = vectors.shape
        self.design, self.width = design, width
        self.table = nn.Embedding(size, width, sparse=True, _weight=vectors.clone())
        self.table.weight.requires_grad_(design.learn_vectors)
        self.queries = nn.Embedding(size, design.heads, sparse=True)
        nn.init.normal_(self.queries.weight, std=0.02)
        self.start = nn.Parameter(torch.zeros(REACH, design.heads))
        self.end = nn.Parameter(torch.zeros(REACH, design.heads))
        with torch.no_grad():  # queries begin apart: two even ones, then the end, then the beginning
            fade = torch.linspace(0, -3, REACH)
            for head in range(design.heads):
                if head % 4 == 2:
                    self.end[:, head] = fade
                if head % 4 == 3:
                    self.start[:, head] = fade
        pooled = width * design.heads
        if design.pair_buckets:
            self.pairs = nn.Embedding(design.pair_buckets, design.pair_width, sparse=True)
            nn.init.normal_(self.pairs.weight, std=0.02)
            pooled += design.pair_width
        self.norm = nn.LayerNorm(pooled) if design.norm else nn.Identity()
        self.inner = nn.Linear(pooled + 1, design.hidden)
        self.outer = nn.Linear(design.hidden, labels)
        self.drop = nn.Dropout(design.dropout)

    def tables(self) -> list[nn.Parameter]:
        """The parameters with sparse gradients."""
        every = [self.get_parameter("table.weight"), self.get_parameter("queries.weight")]
        if self.design.pair_buckets:
            every.append(self.get_parameter("pairs.weight"))
        return [table for table in every if table.requires_grad]

    def forward(self, batch: Batch) -> Tensor:
        ids, offsets = batch
        counts = torch.diff(offsets, append=torch.tensor([len(ids)]))
        length = torch.log1p(counts[:, None].float()) / 4
        texts = torch.repeat_interleave(torch.arange(len(offsets)), counts)
        place = torch.arange(len(ids)) - offsets[texts]
        from_end = counts[texts] - 1 - place
        if self.training and self.design.token_dropout:
            keep = (torch.rand(len(ids)) >= self.design.token_dropout) | (place == 0)
            ids, texts, place, from_end = ids[keep], texts[keep], place[keep], from_end[keep]
            counts = torch.bincount(texts, minlength=len(offsets))
            offsets = counts.cumsum(0) - counts
        distinct, inverse = torch.unique(ids, return_inverse=True)
        vectors = self.table(distinct)
        scores = self.queries(distinct)[inverse]
        scores = scores + self.start[place.clamp(max=REACH - 1)] + self.end[from_end.clamp(max=REACH - 1)]
        weights = torch.exp(scores - scores.detach().amax(0))
        sums = torch.zeros(len(offsets), weights.shape[1]).index_add(0, texts, weights)
        weights = weights / sums[texts]
        bag = nn.functional.embedding_bag
        parts = [
            bag(inverse, vectors, offsets, mode="sum", per_sample_weights=weights[:, head].contiguous())
            for head in range(self.design.heads)
        ]
        if self.design.pair_buckets:
            parts.append(self._pairs(ids, texts, len(offsets)))
        features = torch.cat([self.norm(torch.cat(parts, 1)), length], 1)
        result: Tensor = self.outer(self.drop(torch.relu(self.inner(self.drop(features)))))
        return result

    def _pairs(self, ids: Tensor, texts: Tensor, count: int) -> Tensor:
        """Sum of the vectors of adjacent pairs, hashed into buckets, over the root of their number."""
        same = texts[:-1] == texts[1:]
        buckets = pair_buckets(ids[:-1][same], ids[1:][same], self.design.pair_buckets)
        owners = texts[:-1][same]
        distinct, inverse = torch.unique(buckets, return_inverse=True)
        numbers = torch.bincount(owners, minlength=count)
        offsets = numbers.cumsum(0) - numbers
        summed = nn.functional.embedding_bag(inverse, self.pairs(distinct), offsets, mode="sum")
        return summed / torch.sqrt(numbers.clamp(min=1))[:, None]


def pair_buckets(left: Tensor, right: Tensor, buckets: int) -> Tensor:
    """Bucket of each pair of neighbours; the same arithmetic as in the exported graph (64-bit, no overflow)."""
    return (left * PAIR_LEFT + right * PAIR_RIGHT) % buckets


def parameters(student: Student) -> int:
    """Learned numbers, tables included."""
    return sum(math.prod(p.shape) for p in student.parameters() if p.requires_grad)
