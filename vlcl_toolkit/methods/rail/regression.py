"""Ridge regression from features to one-hot labels that learns task after task and forgets nothing.

Primal. Of lifted features F [n, h] and one-hot labels Y [n, C] of all tasks so far,

    W = (G + ridge I)^-1 B,   G = F^T F,   B = F^T Y,

and G and B are sums over images: after every task the weights are those of one regression on all
data, in whatever order it came. Official code: a recursion of (G + ridge I)^-1 and W over batches
(`recursive_update`), the same numbers at a cost of O(h^3) per batch and with rounding that adds up.

Dual. With a kernel K over all features X so far, alpha = (K + ridge I)^-1 Y and a prediction is
k(x, X) alpha. A new task adds rows to the Cholesky factor of K + ridge I.
"""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vlcl_toolkit.errors import UserError

_EXACT_WIDTH = 4000  # up to here G is float64 (128 MB)
_AT_ONCE = 4096  # images lifted at once


class Regression:
    """What primal and dual regression share: columns of classes that grow with every task."""

    classes = 0  # columns so far

    def add(
        self, features: Float[Tensor, "n dim"], labels: Int64[Tensor, " n"], classes: int
    ) -> None:
        """Learn a task with `classes` new columns.

        Args:
            features: unit-norm.
            labels: counted from the first of the new columns.
        """
        raise NotImplementedError

    def predict(self, features: Float[Tensor, "n dim"]) -> Float[Tensor, "n classes"]:
        """Least-squares outputs, about 1 for the right class; any sign."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Tensor]:
        """Enough to predict and to go on."""
        raise NotImplementedError


def lifted(
    features: Float[Tensor, "n dim"], projection: Float[Tensor, "h dim"] | None
) -> Float[Tensor, "n h"]:
    """relu(P x); without a projection the features themselves."""
    return features if projection is None else (features @ projection.T).relu()


def random_projection(
    width: int, dim: int, generator: torch.Generator
) -> Float[Tensor, "width dim"]:
    """Entries uniform in (-1, 1) / sqrt(dim), as PyTorch initialises a linear layer."""
    return (torch.rand(width, dim, generator=generator) * 2 - 1) / math.sqrt(dim)


class Primal(Regression):
    """Ridge regression on lifted features.

    Args:
        projection: of the lift; None: none.
        ridge: absolute.
        device: of the features.
    """

    def __init__(
        self,
        projection: Float[Tensor, "h dim"] | None,
        dim: int,
        ridge: float,
        device: torch.device | str = "cpu",
    ):
        self.projection, self.ridge = projection, ridge
        width = dim if projection is None else len(projection)
        self.dtype = torch.float64 if width <= _EXACT_WIDTH else torch.float32
        self.gram = torch.zeros(width, width, dtype=self.dtype, device=device)
        self.products = torch.zeros(width, 0, dtype=self.dtype, device=device)  # B
        self._weights: Tensor | None = None

    def add(
        self, features: Float[Tensor, "n dim"], labels: Int64[Tensor, " n"], classes: int
    ) -> None:
        """Adds to G and B."""
        new = self.products.new_zeros(len(self.products), classes)
        for part, label in zip(features.split(_AT_ONCE), labels.split(_AT_ONCE), strict=True):
            lift = lifted(part, self.projection).to(self.dtype)
            self.gram.addmm_(lift.T, lift)
            new.index_add_(1, label.to(new.device), lift.T)
        self.products = torch.cat((self.products, new), dim=1)
        self.classes += classes
        self._weights = None

    def factor(self) -> Float[Tensor, "h h"]:
        """Cholesky factor of G + ridge I.

        Raises:
            UserError: the matrix is not positive definite in floating point.
        """
        shifted = self.gram + self.ridge * torch.eye(len(self.gram)).to(self.gram)
        return _cholesky(shifted, "ridge", self.ridge)

    @property
    def weights(self) -> Float[Tensor, "h classes"]:
        """W, solved when first needed after a task."""
        if self._weights is None:
            self._weights = torch.cholesky_solve(self.products, self.factor())
        return self._weights

    def predict(self, features: Float[Tensor, "n dim"]) -> Float[Tensor, "n classes"]:
        """relu(P x) W."""
        parts = [
            (lifted(part, self.projection).to(self.dtype) @ self.weights).float()
            for part in features.split(_AT_ONCE)
        ]
        return torch.cat(parts)

    def state_dict(self) -> dict[str, Tensor]:
        """G, B and the projection."""
        state = {"gram": self.gram, "products": self.products}
        return state if self.projection is None else state | {"projection": self.projection}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state_dict`."""
        self.gram, self.products = (state[name].to(self.gram) for name in ("gram", "products"))
        self.classes, self._weights = self.products.shape[1], None


