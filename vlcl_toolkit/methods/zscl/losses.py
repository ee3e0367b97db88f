"""Losses between a teacher's and a student's similarities (ZSCL, section 3.2; LwF)."""

import torch
from jaxtyping import Float
from torch import Tensor

_NO_ENTRY = -1e4  # a logit that softmax turns into 0


def soft_cross_entropy(
    teacher: Float[Tensor, "n m"], student: Float[Tensor, "n m"], temperature: float
) -> Float[Tensor, ""]:
    """Cross-entropy of softened distributions over the last axis, mean over rows, times t^2.

    Not a divergence: it differs from KL by the teacher's entropy, which has no gradient, so that it
    is not 0 where both agree.

    Args:
        teacher, student: logits.
        temperature: t; both are divided by it.

    Source: Hinton et al. 2015; ZSCL's official code.
    """
    target = (teacher / temperature).softmax(dim=-1)
    found = (student / temperature).log_softmax(dim=-1)
    return -(target * found).sum(dim=-1).mean() * temperature**2


def off_diagonal_logits(features: Float[Tensor, "n dim"], scale: float) -> Float[Tensor, "n n"]:
    """Scaled similarities of images with the other images of a batch (an ablation of ZSCL)."""
    logits = scale * features @ features.T
    itself = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    return logits.masked_fill(itself, _NO_ENTRY)
