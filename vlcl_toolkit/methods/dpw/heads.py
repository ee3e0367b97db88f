"""How many prompt heads a task gets (DPW, "adaptive heads"): the harder the task, the more.

    F = ((inter_image + inter_text) / 2) / (intra + 10 / K) / accuracy

for K classes, over frozen unit-norm features: inter: 1 - the mean cosine of two classes; intra: the
mean over classes of 1 - the mean cosine of two images of a class; accuracy: zero-shot, of the training
images. A tower with H heads of its own gets the power of two nearest to int(H F) on a log scale.
"""

from math import log2

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vlcl_toolkit.clip.model import normalize


def difficulty(
    images: Float[Tensor, "n dim"], labels: Int64[Tensor, " n"], texts: Float[Tensor, "classes dim"]
) -> float:
    """F of a task, >= 0.

    Classes with fewer than two images have no spread and are left out of it; an accuracy of 0 counts
    as that of one image right. (The repository divides by 0 in both cases.)

    Args:
        images, texts: unit-norm features of the training images and of the class prompts.
    """
    members = [images[labels == label].double() for label in range(len(texts))]
    means = torch.stack([normalize(found.mean(dim=0)) for found in members if len(found)])
    # The mean over pairs of n unit vectors: no n x n matrix.
    spread = [1 - _mean_pair(found) for found in members if len(found) > 1]
    intra = sum(spread) / len(spread) if spread else 0.0
    inter = (1 - _mean_pair(means) + 1 - _mean_pair(texts.double())) / 2
    right = int(((images @ texts.T).argmax(dim=1) == labels).sum())
    return inter / (intra + 10 / len(texts)) / (max(right, 1) / len(images))


def _mean_pair(vectors: Float[Tensor, "n dim"]) -> float:
    n = len(vectors)
    if n < 2:
        return 1.0
    own = vectors.square().sum()
    return float((vectors.sum(dim=0).square().sum() - own) / (n * (n - 1)))


def head_count(own: int, factor: float, width: int, prompts: int) -> int:
    """Prompt heads of a tower.

    Args:
        own: the tower's attention heads.
        width, prompts: of the tower and per block; a count that does not divide the width or needs
            more than `width` singular vectors is halved.
    """
    wanted = int(own * factor)
    count = 2 ** round(log2(wanted)) if wanted else 1
    while count > 1 and (width % count or count * prompts > width):
        count //= 2
    return count


def light_head_count(own: int, width: int, prompts: int) -> int:
    """Prompt heads of a tower in the light form: a quarter of its own."""
    return head_count(own // 4, 1.0, width, prompts)
