"""How predictions break: flips and confusions, from the recorded logits of probe images.

Frames with a row per step have the columns step (0 = the frozen backbone, k = after the k-th task),
after (a task or "zero-shot"), domain, status ("learned", "current", "unseen", "held-out").
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from vlcl_toolkit.analysis.points import chosen_domains, where
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.probes import Probes


def flips(probes: Probes, domains: Sequence[str] | None = None) -> pd.DataFrame:
    """How many predictions differ from the frozen backbone's, for better and for worse.

    Accuracy shows only repaired minus broken; the same accuracy can hide many of both.

    Columns: step, after, domain, status; accuracy, changed (another class is predicted), broken
    (right before, wrong now: the negative flips of Yan et al. 2021), repaired (wrong before, right
    now); percent of the probe images.
    """
    rows = []
    for domain in chosen_domains(probes, domains):
        labels = probes.labels(domain)
        frozen = _logits(probes, 0, domain).argmax(axis=1)
        for step in probes.steps:
            now = _logits(probes, step, domain).argmax(axis=1)
            shares = {
                "accuracy": now == labels,
                "changed": now != frozen,
                "broken": (frozen == labels) & (now != labels),
                "repaired": (frozen != labels) & (now == labels),
            }
            percent = {name: 100 * float(hit.mean()) for name, hit in shares.items()}
            rows.append(where(probes, step, domain) | percent)
    return pd.DataFrame(rows)


def confusion(probes: Probes, step: int, domain: str) -> pd.DataFrame:
    """Percent of each true class (rows) put into each class (columns); rows without images are nan."""
    words, labels = _words(probes, domain), probes.labels(domain)
    logits = _logits(probes, step, domain)
    counts = np.zeros((logits.shape[1],) * 2)
    np.add.at(counts, (labels, logits.argmax(axis=1)), 1)
    images = counts.sum(axis=1, keepdims=True)
    share = np.divide(100 * counts, images, out=np.full_like(counts, np.nan), where=images > 0)
    return pd.DataFrame(
        share, index=pd.Index(words, name="true"), columns=pd.Index(words, name="predicted")
    )


def confusion_drift(probes: Probes, step: int, domain: str) -> pd.DataFrame:
    """`confusion` now minus that of the frozen backbone, in points; every row sums to 0.

    On the diagonal, what each class lost; beside it, where its images went.
    """
    return confusion(probes, step, domain) - confusion(probes, 0, domain)


def _logits(probes: Probes, step: int, domain: str) -> np.ndarray:
    logits = probes.logits(step, domain)
    if logits.shape[1] < 2:
        raise UserError(f"{domain!r} has one class only, nothing can be mistaken; leave it out")
    if not np.isfinite(logits).all():
        raise UserError(
            f"the logits of {domain!r} at step {step} of {probes.source} are not finite; the "
            "training has diverged; run it again with a smaller learning rate"
        )
    return logits


def _words(probes: Probes, domain: str) -> np.ndarray:
    words = probes.class_names(domain)
    if not words:
        words = [str(label) for label in range(probes.logits(probes.steps[0], domain).shape[1])]
    return np.array(words, dtype=object)
