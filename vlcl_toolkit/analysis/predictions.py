"""How predictions break: margins, classes, confusions, from the recorded logits of probe images.

Frames with a row per step have the columns step (0 = the frozen backbone, k = after the k-th task),
after (a task or "zero-shot"), domain, status ("learned", "current", "unseen", "held-out").
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from vlcl_toolkit.analysis.points import chosen_domains, where
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.probes import Probes

NEVER_TRAINED = ("unseen", "held-out")


def margins(probes: Probes, domains: Sequence[str] | None = None) -> pd.DataFrame:
    """The margin of each probe image: logit of the right class minus that of the best wrong one.

    Above 0 the image is classified rightly; how far, says how much change it can bear. Logits are
    cosines times the method's logit scale (often 100): compare margins within one method.

    Columns: step, after, domain, status; item (number of the image), label, class_name, margin
    (logit units), right (whether the largest logit is the right class's), shift (margin minus that
    of the frozen backbone).

    Raises:
        UserError: a domain with one class, where no class is wrong; logits that are not finite.
    """
    frames = []
    for domain in chosen_domains(probes, domains):
        labels, words = probes.labels(domain), _words(probes, domain)
        frozen = None
        for step in probes.steps:
            logits = _logits(probes, step, domain)
            margin = _margin(logits, labels)
            frozen = margin if frozen is None else frozen
            image = {
                "item": np.arange(len(labels)),
                "label": labels,
                "class_name": words[labels],
                "margin": margin,
                "right": logits.argmax(axis=1) == labels,
                "shift": margin - frozen,
            }
            frames.append(pd.DataFrame(where(probes, step, domain) | image))
    return pd.concat(frames, ignore_index=True)


def class_accuracy(margins: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of every class at every step.

    Args:
        margins: of the function of that name.

    Columns: step, after, domain, status, label, class_name; images (how many), accuracy (percent),
    margin (mean, logit units).
    """
    keys = ["step", "after", "domain", "status", "label", "class_name"]
    table = margins.groupby(keys, sort=False).agg(
        images=("right", "size"), accuracy=("right", "mean"), margin=("margin", "mean")
    )
    table["accuracy"] *= 100
    return table.reset_index()


def first_to_break(classes: pd.DataFrame, share: float | int = 0.5) -> pd.DataFrame:
    """Which classes break first among those that the method has not trained on.

    A class is broken once its accuracy is below `share` of the frozen backbone's; classes that the
    frozen backbone never gets right cannot break and are left out, as is what happens to a class
    once its domain is learned.

    Args:
        classes: of `class_accuracy`.
        share: 0 .. 1.

    Returns:
        one row per class, those that break first on top, then by the points lost. Columns: domain,
        class_name, images, frozen (percent), margin (mean of the frozen backbone, logit units:
        small ones break easily), broken_step, broken_after (missing: not broken), lowest
        (percent, at its worst), lost (points, frozen minus lowest).

    Raises:
        UserError: `share` is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise UserError(f"the share that counts as broken lies in (0, 1]; found {share}; try 0.5")
    rows = []
    # A task that is learned first is still unseen at step 0, its only row here: it cannot break.
    untrained = classes[classes["status"].isin(NEVER_TRAINED)]
    for (domain, _), steps in untrained.groupby(["domain", "label"], sort=False):
        start = steps.iloc[0]
        if start["accuracy"] == 0:
            continue
        broken = steps[steps["accuracy"] < share * start["accuracy"]]
        lowest = float(steps["accuracy"].min())
        rows.append(
            {
                "domain": domain,
                "class_name": start["class_name"],
                "images": int(start["images"]),
                "frozen": float(start["accuracy"]),
                "margin": float(start["margin"]),
                "broken_step": int(broken["step"].iloc[0]) if len(broken) else pd.NA,
                "broken_after": broken["after"].iloc[0] if len(broken) else None,
                "lowest": lowest,
                "lost": float(start["accuracy"]) - lowest,
            }
        )
    table = pd.DataFrame(rows, columns=list(BREAK_COLUMNS)).astype({"broken_step": "Int64"})
    order = table.sort_values(
        ["broken_step", "lost"], ascending=[True, False], na_position="last", kind="stable"
    )
    return order.reset_index(drop=True)


BREAK_COLUMNS = (
    "domain",
    "class_name",
    "images",
    "frozen",
    "margin",
    "broken_step",
    "broken_after",
    "lowest",
    "lost",
)


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


def _margin(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    rows = np.arange(len(labels))
    wrong = logits.copy()
    wrong[rows, labels] = -np.inf
    return logits[rows, labels] - wrong.max(axis=1)


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
