"""Orthonormal bases of the directions that KeepLoRA protects, and the features that extend them.

Everything is asked of Gram matrices M M^T [W, W] in float64, where the official code decomposes matrices
M [W, columns]: the same singular vectors and squared singular values, at a fraction of the cost.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_NONE = 1e-8  # shares up to here protect nothing


def gram(matrix: Float[Tensor, "width columns"]) -> Float[Tensor, "width width"]:
    """M M^T in float64."""
    matrix = matrix.double()
    return matrix @ matrix.T


def first_basis(
    moments: Float[Tensor, "width width"], share: float | int
) -> Float[Tensor, "width n"]:
    """The leading directions that together hold less than `share` of the trace; at least one.

    Args:
        moments: a Gram matrix.
        share: 0 .. 1; up to 1e-8: no direction.
    """
    if share <= _NONE:
        return moments.new_zeros(len(moments), 0, dtype=torch.float32)
    values, vectors = _decomposed(moments)
    count = max(1, int((shares(values) < share).sum()))
    return vectors[:, :count].float()


def extended_basis(
    basis: Float[Tensor, "width n"], moments: Float[Tensor, "width width"], share: float | int
) -> Float[Tensor, "width m"]:
    """`basis` and as many directions outside it as are needed to hold at least `share` of the trace.

    An empty basis is begun by the rule of `first_basis`, as in the official code.
    """
    width, count = basis.shape
    if share <= _NONE or count == width:
        return basis
    if not count:
        return first_basis(moments, share)
    known = basis.double()
    left = moments - known @ (known.T @ moments)
    left = left - (left @ known) @ known.T
    values, vectors = _decomposed(left)
    residual = float(values.sum() / moments.diagonal().sum())
    held = 1 - residual + residual * torch.cat((torch.zeros(1).double(), shares(values)))
    needed = min(int((held[:-1] < share).sum()), width - count)
    if not needed:
        return basis
    return torch.linalg.qr(torch.cat((known, vectors[:, :needed]), dim=1)).Q.float()


def shares(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Of the sum: each value together with those before it. On the CPU, where the sum's order is settled."""
    sums = values.double().cpu().cumsum(0)
    return sums / sums[-1]


def _decomposed(moments: Tensor) -> tuple[Tensor, Tensor]:
    # Eigenvalues, largest first and none below 0, and their vectors as columns.
    values, vectors = torch.linalg.eigh(moments)
    return values.flip(0).clamp(min=0), vectors.flip(1)


def outside(
    x: Float[Tensor, "width columns"], basis: Float[Tensor, "width n"]
) -> Float[Tensor, "width columns"]:
    """The part of the columns of `x` that is orthogonal to the basis."""
    return x - basis @ (basis.T @ x)


class BatchMean:
    """The mean over batches of their feature matrices: not a covariance, but what the official code takes.

    An entry belongs to a token position and to a place in the batch; what differs from image to image
    averages out over batches.
    """

    def __init__(self) -> None:
        self.sum: Tensor | None = None
        self.batches = 0

    def add(self, x: Float[Tensor, "n length width"]) -> None:
        """A batch; none is larger than the first."""
        if self.sum is None:
            self.sum = torch.zeros_like(x, dtype=torch.float32)
        self.sum[: len(x)] += x
        self.batches += 1

    def matrix(self) -> Float[Tensor, "width columns"]:
        """M, divided by its number of columns; column: token * batch size + image."""
        assert self.sum is not None
        columns = self.sum.permute(2, 1, 0).flatten(1)
        return columns / (self.batches * columns.shape[1])

    def moments(self) -> Float[Tensor, "width width"]:
        """M M^T."""
        return gram(self.matrix())


class SecondMoment:
    """The sum of x x^T over all tokens of all images, whatever the batches."""

    def __init__(self) -> None:
        self.sum: Tensor | None = None

    def add(
        self,
        x: Float[Tensor, "n length width"],
        counted: Bool[Tensor, "n length"] | None = None,
    ) -> None:
        """A batch; `counted`: which tokens count, None: all."""
        part = gram((x.flatten(0, 1) if counted is None else x[counted]).T)
        self.sum = part if self.sum is None else self.sum + part

    def moments(self) -> Float[Tensor, "width width"]:
        """The sum."""
        assert self.sum is not None
        return self.sum
