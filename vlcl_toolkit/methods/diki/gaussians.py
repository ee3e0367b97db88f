"""Which task does an image belong to? One Gaussian per task over frozen image features.

1. `TaskGaussians.add`: mean and covariance S of the unit-norm features of a task's training images,
   S = (F - mean)^T (F - mean) / (N - 1) + 1e-7 I.
2. `log_prob`: log density of a feature under every task.
3. `prompt_weight`: a log density s gives the weight of the task's prompts, w = sigmoid((s - q) / t).
   Official: q = t = 512 for every task. A log density has no scale of its own, though: it hangs on the
   number of dimensions and on how broad the task is, so that 512 fits features of ViT-B/16 alone.
   `TaskGaussians.calibrate` takes q and t from the task's validation images instead: w is 0.5 at a
   low quantile of their log densities and sigmoid(4) = 0.98 at their median.
4. `decide`: the largest log density of an image names its task.

Few images. S of N <= D images is singular up to the 1e-7: directions without any variance decide,
log densities explode, w is 0 or 1. Shrinkage keeps the total variance and evens it out,

    S' = (1 - a) S + a (trace(S) / D) I,  0 <= a <= 1,

so that every direction has some. "auto" takes the a that minimises the expected squared error of S'
(Ledoit and Wolf 2004); it falls as N grows.

Densities are computed in float64: the covariance of features on a sphere is badly conditioned.
"""

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Float64, Int64
from sklearn.covariance import ledoit_wolf_shrinkage
from torch import Tensor

from vlcl_toolkit.errors import UserError

Shrinkage = float | Literal["auto"]
Rule = Literal["sample", "batch", "group"]
RIDGE = 1e-7
_MEDIAN_LOGIT = 4.0
_SMALLEST_SPREAD = 0.25  # natural logs; a handful of validation images may all be equal


class TaskGaussians:
    """The Gaussians of the tasks learned so far.

    Attributes:
        means, covariances: float32 `[D]` and `[D, D]` per task.
        calibrations: float64 `[2]` per calibrated task: q and t of step 3.
    """

    def __init__(self, shrinkage: Shrinkage = 0.0, *, allow_singular: bool = False):
        self.shrinkage, self.allow_singular = shrinkage, allow_singular
        self.means: list[Tensor] = []
        self.covariances: list[Tensor] = []
        self.calibrations: list[Tensor] = []
        self._factors: dict[int, Tensor] = {}  # Cholesky, once per task

    def __len__(self) -> int:
        return len(self.means)

    def add(self, features: Float[Tensor, "n dim"], name: str) -> None:
        """Step 1.

        Args:
            features: unit-norm, of the training images.
            name: of the task, for the error.

        Raises:
            UserError: too few images for the Gaussian.
        """
        count, dim = features.shape
        if count < 2 or (count <= dim and self.shrinkage == 0 and not self.allow_singular):
            raise UserError(
                f"task {name!r} has {count} training images, too few for a Gaussian over {dim} "
                f"features, which needs {dim + 1}; set shrinkage to 'auto' or give more images "
                "(at least 2)"
            )
        exact = features.double()
        mean = exact.mean(dim=0)
        centred = exact - mean
        covariance = centred.T @ centred / (count - 1)
        amount = self.shrinkage
        if amount == "auto":
            amount = float(ledoit_wolf_shrinkage(exact.cpu().numpy()))
        eye = torch.eye(dim, dtype=exact.dtype, device=exact.device)
        if amount > 0:
            variance = covariance.trace() / dim
            covariance = (1 - amount) * covariance + amount * variance * eye
        self.means.append(mean.float())
        self.covariances.append((covariance + RIDGE * eye).float())

    def log_prob(self, features: Float[Tensor, "n dim"], task: int) -> Float64[Tensor, " n"]:
        """Step 2, for one task: natural log of the density.

        Raises:
            UserError: the task's covariance is not positive definite.
        """
        if task not in self._factors:
            factor, failed = torch.linalg.cholesky_ex(self.covariances[task].double())
            if failed:
                raise UserError(
                    f"the covariance of task {task} is not positive definite; "
                    "it had too few images; set shrinkage to 'auto' and train again"
                )
            self._factors[task] = factor
        factor = self._factors[task]
        difference = (features.double() - self.means[task].double()).T
        distance = torch.linalg.solve_triangular(factor, difference, upper=False).square().sum(0)
        log_det = 2 * factor.diagonal().log().sum()
        return -0.5 * (len(factor) * math.log(2 * math.pi) + log_det + distance)

    def log_probs(
        self, features: Float[Tensor, "n dim"], start: int = 0
    ) -> Float64[Tensor, "n tasks"]:
        """Step 2, for the tasks from `start` on."""
        columns = [self.log_prob(features, task) for task in range(start, len(self))]
        nothing = features.new_empty(len(features), 0, dtype=torch.float64)
        return torch.stack(columns, dim=1) if columns else nothing

    def calibrate(self, features: Float[Tensor, "n dim"], quantile: float | int) -> None:
        """Step 3's q and t of the task added last.

        Args:
            features: of images of the task that its Gaussian has not seen, at least one.
            quantile: which of their log densities gets the weight 0.5, in [0, 0.5).
        """
        found = self.log_prob(features, len(self) - 1)
        threshold, median = found.quantile(found.new_tensor([quantile, 0.5]))
        spread = ((median - threshold) / _MEDIAN_LOGIT).clamp(min=_SMALLEST_SPREAD)
        self.calibrations.append(torch.stack((threshold, spread)))

    def state_dict(self) -> dict[str, Tensor]:
        """ "means" `[tasks, D]`, "covariances" `[tasks, D, D]` and, of calibrated tasks, "calibrations"
        `[tasks, 2]`; empty before the first task."""
        lists = {
            "means": self.means,
            "covariances": self.covariances,
            "calibrations": self.calibrations,
        }
        return {name: torch.stack(values) for name, values in lists.items() if values}

    def load_state_dict(self, state: dict[str, Tensor], dim: int, device: torch.device) -> None:
        """Inverse of `state_dict`.

        Raises:
            UserError: the Gaussians are not over `dim` features.
        """
        means, covariances = state.get("means", ()), state.get("covariances", ())
        shapes = [tuple(value.shape) for value in (*means, *covariances)]
        if shapes != [(dim,)] * len(means) + [(dim, dim)] * len(means):
            raise UserError(
                f"these Gaussians belong to another backbone: features have {dim} dimensions; found "
                f"means and covariances of shapes {sorted(set(shapes))}; load the right backbone"
            )
        self.means = [mean.to(device, torch.float32) for mean in means]
        self.covariances = [covariance.to(device, torch.float32) for covariance in covariances]
        calibrations = state.get("calibrations", ())
        self.calibrations = [pair.to(device, torch.float64) for pair in calibrations]
        self._factors = {}


