"""Recording probes during a run: the frozen CLIP before it, the changed one after every task.

The states of the random number generators are restored and nothing that the method keeps is
touched, so a run with probes gives the same numbers as one without.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.methods import Method, make_method
from vlcl_toolkit.probes.activations import drift_measures
from vlcl_toolkit.probes.config import ProbeConfig, probe_images
from vlcl_toolkit.probes.files import COMMAND, read_stage, stage_path, write_stage
from vlcl_toolkit.probes.observation import Observation, observe
from vlcl_toolkit.probes.weights import PreviousWeights, current_weights, distances, expert_changes
from vlcl_toolkit.seeds import rng_state, set_rng_state
from vlcl_toolkit.streams.base import TaskStream


class Recorder:
    """Writes `probes/step_<k>.npz` into a run's folder."""

    def __init__(self, method: Method, stream: TaskStream, folder: Path, config: ProbeConfig):
        """Record stage 0, the frozen CLIP; the method is not attached yet."""
        self.method, self.folder, self.config = method, folder, config
        model = method.clip.model
        self.blocks = {
            "image": len(model.visual.transformer.resblocks),
            "text": len(model.transformer.resblocks),
        }
        tasks = (*stream.tasks, *stream.held_out)
        self.data = {task: probe_images(task, config.images_per_domain) for task in tasks}
        self.weights = PreviousWeights(folder)
        frozen = make_method("zero_shot", method.clip)
        self.frozen_weights = {k: v.clone() for k, v in current_weights(frozen).items()}
        self.frozen: dict[str, np.ndarray] | None = None
        self.activations: dict[str, Observation] = {}
        with _rng_restored():
            self.frozen = self._observe(frozen, 0)
        if not stage_path(folder, 0).is_file():
            write_stage(folder, 0, self.frozen)

    def check(self, stage: int) -> None:
        """Before a run goes on after `stage`: read what the next stage is compared with.

        Raises:
            UserError: it is missing or damaged.
        """
        self.weights.load(stage, self.frozen_weights)

    def record(self, stage: int) -> None:
        """After task `stage` (from 1) was learned and tested.

        Raises:
            UserError: a file of the stage before is missing; the file cannot be written.
        """
        with _rng_restored():
            arrays = self._observe(self.method, stage)
            now = current_weights(self.method)
            before = self.weights.load(stage - 1, self.frozen_weights)
            moved = distances(now, self.frozen_weights, before, self.blocks)
            arrays |= {f"parameters/{tower}": values.numpy() for tower, values in moved.items()}
            changes = expert_changes(self.method, now, before, self.blocks)
            arrays |= {f"expert_change/{tower}": values for tower, values in changes.items()}
            self.weights.save(stage, now, self.frozen_weights)
            write_stage(self.folder, stage, arrays)

    def finish(self) -> None:
        """After the last task."""
        self.weights.clear()

    def _observe(self, method: Method, stage: int) -> dict[str, np.ndarray]:
        arrays: dict[str, np.ndarray] = {"settings": _settings(self.config)}
        settled = method.introspection().settled_routes()
        previous = self._previous(stage) if stage > 1 and settled else None
        for task, data in self.data.items():
            seen = observe(
                method,
                task,
                data,
                self.blocks,
                frozen=self.frozen,
                previous=previous,
                all_routes=self.config.route_logits,
            )
            frozen = self.activations.setdefault(task.name, seen)
            arrays |= seen.arrays
            if self.config.activations:
                pairs = {
                    "image": (seen.image_activations, frozen.image_activations),
                    "text": (seen.text_activations, frozen.text_activations),
                }
                for tower, (now, before) in pairs.items():
                    arrays[f"drift/{tower}/{task.name}"] = drift_measures(now, before)
        return arrays

    def _previous(self, stage: int) -> dict[str, np.ndarray]:
        path = stage_path(self.folder, stage - 1)
        if not path.is_file():
            raise UserError(
                f"{path} is missing, so probes cannot be continued; record them again in another "
                f"folder: {COMMAND} --out DIR"
            )
        return read_stage(path)


def recorded(folder: Path, rows: int, config: ProbeConfig) -> bool:
    """Whether the first `rows` stages of a run are there, recorded with these settings."""
    for stage in range(rows):
        path = stage_path(folder, stage)
        if not path.is_file() or not np.array_equal(
            read_stage(path).get("settings", ()), _settings(config)
        ):
            return False
    return True


def missing_stages(folder: Path, rows: int) -> list[str]:
    """Files that are not there, of the first `rows` stages of a run."""
    paths = [stage_path(folder, stage) for stage in range(rows)]
    return [f"probes/{path.name}" for path in paths if not path.is_file()]


def _settings(config: ProbeConfig) -> np.ndarray:
    return np.array(list(asdict(config).values()), dtype=np.int64)


@contextlib.contextmanager
def _rng_restored() -> Iterator[None]:
    tensors, values = rng_state()
    try:
        yield
    finally:
        set_rng_state(tensors, values)
