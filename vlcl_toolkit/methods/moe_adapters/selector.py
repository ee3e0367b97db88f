"""The auto-selector of MoE-Adapters: which task, if any, does an image belong to?

Paper: Yu et al., "Boosting Continual Learning of Vision-Language Models via Mixture-of-Experts
Adapters", CVPR 2024, section 3.3 (distribution discriminative auto-selector, DDAS).

1. Describe an image by features a in (0, 1) of a frozen network.
2. Autoencoder j: a -> sigmoid(W2 relu(W1 a + b1) + b2). Number 0 learns reference images, which
   stand for "none of the tasks"; number j learns the images of task j - 1, once, before the task.
3. Train with Adam, N + 1 steps, on the mean squared error over all elements of a batch.
4. Error e_j: mean squared error of an image (or the mean of a batch). The smallest names the task.
5. Above the threshold the image belongs to no task: -1, as if autoencoder 0 had won. Then the plain
   CLIP classifies it.

Features (`selector_features`): "alexnet" is the paper's, the raw output of AlexNet's last
convolution through a sigmoid; on images with CLIP's normalisation, as in the official code. "clip"
needs no second network: the frozen CLIP's unit-norm image features, standardised with the
reference images' mean and deviation, through a sigmoid.

Deviations and switches: in the official code the autoencoders of tasks that were not learned yet take
part, at their random initial values; here only those that exist. The constant threshold is tuned for one
benchmark; `threshold_quantile` derives one per autoencoder from its own training errors.
"""

import math
from collections.abc import Callable, Iterator
from typing import cast
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.errors import DivergedError
from vlcl_toolkit.methods.moe_adapters.config import SelectorConfig
from vlcl_toolkit.methods.moe_adapters.selector_features import Features
from vlcl_toolkit.seeds import derive_seed
from vlcl_toolkit.streams.base import ImageData, batches, load_batch

NO_TASK = -1


# Steps 2 and 3.


class Autoencoder(nn.Module):
    """One hidden layer; parameter names are those of official checkpoints."""

    def __init__(self, dim: int, code: int):
        super().__init__()
        self.encoder = nn.Sequential(nn.utils.skip_init(nn.Linear, dim, code), nn.ReLU())
        self.decoder = nn.Sequential(nn.utils.skip_init(nn.Linear, code, dim), nn.Sigmoid())

    def reset_parameters(self, generator: torch.Generator) -> None:
        """PyTorch's initial values of a linear layer: uniform, bound 1 / sqrt(inputs)."""
        for layer in self.linear:
            bound = 1 / math.sqrt(layer.in_features)
            for parameter in layer.parameters():
                values = torch.empty(parameter.shape)
                parameter.data.copy_(values.uniform_(-bound, bound, generator=generator))

    @property
    def linear(self) -> tuple[nn.Linear, nn.Linear]:
        """The layer into the code and the one out of it."""
        return cast(nn.Linear, self.encoder[0]), cast(nn.Linear, self.decoder[0])

    def forward(self, features: Float[Tensor, "b dim"]) -> Float[Tensor, "b dim"]:
        """The reconstruction."""
        return self.decoder(self.encoder(features))

    def errors(self, features: Float[Tensor, "b dim"]) -> Float[Tensor, " b"]:
        """Mean squared error of each image."""
        return (self(features) - features).square().mean(dim=1)


def train_autoencoder(
    autoencoder: Autoencoder,
    inputs: Callable[[int], Float[Tensor, "b dim"]],
    *,
    last_step: int,
    batches_per_epoch: int,
    learning_rate: float,
    weight_decay: float,
) -> list[float]:
    """Step 3: `last_step + 1` steps; the rate falls to a tenth every ten epochs.

    Args:
        inputs: step -> features of its batch.

    Returns:
        the loss of every step.

    Raises:
        DivergedError: the loss is no number at the end, or far above its start.
    """
    parameters = list(autoencoder.parameters())
    optimizer = torch.optim.Adam(parameters, lr=learning_rate, weight_decay=weight_decay)
    losses = []
    for step in range(last_step + 1):
        for group in optimizer.param_groups:
            group["lr"] = selector_learning_rate(step, batches_per_epoch, learning_rate)
        optimizer.zero_grad()
        with torch.enable_grad():
            loss = autoencoder.errors(inputs(step)).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    found: list[float] = torch.stack(losses).tolist()
    # Else every image would be sent to the plain CLIP, without a word.
    if not math.isfinite(found[-1]) or found[-1] > 2 * found[0]:
        raise DivergedError(
            f"the auto-selector's loss went from {found[0]:.3g} to {found[-1]:.3g} within "
            f"{len(found)} steps at the rate {learning_rate:g}; lower selector_learning_rate"
        )
    return found