class Decision(NamedTuple):
    """What a batch of images runs with.

    Attributes:
        task: whose prompts an image gets.
        image_weight: their strength in the image tower, in (0, 1).
        text_weight: their strength in the text tower for this image's class prompts.
    """

    task: Int64[Tensor, " n"]
    image_weight: Float[Tensor, " n"]
    text_weight: Float[Tensor, " n"]


def prompt_weight(
    log_density: Float64[Tensor, "*n"],
    threshold: Float64[Tensor, " tasks"] | float,
    spread: Float64[Tensor, " tasks"] | float,
) -> Float[Tensor, "*n"]:
    """Step 3's w, in (0, 1), from q and t; of several tasks one per column."""
    return torch.sigmoid(log_density / spread - threshold / spread).float()


def decide(
    log_probs: Float64[Tensor, "n tasks"], weights: Float[Tensor, "n tasks"], rule: Rule
) -> Decision:
    """Step 4.

    Args:
        log_probs, weights: of one batch.
        rule: "sample": each image takes its own best task and its own weight, as a batch of its
            own would. "batch": the task that most images name (the lowest id of several) serves all
            of them; the texts get the mean weight. "group": each image takes its own best task; the
            texts get the mean weight of the images with that task.
    """
    best = log_probs.argmax(dim=1)
    weight = weights.gather(1, best[:, None])[:, 0]
    if rule == "sample":
        return Decision(best, weight, weight)
    if rule == "batch":
        votes = best.bincount(minlength=log_probs.shape[1]).tolist()
        elected = votes.index(max(votes))
        return Decision(torch.full_like(best, elected), weight, weight.mean().expand_as(weight))
    count = best.bincount(minlength=log_probs.shape[1]).clamp(min=1)
    total = weight.new_zeros(len(count)).index_add(0, best, weight)
    return Decision(best, weight, (total / count)[best])