class Dual(Regression):
    """Kernel ridge regression with a Gaussian kernel on the unit features."""

    def __init__(self, gamma: float, ridge: float):
        self.gamma, self.ridge = gamma, ridge
        self.memory: list[tuple[Tensor, Tensor]] = []  # features and columns of each task
        self._factor: Tensor | None = None
        self._alpha: Tensor | None = None

    def kernel(
        self, left: Float[Tensor, "n dim"], right: Float[Tensor, "m dim"]
    ) -> Float[Tensor, "n m"]:
        """exp(-gamma |a - b|^2) of unit vectors, float64."""
        return torch.exp(2 * self.gamma * (left.double() @ right.double().T - 1))

    def add(
        self, features: Float[Tensor, "n dim"], labels: Int64[Tensor, " n"], classes: int
    ) -> None:
        """Keeps the features and extends the factor by their rows.

        Raises:
            UserError: the kernel is singular in floating point.
        """
        own = self.kernel(features, features)
        own.diagonal().add_(self.ridge)
        if self._factor is None:
            self._factor = _cholesky(own, "dual_ridge", self.ridge)
        else:
            cross = torch.linalg.solve_triangular(
                self._factor, self.kernel(self.features, features), upper=False
            )
            corner = _cholesky(own - cross.T @ cross, "dual_ridge", self.ridge)
            above = torch.cat((self._factor, torch.zeros_like(cross)), dim=1)
            self._factor = torch.cat((above, torch.cat((cross.T, corner), dim=1)))
        self.memory.append((features, labels.to(features.device) + self.classes))
        self.classes += classes
        self._alpha = None

    @property
    def features(self) -> Float[Tensor, "n dim"]:
        """All training features so far."""
        return torch.cat([features for features, _ in self.memory])

    @property
    def alpha(self) -> Float[Tensor, "n classes"]:
        """Dual weights, solved when first needed after a task."""
        if self._alpha is None:
            assert self._factor is not None
            columns = torch.cat([columns for _, columns in self.memory])
            targets = torch.nn.functional.one_hot(columns, self.classes).double()
            self._alpha = torch.cholesky_solve(targets, self._factor)
        return self._alpha

    def predict(self, features: Float[Tensor, "n dim"]) -> Float[Tensor, "n classes"]:
        """k(x, X) alpha."""
        known = self.features
        parts = [
            (self.kernel(part, known) @ self.alpha).float() for part in features.split(_AT_ONCE)
        ]
        return torch.cat(parts)

    def state_dict(self) -> dict[str, Tensor]:
        """Every training feature and its column."""
        state = {"features": self.features, "columns": torch.cat([c for _, c in self.memory])}
        return state | {"images": torch.tensor([len(columns) for _, columns in self.memory])}

    def load_state_dict(self, state: dict[str, Tensor], sizes: list[int]) -> None:
        """Inverse of `state_dict`, one task after another, so that rounding is the same.

        Args:
            sizes: number of classes of each task.
        """
        images = state["images"].tolist()
        tasks = zip(
            state["features"].split(images), state["columns"].split(images), sizes, strict=True
        )
        for features, columns, classes in tasks:
            self.add(features, columns - self.classes, classes)


def recursive_update(
    memory: Float[Tensor, "h h"],
    weights: Float[Tensor, "h classes"],
    lift: Float[Tensor, "n h"],
    targets: Float[Tensor, "n classes"],
) -> tuple[Float[Tensor, "h h"], Float[Tensor, "h classes"]]:
    """The paper's recursion: (G + ridge I)^-1 and W after one more batch, without G.

    To be compared with `Primal`, which gives the same numbers.

    Args:
        memory: (G + ridge I)^-1 before the batch.
        weights: with a zero column for each new class.
        targets: one-hot.
    """
    projected = lift @ memory
    gain = torch.eye(len(lift)).to(lift) + projected @ lift.T
    memory = memory - projected.T @ torch.linalg.solve(gain, projected)
    return memory, weights + memory @ (lift.T @ (targets - lift @ weights))


def _cholesky(matrix: Float[Tensor, "n n"], name: str, ridge: float) -> Float[Tensor, "n n"]:
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if failed:
        raise UserError(
            f"the regression over {len(matrix)} dimensions is singular with {name}={ridge:g}; "
            f"raise {name}"
        )
    return factor
