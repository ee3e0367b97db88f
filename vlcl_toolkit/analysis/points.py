"""What analyses of features and predictions share: which rows, and features that can be used."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.probes import Probes

Kind = Literal["image", "class"]


def where(probes: Probes, step: int, domain: str) -> dict[str, Any]:
    """The first columns of a row: step, after (a task or "zero-shot"), domain, status."""
    status = probes.status(step, domain)
    return {"step": step, "after": probes.after(step), "domain": domain, "status": status}


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


def features(probes: Probes, step: int, domain: str, kind: Kind) -> np.ndarray:
    """Features of a domain's images `[n, D]` or class texts `[C, D]`, float64.

    Raises:
        UserError: the step or the probe is not there; the features are not finite.
    """
    read = probes.image_features if kind == "image" else probes.class_features
    values = read(step, domain).astype(np.float64)
    if not np.isfinite(values).all():
        raise UserError(
            f"the {kind} features of {domain!r} at step {step} of {probes.source} are not finite; "
            "the training has diverged; run it again with a smaller learning rate"
        )
    return values