def selector_learning_rate(step: int, batches_per_epoch: int, start: float) -> float:
    """Rate of step `step`: a tenth every ten epochs."""
    return start * 0.1 ** (step // batches_per_epoch // 10)


# Steps 4 and 5.


def decide(
    errors: Float[Tensor, "n autoencoders"], thresholds: Float[Tensor, " autoencoders"]
) -> Int64[Tensor, " n"]:
    """Task of every row, or -1.

    Args:
        errors: of autoencoder 0 (none of the tasks), then of one per task; one row per image, or
            per batch.
        thresholds: one per autoencoder.
    """
    best = errors.argmin(dim=1)  # of equal ones the first
    rejected = errors.gather(1, best[:, None]).squeeze(1) > thresholds[best]
    return torch.where(rejected, NO_TASK, best - 1)


class AutoSelector:
    """The autoencoders of the reference set and of the tasks learned so far."""

    def __init__(self, clip: Clip, features: Features, config: SelectorConfig):
        self.clip, self.features, self.config = clip, features, config
        self.autoencoders: list[Autoencoder] = []
        self.thresholds: list[float] = []
        self.frozen = features.frozen(clip, config.feature_cache_mib)
        self._errors: WeakKeyDictionary[ImageData, Tensor] = WeakKeyDictionary()

    @property
    def tasks(self) -> int:
        """Number of tasks learned."""
        return len(self.thresholds) - self.config.selector_reference

    def learn(self, data: ImageData, last_step: int, generator: torch.Generator) -> list[float]:
        """Steps 2 and 3 for one more set of images; returns the losses.

        Args:
            generator: a CPU generator for the initial values and the order of images.
        """
        config, device = self.config, self.clip.device
        seed = int(torch.randint(2**62, (), generator=generator))
        whole = None if config.selector_augment else self.frozen.features(data, again=False)

        def parts() -> Iterator[Tensor]:
            return self.frozen.batches(data, again=False) if whole is None else iter((whole,))

        if not self.autoencoders:
            self.features.fit(parts())

        def inputs(step: int) -> Tensor:
            indices = batches(len(data), config.selector_batch_size, step, seed)
            if whole is not None:
                return self.features.finish(whole[indices.to(device)])
            transform = self.clip.train_transform
            images, _ = load_batch(data, indices, transform, derive_seed(seed, step))
            return self.features.finish(self.features.extract(images.to(device)))

        autoencoder = Autoencoder(inputs(0).shape[1], config.selector_code)
        autoencoder.reset_parameters(generator)
        epoch = config.selector_batches_per_epoch
        losses = train_autoencoder(
            autoencoder.to(device),
            inputs,
            last_step=last_step,
            batches_per_epoch=epoch or math.ceil(len(data) / config.selector_batch_size),
            learning_rate=config.selector_learning_rate,
            weight_decay=config.selector_weight_decay,
        )
        self.autoencoders.append(autoencoder.requires_grad_(False))
        threshold = config.threshold
        if config.threshold_quantile:
            found = [autoencoder.errors(self.features.finish(part)) for part in parts()]
            errors = torch.cat(found)
            threshold = float(errors.quantile(config.threshold_quantile))
        self.thresholds.append(threshold)
        return losses

    @torch.no_grad()
    def errors(
        self, features: Float[Tensor, "b dim"], start: int = 0
    ) -> Float[Tensor, "b autoencoders"]:
        """Step 4: the error of every image under the autoencoders from `start` on.

        One after another: stacked into one product, an error would depend in its last digits on
        how many autoencoders run at once, which differs in a resumed run.
        """
        found = [autoencoder.errors(features) for autoencoder in self.autoencoders[start:]]
        return torch.stack(found, dim=1)

    @torch.no_grad()
    def errors_of(self, data: ImageData) -> Float[Tensor, "n autoencoders"]:
        """Step 4 for all images of a set, test transform; errors under earlier autoencoders are cached."""
        known = self._errors.get(data)
        start = 0 if known is None else known.shape[1]
        if start < len(self.thresholds):
            parts = [self.errors(self.features.finish(p), start) for p in self.frozen.batches(data)]
            new = torch.cat(parts)
            self._errors[data] = new if known is None else torch.cat((known, new), dim=1)
        return self._errors[data]

    def decide(self, errors: Float[Tensor, "n autoencoders"]) -> Int64[Tensor, " n"]:
        """Steps 4 and 5, of rows of `errors` (or of their mean over a batch)."""
        thresholds = torch.tensor(self.thresholds, device=errors.device)
        if not self.config.selector_reference:  # nothing competes as "none of the tasks"
            errors = nn.functional.pad(errors, (1, 0), value=math.inf)
            thresholds = nn.functional.pad(thresholds, (1, 0), value=math.inf)
        return decide(errors, thresholds)

    def state_dict(self) -> dict[str, Tensor]:
        """Autoencoders by "<index>.<name>", thresholds, statistics of the features."""
        state = {
            f"{index}.{name}": value
            for index, autoencoder in enumerate(self.autoencoders)
            for name, value in autoencoder.state_dict().items()
        }
        thresholds = torch.tensor(self.thresholds, dtype=torch.float64)
        return state | {"thresholds": thresholds} | self.features.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state_dict`."""
        self.features.load_state_dict(state)
        self._errors.clear()
        self.thresholds = state["thresholds"].tolist()
        self.load_models(state)

    def load_models(self, state: dict[str, Tensor]) -> None:
        """The autoencoders, one per threshold."""
        self.autoencoders = []
        for index in range(len(self.thresholds)):
            own = {
                name.removeprefix(f"{index}."): value
                for name, value in state.items()
                if name.startswith(f"{index}.")
            }
            code, dim = own["encoder.0.weight"].shape
            autoencoder = Autoencoder(dim, code)
            autoencoder.load_state_dict(own)
            self.autoencoders.append(autoencoder.to(self.clip.device).requires_grad_(False))
