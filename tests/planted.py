"""Probes and runs whose right answers are known."""

from pathlib import Path

import numpy as np
import pandas as pd

from vlcl_toolkit.probes import Probes
from vlcl_toolkit.training.metrics import metrics
from vlcl_toolkit.training.results import RunResult, row_names

CLASSES = 4
EACH = 8  # images of a class
LABELS = np.repeat(np.arange(CLASSES), EACH)
SIZE = 16


def unit(values):
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def cloud(seed):
    """Image features `[32, 16]` in four groups, and the features `[4, 16]` of their classes."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(CLASSES, SIZE))
    images = centres[LABELS] + 0.25 * rng.normal(size=(len(LABELS), SIZE))
    return unit(images).astype(np.float32), unit(centres).astype(np.float32)


def stage_arrays(features):
    """Arrays of a stage from domain -> (images, class texts); logits are 100 times the cosine."""
    arrays = {}
    for domain, (images, texts) in features.items():
        arrays |= {
            f"labels/{domain}": LABELS,
            f"image_features/{domain}": images,
            f"class_features/{domain}": texts,
            f"logits/{domain}": 100 * images @ texts.T,
        }
    return arrays


def planted_probes(*stages):
    """Probes of the tasks "land" and "signs" and the held-out "faces", one domain dict per stage."""
    words = {name: [f"{name} {c}" for c in range(CLASSES)] for name in ("land", "signs", "faces")}
    arrays = {number: stage_arrays(features) for number, features in enumerate(stages)}
    return Probes(arrays, ["land", "signs"], ["faces"], words)


def frozen_features():
    return {"land": cloud(0), "signs": cloud(1), "faces": cloud(2)}


def made_up_run(order, rows, *, held_out=None, method="finetune", seed=0, rate=0.1):
    """A run from its accuracies, zero-shot first; nan where it has not come."""
    order = list(order)
    table = pd.DataFrame(rows, index=row_names(order), columns=order, dtype=float)
    return RunResult(
        folder=Path("nowhere"),
        config={
            "split_id": "s",
            "backbone": {"weights_sha256": "a" * 64},
            "method_config": {"learning_rate": rate},
        },
        method=method,
        stream="made-up",
        order=order,
        seed=seed,
        accuracy=table,
        held_out=pd.DataFrame(
            {"faces": held_out} if held_out else {}, index=table.index, dtype=float
        ),
        validation=pd.Series(80.0, index=order),
        metrics=metrics(table.to_numpy()[1:]),
        history=pd.DataFrame(),
        trainable_parameters=10,
        total_parameters=20,
        seconds={"train": 1.0, "evaluate": 2.0},
        peak_memory_mib=100.0,
        complete=bool(np.isfinite(table.to_numpy()).all()),
    )
