"""Where in the network a method interferes with what was there before.

Everything is computed from probes (`RunResult.probes`): the frozen CLIP is stage 0, stage k comes
after task k. Sources: Kornblith et al. 2019 (CKA); Tang et al., "Mind the Interference", ECCV 2024
(prepended prompts against a residual branch). The decomposition into sides is this toolkit's own.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from vlcl_toolkit.analysis.points import chosen_stage
from vlcl_toolkit.probes import Probes
from vlcl_toolkit.training.results import RunResult


def drift_by_block(
    probes: Probes, *, stage: int | None = None, tower: str = "image", position: str = "class"
) -> pd.DataFrame:
    """How far every block's activations are from the frozen CLIP's, on the same inputs.

    Args:
        stage: None: the last one that there is. tower: "image" or "text".
        position: "class" (the pooled token) or "rest" (mean over the others).

    Returns:
        columns domain, status, block, relative_norm, cosine, cka (see `Probes.drift`), and
        increase: relative_norm minus that of the block before. What a block adds to the drift shows
        in `increase`; later blocks carry it on through the residual stream.

    Raises:
        UserError: activations were not recorded.
    """
    table = probes.drift()
    wanted = chosen_stage(probes, stage)
    rows = table[
        (table["stage"] == wanted) & (table["tower"] == tower) & (table["position"] == position)
    ].copy()
    before = rows.groupby("domain", sort=False)["relative_norm"].shift(fill_value=0.0)
    rows["increase"] = rows["relative_norm"] - before
    columns = ["domain", "status", "block", "relative_norm", "increase", "cosine", "cka"]
    return rows[columns].reset_index(drop=True)


def lost_predictions(probes: Probes) -> pd.DataFrame:
    """Which tower lost what zero-shot knew: swap one tower's features back and predict again.

    An image is lost if the frozen CLIP was right and the method now is not. It is classified again
    with its present features against the frozen class features (only the image side moved), and with
    its frozen features against the class features of now (only the text side moved). With both
    swapped back the answer is zero-shot's, exactly.

    Where class features depend on the route of an image, each image keeps its own. Methods that
    test with one template where zero-shot has an ensemble move the text side by that, too.

    Returns:
        columns stage, after, domain, status, images (n); in percent of them: zero_shot, now,
        image_moved, text_moved (accuracies); lost, and its parts, which sum to it: by_image (the
        image side alone does it, the text side alone does not), by_text, by_either (each alone
        does), by_both (only together).
    """
    rows = []
    for stage in probes.stages:
        for domain in probes.domains:
            labels = probes.labels(domain)

            def right(image_stage: int, text_stage: int) -> np.ndarray:
                found = probes.mixed_predictions(
                    domain,  # noqa: B023 (called in this round of the loop)
                    image_stage=image_stage,
                    text_stage=text_stage,
                )
                return found == labels  # noqa: B023

            zero_shot, now = right(0, 0), right(stage, stage)
            image_moved, text_moved = right(stage, 0), right(0, stage)
            lost = zero_shot & ~now
            shares = {
                "zero_shot": zero_shot,
                "now": now,
                "image_moved": image_moved,
                "text_moved": text_moved,
                "lost": lost,
                "by_image": lost & ~image_moved & text_moved,
                "by_text": lost & image_moved & ~text_moved,
                "by_either": lost & ~image_moved & ~text_moved,
                "by_both": lost & image_moved & text_moved,
            }
            place = probes.where(stage, domain) | {"images": len(labels)}
            rows.append(place | {name: 100 * float(flag.mean()) for name, flag in shares.items()})
    return pd.DataFrame(rows)


def attention_to_prompts(results: Sequence[RunResult], *, stage: int | None = None) -> pd.DataFrame:
    """Where attention goes: prepended prompts against the residual branch.

    The share of prefix tuning is attention that the tokens lose; that of DIKI is what the branch
    adds, relative to CLIP's own attention output, which loses nothing (see `Probes.attention`).

    Args:
        results: runs of methods with prompts. stage: None: the last of each.

    Returns:
        columns method, seed, domain, status, tower, block, share.

    Raises:
        UserError: a run has no such probe.
    """
    tables = []
    for result in results:
        table = result.probes.attention()
        rows = table[table["stage"] == (table["stage"].max() if stage is None else stage)].copy()
        rows.insert(0, "seed", result.seed)
        rows.insert(0, "method", result.method)
        tables.append(rows.drop(columns=["stage", "after"]))
    return pd.concat(tables, ignore_index=True)
