"""Which route an image takes, and what other decision rules would have given.

Routes are the tasks' routers or prompts and, last, the frozen CLIP. Scores (errors of
autoencoders, or log densities) and logits under every route were recorded, so that no rule needs
the network again. Sources: MoE-Adapters, section 3.3 (auto-selector and its threshold); DIKI,
section 3.3 (task distributions); the official code of both lets a test batch decide together.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from vlcl_toolkit.analysis.points import chosen_stage
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.probes import Probes
from vlcl_toolkit.training.metrics import metrics

Array = np.ndarray


def route_decisions(
    probes: Probes, *, stage: int | None = None, threshold: float | int | None = None
) -> pd.DataFrame:
    """True domain against chosen route.

    Args:
        threshold: what the routes would be with thresholds this many times the run's own, each
            image deciding alone; None: the routes that were taken.

    Returns:
        columns domain, status, route, images, share (percent of the domain's images), and own
        (whether the route is the right one: the domain's own, or "frozen" for a domain that was not
        learned).

    Raises:
        UserError: the method has one route only, or no threshold; the run has no probes.
    """
    wanted = chosen_stage(probes, stage)
    names = probes.routes(wanted)
    limits = None if threshold is None else threshold * probes.array(wanted, "thresholds")
    rows = []
    for domain in probes.domains:
        if limits is None:
            routes = probes.route(wanted, domain)
        else:
            routes = choose_by_error(*probes.route_scores(wanted, domain), limits, names)
        counts = np.bincount(routes, minlength=len(names))
        right = _right_route(names, domain)
        for number, (name, count) in enumerate(zip(names, counts.tolist(), strict=True)):
            rows.append(
                {
                    "domain": domain,
                    "status": probes.status(wanted, domain),
                    "route": name,
                    "images": count,
                    "share": 100 * count / counts.sum(),
                    "own": number == right,
                }
            )
    return pd.DataFrame(rows)


def calibration(probes: Probes, *, stage: int | None = None) -> pd.DataFrame:
    """DIKI's weight of every image: columns domain, status, route, strength (0 .. 1).

    Raises:
        UserError: the method has no such weight, or the run has no probes.
    """
    wanted = chosen_stage(probes, stage)
    names = probes.routes(wanted)
    tables = [
        pd.DataFrame(
            {
                "domain": domain,
                "status": probes.status(wanted, domain),
                "route": [names[number] for number in probes.route(wanted, domain)],
                "strength": probes.array(wanted, f"route_strength/{domain}").astype(float),
            }
        )
        for domain in probes.domains
    ]
    return pd.concat(tables, ignore_index=True)


def oracle_scores(probes: Probes) -> pd.DataFrame:
    """What a run's mistakes about the task cost: its scores beside those of routes that are never wrong.

    An oracle gives an image of a learned task the task's own route and every other image the frozen CLIP;
    where routes have a weight (DIKI), it keeps the one that the image was given.

    Returns:
        index "taken", "oracle"; columns as in `metrics`, in percent, of the probe images.

    Raises:
        UserError: the method has one route only; the run has no probes, or is not finished.
    """
    stages = [stage for stage in probes.stages if stage > 0]
    if len(stages) < len(probes.order):
        raise UserError(
            f"scores need a finished run; {probes} has {len(stages)} of {len(probes.order)} tasks learned"
        )
    matrices: dict[str, list[list[float]]] = {"taken": [], "oracle": []}
    for stage in stages:
        names = probes.routes(stage)
        correct = {domain: _correct(probes, stage, domain) for domain in probes.order}
        for rule, rows in matrices.items():
            row = []
            for domain, hits in correct.items():
                right = np.full(len(hits), _right_route(names, domain))
                route = right if rule == "oracle" else probes.route(stage, domain)
                row.append(float(100 * hits[np.arange(len(hits)), route].mean()))
            rows.append(row)
    scores = {rule: metrics(np.array(rows)) for rule, rows in matrices.items()}
    return pd.DataFrame.from_dict(scores, orient="index")


def threshold_sweep(
    probes: Probes,
    thresholds: Sequence[float | int],
    *,
    stage: int | None = None,
    relative: bool = False,
) -> pd.DataFrame:
    """Accuracy as a function of the selector's threshold, each image deciding alone.

    Args:
        thresholds: errors above which an image takes the frozen CLIP; one for all autoencoders.
        relative: they are multiples of the run's own thresholds (one per autoencoder) instead.

    Returns:
        columns threshold, domain, status, accuracy (percent of the probe images), frozen (percent
        that takes the frozen CLIP), right (percent on the right route, see `route_decisions`).

    Raises:
        UserError: the method has no threshold, or the run has no probes.
    """
    wanted = chosen_stage(probes, stage)
    own = probes.array(wanted, "thresholds").astype(float)
    names = probes.routes(wanted)
    rows = []
    for threshold in thresholds:
        limits = threshold * own if relative else np.full_like(own, threshold)
        for domain in probes.domains:
            scores, columns = probes.route_scores(wanted, domain)
            route = choose_by_error(scores, columns, limits, names)
            correct = _correct(probes, wanted, domain)[np.arange(len(route)), route]
            rows.append(
                {
                    "threshold": float(threshold),
                    "domain": domain,
                    "status": probes.status(wanted, domain),
                    "accuracy": 100 * correct.mean(),
                    "frozen": 100 * (route == len(names) - 1).mean(),
                    "right": 100 * (route == _right_route(names, domain)).mean(),
                }
            )
    return pd.DataFrame(rows)


def batch_mix(
    probes: Probes,
    domain: str,
    *,
    mixes: Sequence[float | int] = (1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100),
    stage: int | None = None,
    batch_size: int = 128,
    batches: int = 40,
    seed: int = 0,
    threshold: float | int = 1,
) -> pd.DataFrame:
    """Accuracy on images of one domain when a test batch decides together, by the batch's mix.

    A batch has `mix` percent images of `domain` (at least one), sampled with replacement, the rest
    from all other domains alike. MoE-Adapters: the mean error of the batch decides; DIKI: the task
    that most images name. With prompts in the text tower, a DIKI batch also shares the mean weight
    of its texts; here every image keeps its own.

    Args:
        threshold: MoE-Adapters: thresholds are this many times the run's own.

    Returns:
        columns mix (percent), decision ("batch", "sample": each image alone), accuracy (percent
        of the domain's images), right (percent of them on the right route); means over `batches`.

    Raises:
        UserError: a mix outside (0, 100]; the run has no routes or no probes.
    """
    wrong = [mix for mix in mixes if not 0 < mix <= 100]
    if wrong:
        raise UserError(f"a mix must be above 0 and at most 100 percent; found {wrong[0]}")
    wanted = chosen_stage(probes, stage)
    names, rng = probes.routes(wanted), np.random.default_rng(seed)
    scores, columns = probes.route_scores(wanted, domain)
    others = [probes.route_scores(wanted, d)[0] for d in probes.domains if d != domain]
    rest = np.concatenate(others) if others else scores[:0]
    correct, right = _correct(probes, wanted, domain), _right_route(names, domain)
    limits = _thresholds(probes, wanted)
    limits = None if limits is None else threshold * limits
    alone = choose_routes(scores, columns, limits, names, together=False)
    rows = []
    for mix in mixes:
        count = batch_size if not len(rest) else max(1, round(mix / 100 * batch_size))
        found = []
        for _ in range(batches):
            own = rng.integers(len(scores), size=count)
            extra = rng.integers(max(1, len(rest)), size=batch_size - count)
            batch = np.concatenate((scores[own], rest[extra]))
            route = choose_routes(batch, columns, limits, names, together=True)[0]
            found.append(
                (
                    correct[own, route].mean(),
                    route == right,
                    correct[own, alone[own]].mean(),
                    (alone[own] == right).mean(),
                )
            )
        batch_accuracy, batch_right, accuracy, own_right = 100 * np.mean(found, axis=0)
        for decision, measured, hit in (
            ("batch", batch_accuracy, batch_right),
            ("sample", accuracy, own_right),
        ):
            rows.append({"mix": mix, "decision": decision, "accuracy": measured, "right": hit})
    return pd.DataFrame(rows)


def mixed_batches(
    probes: Probes,
    *,
    mix: float | int,
    threshold: float | int = 1,
    stage: int | None = None,
    batches: int = 40,
    seed: int = 0,
) -> pd.DataFrame:
    """Accuracy on every domain where it is `mix` percent of a test batch; see `batch_mix`.

    Args:
        mix: percent of a batch that is of the domain, in (0, 100]; the rest is of all others.
        threshold: MoE-Adapters: thresholds are this many times the run's own.
        stage: None: the last one that there is.
        batches: sampled for each domain. seed: of the sampling.

    Returns:
        columns domain, status, mix, threshold, decision ("batch", "sample": each image alone),
        accuracy, right (percent of the domain's images, means over `batches`).

    Raises:
        UserError: a mix outside (0, 100]; the run has no routes or no probes.
    """
    wanted = chosen_stage(probes, stage)
    tables = []
    for domain in probes.domains:
        table = batch_mix(
            probes,
            domain,
            stage=wanted,
            mixes=(mix,),
            batches=batches,
            seed=seed,
            threshold=threshold,
        )
        table.insert(0, "domain", domain)
        table.insert(1, "status", probes.status(wanted, domain))
        table.insert(2, "threshold", float(threshold))
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def choose_routes(
    scores: Array, columns: list[str], limits: Array | None, names: list[str], *, together: bool
) -> Array:
    """The route of every row of `scores`, by the rule of the method that recorded them.

    Args:
        limits: thresholds of errors; None: scores are log densities.
        together: the rows are one test batch that decides as one.
    """
    if limits is not None:
        seen = scores.mean(axis=0, keepdims=True).repeat(len(scores), axis=0)
        return choose_by_error(seen if together else scores, columns, limits, names)
    best = scores.argmax(axis=1)
    if together:  # of equal counts the first task
        best[:] = np.bincount(best, minlength=scores.shape[1]).argmax()
    return best


def choose_by_error(scores: Array, columns: list[str], limits: Array, names: list[str]) -> Array:
    """The auto-selector's rule: the smallest error names the task; above the threshold, none.

    Returns:
        index into `names`, whose last is the frozen CLIP; int `[n]`.
    """
    best = scores.argmin(axis=1)
    index = np.array([names.index(c) if c in names else len(names) - 1 for c in columns])
    rejected = scores[np.arange(len(scores)), best] > limits.astype(np.float32)[best]
    return np.where(rejected, len(names) - 1, index[best])


def _thresholds(probes: Probes, stage: int) -> Array | None:
    return probes.array(stage, "thresholds").astype(float) if probes.has("thresholds") else None


def _right_route(names: list[str], domain: str) -> int:
    return names.index(domain) if domain in names else len(names) - 1


def _correct(probes: Probes, stage: int, domain: str) -> Array:
    # [n, routes]: whether a route's logits name the true class
    return probes.route_logits(stage, domain).argmax(axis=2) == probes.labels(domain)[:, None]
