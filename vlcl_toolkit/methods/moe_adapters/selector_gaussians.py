"""An auto-selector of Gaussians. Not the paper's, whose selector has autoencoders (`selector.py`).

Another point between finding a task's images and sending strangers away; both are measured in
docs/results.md. Everything else stays as it was:

1. Features as in `selector.py`, of the frozen CLIP.
2. Gaussian number 0 is of the reference images ("none of the tasks"), number j of the images of task
   j - 1; covariances are shrunk (`methods/diki/gaussians.py`).
3. The error of an image is minus its log density: the smallest names the task.
4. Above the threshold the image belongs to no task. The threshold is a quantile (`threshold_quantile`)
   of the errors of the Gaussian's own images, each under a Gaussian of the other four fifths: its own
   images fit a Gaussian better than new ones do.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.methods.diki.gaussians import TaskGaussians
from vlcl_toolkit.methods.moe_adapters.config import SelectorConfig
from vlcl_toolkit.methods.moe_adapters.selector import AutoSelector
from vlcl_toolkit.methods.moe_adapters.selector_features import Features
from vlcl_toolkit.streams.base import ImageData

_FOLDS = 5
_PREFIX = "gaussians."


class GaussianSelector(AutoSelector):
    """The Gaussians of the reference set and of the tasks learned so far."""

    def __init__(self, clip: Clip, features: Features, config: SelectorConfig):
        super().__init__(clip, features, config)
        self.gaussians = TaskGaussians("auto")

    def learn(self, data: ImageData, last_step: int, generator: torch.Generator) -> list[float]:
        """Steps 2 and 4 for one more set of images; there is no loss to return.

        Args:
            last_step: plays no part: a Gaussian is solved, not trained.
            generator: a CPU generator for the fifths.

        Raises:
            UserError: too few images.
        """
        raw = self.frozen.features(data, again=False)
        if not self.thresholds:
            self.features.fit(iter((raw,)))
        features = self.features.finish(raw)
        self.gaussians.add(features, f"number {len(self.thresholds)} of the auto-selector")
        quantile = self.config.threshold_quantile
        assert quantile is not None  # checked with the settings
        self.thresholds.append(float(_unseen_errors(features, generator).quantile(quantile)))
        return []

    @torch.no_grad()
    def errors(
        self, features: Float[Tensor, "b dim"], start: int = 0
    ) -> Float[Tensor, "b gaussians"]:
        """Step 3, under the Gaussians from `start` on."""
        return -self.gaussians.log_probs(features, start).float()

    def state_dict(self) -> dict[str, Tensor]:
        """The Gaussians, thresholds, statistics of the features."""
        own = {_PREFIX + name: value for name, value in self.gaussians.state_dict().items()}
        return super().state_dict() | own

    def load_models(self, state: dict[str, Tensor]) -> None:
        """The Gaussians."""
        own = {n.removeprefix(_PREFIX): v for n, v in state.items() if n.startswith(_PREFIX)}
        self.gaussians.load_state_dict(own, self.clip.embed_dim, self.clip.device)


def _unseen_errors(features: Float[Tensor, "n dim"], generator: torch.Generator) -> Tensor:
    folds = torch.randperm(len(features), generator=generator) % _FOLDS
    errors = features.new_empty(len(features))
    for fold in folds.unique().tolist():
        inside = (folds == fold).to(features.device)
        gaussian = TaskGaussians("auto")
        gaussian.add(features[~inside], "of the auto-selector")
        errors[inside] = -gaussian.log_prob(features[inside], 0).float()
    return errors
