"""Features of images and class prompts with the prompts of a task in the towers."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vlcl_toolkit.clip.model import Clip, normalize
from vlcl_toolkit.methods.diki.prompts import PromptPool
from vlcl_toolkit.streams.base import Task

_TEXTS_AT_ONCE = 512  # bounds the memory of class prompts at many weights


def class_prompts(task: Task, templates: str) -> list[str]:
    """Texts of a task, class by class; every `_` becomes a space, as in the official code.

    Args:
        templates: "first" or "all".
    """
    if task.parts:
        return [text for part in task.parts for text in class_prompts(part, templates)]
    chosen = task.templates if templates == "all" else task.templates[:1]
    return [text.format(name).replace("_", " ") for name in task.class_names for text in chosen]


class PromptedTowers:
    """Both towers of an attached model.

    Args:
        templates: of class prompts at test time, "first" or "all".
    """

    def __init__(self, clip: Clip, pool: PromptPool, templates: str):
        self.clip, self.pool, self.templates = clip, pool, templates
        self._tokens: dict[tuple[Task, str], Tensor] = {}

    def image_features(
        self,
        images: Float[Tensor, "part 3 h w"],
        task_id: int,
        weights: Float[Tensor, " part"] | None = None,
    ) -> Float[Tensor, "b dim"]:
        """Unit-norm features with the prompts of `task_id` at `weights` (None: 1)."""
        with self.pool.use(task_id, weights):
            return self.clip.encode_image(images)

    def text_features(
        self,
        task: Task,
        task_id: int,
        weights: Float[Tensor, " sets"] | None = None,
        templates: str | None = None,
    ) -> Float[Tensor, "sets classes dim"]:
        """Unit-norm features of the classes of `task` with the prompts of `task_id`.

        Args:
            weights: one set of class features for each; None: one set, at weight 1.
            templates: "first", "all" (features averaged and normalised); None: as at test time.
        """
        if task.parts:
            of_parts = [
                self.text_features(part, task_id, weights, templates) for part in task.parts
            ]
            return torch.cat(of_parts, dim=1)
        tokens = self.tokens(task, templates)
        sets = 1 if weights is None else len(weights)
        features = []
        for part in torch.arange(sets).split(max(1, _TEXTS_AT_ONCE // len(tokens))):
            each = None if weights is None else weights[part].repeat_interleave(len(tokens))
            with self.pool.use(task_id, each):
                many = tokens if len(part) == 1 else tokens.repeat(len(part), 1)
                features.append(self.clip.encode_text(many))
        by_template = torch.cat(features).unflatten(0, (sets, len(task.class_names), -1))
        if by_template.shape[2] == 1:
            return by_template[:, :, 0]
        return normalize(by_template.mean(dim=2))

    def tokens(self, task: Task, templates: str | None = None) -> Int[Tensor, "texts context"]:
        """Token ids of the class prompts, made once per task."""
        key = (task, templates or self.templates)
        if key not in self._tokens:
            self._tokens[key] = self.clip.tokenize(class_prompts(*key))
        return self._tokens[key]
