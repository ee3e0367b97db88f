"""Reading probes: what a run recorded about its network after every task.

The arrays of a stage and their names are in files.py.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vlcl_toolkit.errors import UserError, unknown_name
from vlcl_toolkit.probes.files import Arrays, missing_probe, stage_files

if TYPE_CHECKING:
    import pandas as pd

TOWERS = ("image", "text")
POSITIONS = ("class", "rest")
MEASURES = ("relative_norm", "cosine", "cka")


class Probes:
    """Everything that was recorded, stage by stage.

    Build it from plain arrays to analyse what did not come from a run of this toolkit.

    Args:
        stages: stage number -> its arrays, or a function that reads them when first needed.
        order: task names as learned.
        held_out: names of the domains that are never learned.
        class_names: by domain.
        source, method: where the files lie and which method was run, for error messages.

    Raises:
        UserError: nothing was recorded.
    """

    def __init__(
        self,
        stages: Mapping[int, Arrays | Callable[[], Arrays]],
        order: Sequence[str],
        held_out: Sequence[str] = (),
        class_names: Mapping[str, Sequence[str]] | None = None,
        *,
        source: str = "these probes",
        method: str = "",
    ):
        self._stages = dict(stages)
        self.order, self.held_out = list(order), list(held_out)
        self._class_names = {name: list(words) for name, words in (class_names or {}).items()}
        self.source, self.method = source, method
        if not self._stages:
            raise missing_probe("every probe", source, method)

    @classmethod
    def load(cls, folder: str | Path, config: Mapping[str, Any]) -> "Probes":
        """The probes of a run's folder.

        Args:
            folder: of the run. config: content of its config.json.

        Raises:
            UserError: the run was made without probes.
        """
        return cls(
            stage_files(Path(folder)),
            config["order"],
            config["held_out"],
            config["class_names"],
            source=str(folder),
            method=config["method"],
        )

    def __repr__(self) -> str:
        return f"Probes({self.source}: stages {self.stages[0]} to {self.stages[-1]})"

    # What there is.

    @property
    def stages(self) -> list[int]:
        """The stages that were recorded; an interrupted run has fewer."""
        return sorted(self._stages)

    @property
    def domains(self) -> list[str]:
        """Tasks in the order learned, then the domains that are never learned."""
        return [*self.order, *self.held_out]

    def after(self, stage: int) -> str:
        """The task that stage `stage` comes after, "zero-shot" for 0."""
        return self.order[stage - 1] if stage else "zero-shot"

    def status(self, stage: int, domain: str) -> str:
        """What a domain is at a stage: "learned", "current", "unseen" or "held-out"."""
        if domain in self.held_out:
            return "held-out"
        learned = self.order.index(domain) + 1
        return "current" if learned == stage else "learned" if learned < stage else "unseen"

    def where(self, stage: int, domain: str) -> dict[str, Any]:
        """The first columns of a row: stage, after, domain, status."""
        status = self.status(stage, domain)
        return {"stage": stage, "after": self.after(stage), "domain": domain, "status": status}

    def class_names(self, domain: str) -> list[str]:
        """Names of the classes, in the order of the labels."""
        self._check_domain(domain)
        return self._class_names.get(domain, [])

    def has(self, name: str) -> bool:
        """Whether the last stage has an array, or arrays below that prefix ("attention")."""
        return any(key == name or key.startswith(f"{name}/") for key in self._of(self.stages[-1]))

    def array(self, stage: int, name: str) -> np.ndarray:
        """One recorded array, by its name (files.py).

        Raises:
            UserError: the stage or the probe is not there.
        """
        arrays = self._of(stage)
        if name not in arrays:
            raise missing_probe(
                f"the probe {name!r}", f"stage {stage} of {self.source}", self.method
            )
        return np.asarray(arrays[name])

    # Features and predictions.

    def labels(self, domain: str) -> np.ndarray:
        """True classes of the probe images, int `[n]`."""
        return self._per_domain(self.stages[0], "labels", domain).astype(np.int64)

    def image_features(self, stage: int, domain: str) -> np.ndarray:
        """Unit-norm float32 `[n, D]`."""
        return self._per_domain(stage, "image_features", domain).astype(np.float32)

    def class_features(self, stage: int, domain: str) -> np.ndarray:
        """Unit-norm float32 `[C, D]`."""
        return self._per_domain(stage, "class_features", domain).astype(np.float32)

    def logits(self, stage: int, domain: str) -> np.ndarray:
        """Float32 `[n, C]`."""
        return self._per_domain(stage, "logits", domain).astype(np.float32)

    def mixed_predictions(self, domain: str, *, image_stage: int, text_stage: int) -> np.ndarray:
        """Predicted classes, int `[n]`, of images of one stage against classes of another.

        Raises:
            UserError: the stages differ and neither is 0 (frozen), or one is not there.
        """
        if image_stage == text_stage:
            return self.logits(image_stage, domain).argmax(axis=1)
        if image_stage and text_stage:
            raise UserError(
                "one of image_stage and text_stage must be 0 (the frozen CLIP); "
                f"found {image_stage} and {text_stage}"
            )
        name = f"frozen_image_logits/{domain}"
        if image_stage == 0 and name in self._of(text_stage):
            return self.array(text_stage, name).argmax(axis=1)
        images = self.image_features(image_stage, domain).astype(np.float64)
        return (images @ self.class_features(text_stage, domain).T).argmax(axis=1)

    # Inside the network, as tidy frames.

    def drift(self) -> "pd.DataFrame":
        """How far activations moved from the frozen CLIP's, on the same inputs.

        Columns: stage, after, domain, status, tower, block (0 = embedding, k = after block k), position
        ("class": the token that is pooled; "rest": mean over the other tokens), relative_norm (length
        of the change / length before, mean over inputs, >= 0), cosine (mean, -1 .. 1), cka (linear CKA
        over the inputs of the domain, 0 .. 1, 1 = the same geometry; nan where they do not vary).
        Inputs of the image tower are the probe images, those of the text tower the class prompts in the
        first template.

        Source: Kornblith et al. 2019, "Similarity of Neural Network Representations Revisited".
        """
        rows = []
        for stage, tower, domain, values in self._each("drift"):
            for block, position in np.ndindex(*values.shape[:2]):
                place = {"tower": tower, "block": block, "position": POSITIONS[position]}
                measured = dict(zip(MEASURES, values[block, position].tolist(), strict=True))
                rows.append(self.where(stage, domain) | place | measured)
        return self._frame("drift", rows)

    def attention(self) -> "pd.DataFrame":
        """What prompts take: columns stage, after, domain, status, tower, block (from 1), share.

        Prefix tuning: the mean share of attention that goes to prompts, in [0, 1]; it is lost for the
        tokens. DIKI: length of what the residual branch adds over length of CLIP's own attention
        output, >= 0; that attention itself loses nothing.
        """
        rows = []
        for stage, tower, domain, values in self._each("attention"):
            for block, share in enumerate(values.tolist(), start=1):
                if not np.isnan(share):
                    place = {"tower": tower, "block": block, "share": share}
                    rows.append(self.where(stage, domain) | place)
        return self._frame("attention", rows)

    def routing(self) -> "pd.DataFrame":
        """Which experts work.

        Columns: stage, after, domain, status, tower, block (from 1), expert (from 0), choices (inputs of
        the domain that chose it), gate_mass (sum of its gates over them). Inputs of the frozen route
        choose no expert.
        """
        rows = []
        for stage, tower, domain, choices in self._each("choices"):
            gates = self.array(stage, f"gate_mass/{tower}/{domain}")
            for block, expert in np.ndindex(*choices.shape):
                place = {"tower": tower, "block": block + 1, "expert": expert}
                use = {
                    "choices": int(choices[block, expert]),
                    "gate_mass": float(gates[block, expert]),
                }
                rows.append(self.where(stage, domain) | place | use)
        return self._frame("choices", rows)

    def parameter_distance(self) -> "pd.DataFrame":
        """L2 distance of what a method changes; what it adds counts from zero.

        Columns: stage, after, tower, block (0 = embedding, 1 .. L, L + 1 = head), from_frozen,
        from_previous.
        """
        rows = []
        for stage in self.stages:
            for tower in TOWERS:
                name = f"parameters/{tower}"
                if name not in self.names(stage):
                    continue
                for block, (frozen, previous) in enumerate(self.array(stage, name).tolist()):
                    place = {
                        "stage": stage,
                        "after": self.after(stage),
                        "tower": tower,
                        "block": block,
                    }
                    rows.append(place | {"from_frozen": frozen, "from_previous": previous})
        return self._frame("parameters", rows)

    def names(self, stage: int) -> list[str]:
        """Names of the arrays that a stage has."""
        return sorted(self._of(stage))

    # Routes.

    def routes(self, stage: int) -> list[str]:
        """Names of the routes an image could take; the last is the frozen CLIP."""
        return self._named(self.array(stage, "routes"))

    def route(self, stage: int, domain: str) -> np.ndarray:
        """Index of the route that each image took, int `[n]`."""
        return self._per_domain(stage, "route", domain).astype(np.int64)

    def route_scores(self, stage: int, domain: str) -> tuple[np.ndarray, list[str]]:
        """What decided the route, float64 `[n, S]`, and the names of its columns."""
        scores = self._per_domain(stage, "route_scores", domain).astype(np.float64)
        return scores, self._named(self.array(stage, "score_names"))

    def route_logits(self, stage: int, domain: str) -> np.ndarray:
        """Logits under every route, float32 `[n, R, C]`."""
        return self._per_domain(stage, "route_logits", domain).astype(np.float32)

    # Helpers.

    def _named(self, names: np.ndarray) -> list[str]:
        # methods count tasks; here they have names
        tasks = {f"task {number}": name for number, name in enumerate(self.order, start=1)}
        return [tasks.get(str(name), str(name)) for name in names]

    def _of(self, stage: int) -> Arrays:
        if stage not in self._stages:
            there = ", ".join(map(str, self.stages))
            raise UserError(
                f"{self.source} has probes of stages {there}; found stage {stage}; if the run is not "
                "finished, rerun the same command to continue it"
            )
        arrays = self._stages[stage]
        if callable(arrays):
            arrays = self._stages[stage] = arrays()
        return arrays

    def _check_domain(self, domain: str) -> None:
        if domain not in self.domains:
            raise unknown_name("domain", domain, self.domains)

    def _per_domain(self, stage: int, kind: str, domain: str) -> np.ndarray:
        self._check_domain(domain)
        return self.array(stage, f"{kind}/{domain}")

    def _each(self, kind: str) -> Iterator[tuple[int, str, str, np.ndarray]]:
        for stage in self.stages:
            there = set(self.names(stage))
            for tower in TOWERS:
                for domain in self.domains:
                    name = f"{kind}/{tower}/{domain}"
                    if name in there:
                        yield stage, tower, domain, self.array(stage, name)

    def _frame(self, probe: str, rows: list[dict[str, Any]]) -> "pd.DataFrame":
        if not rows:
            raise missing_probe(f"the probe {probe!r}", self.source, self.method)
        import pandas as pd

        return pd.DataFrame(rows)
