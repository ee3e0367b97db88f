"""What all analyses of probes need: the stage, the domains, and values that are finite."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.probes import Probes

Kind = Literal["image", "class"]


def chosen_stage(probes: Probes, stage: int | None) -> int:
    """`stage`, or the last one that there is."""
    return probes.stages[-1] if stage is None else stage


def chosen_domains(probes: Probes, domains: Sequence[str] | None) -> list[str]:
    """`domains`, or all that there are.

    Raises:
        UserError: an empty choice, or a name that the probes do not have.
    """
    names = probes.domains if domains is None else list(domains)
    if not names:
        raise UserError(f"no domain is chosen; the probes have {', '.join(probes.domains)}")
    for name in names:
        probes.class_names(name)  # says which names there are
    return names


def features(probes: Probes, stage: int, domain: str, kind: Kind) -> np.ndarray:
    """Features of a domain's images `[n, D]` or class texts `[C, D]`, float64.

    Raises:
        UserError: the stage or the probe is not there; a feature is NaN or Inf.
    """
    read = probes.image_features if kind == "image" else probes.class_features
    values = read(stage, domain).astype(np.float64)
    return _finite(values, f"the {kind} features of {domain!r} at stage {stage} of {probes.source}")


def logits(probes: Probes, stage: int, domain: str) -> np.ndarray:
    """What a method predicts from, `[n, C]`.

    Raises:
        UserError: the stage or the probe is not there; a logit is NaN or Inf.
    """
    values = probes.logits(stage, domain)
    return _finite(values, f"the logits of {domain!r} at stage {stage} of {probes.source}")


def _finite(values: np.ndarray, what: str) -> np.ndarray:
    if not np.isfinite(values).all():
        raise UserError(
            f"{what} contain NaN or Inf: the training diverged; run it again with a smaller "
            "learning rate"
        )
    return values
