"""Reading probes: what a run recorded about its network after every task.

The arrays of a step and their names are in files.py.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vlcl_toolkit.errors import UserError, unknown_name
from vlcl_toolkit.probes.files import Arrays, missing_probe, step_files

TOWERS = ("image", "text")
POSITIONS = ("class", "rest")
MEASURES = ("relative_norm", "cosine", "cka")


class Probes:
    """What was recorded at every step that there is.

    Build it from plain arrays to analyse what did not come from a run of this toolkit.

    Args:
        steps: step number -> its arrays, or a function that reads them when first needed.
        order: task names as learned.
        held_out: names of the domains that are never learned.
        class_names: by domain.
        source: where they lie, and the method that was run, for error messages.

    Raises:
        UserError: nothing was recorded.
    """

    def __init__(
        self,
        steps: Mapping[int, Arrays | Callable[[], Arrays]],
        order: Sequence[str],
        held_out: Sequence[str] = (),
        class_names: Mapping[str, Sequence[str]] | None = None,
        *,
        source: str = "these probes",
        method: str = "",
    ):
        self._steps = dict(steps)
        self.order, self.held_out = list(order), list(held_out)
        self._class_names = {name: list(words) for name, words in (class_names or {}).items()}
        self.source, self.method = source, method
        if not self._steps:
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
            step_files(Path(folder)),
            config["order"],
            config["held_out"],
            config["class_names"],
            source=str(folder),
            method=config["method"],
        )

    def __repr__(self) -> str:
        return f"Probes({self.source}: steps {self.steps[0]} to {self.steps[-1]})"

    # What there is.

    @property
    def steps(self) -> list[int]:
        """The steps that are there; an interrupted run has fewer."""
        return sorted(self._steps)

    @property
    def domains(self) -> list[str]:
        """Tasks in the order learned, then the domains that are never learned."""
        return [*self.order, *self.held_out]

    def after(self, step: int) -> str:
        """The task that step `step` comes after, "zero-shot" for 0."""
        return self.order[step - 1] if step else "zero-shot"

    def status(self, step: int, domain: str) -> str:
        """What a domain is at a step: "learned", "current", "unseen" or "held-out"."""
        if domain in self.held_out:
            return "held-out"
        learned = self.order.index(domain) + 1
        return "current" if learned == step else "learned" if learned < step else "unseen"

    def class_names(self, domain: str) -> list[str]:
        """Words of the classes; label `i` means the i-th."""
        self._check_domain(domain)
        return self._class_names.get(domain, [])

    def has(self, name: str) -> bool:
        """Whether the last step has an array, or arrays below that prefix ("attention")."""
        return any(key == name or key.startswith(f"{name}/") for key in self._of(self.steps[-1]))

    def array(self, step: int, name: str) -> np.ndarray:
        """One recorded array, by its name (files.py).

        Raises:
            UserError: the step or the probe is not there.
        """
        arrays = self._of(step)
        if name not in arrays:
            raise missing_probe(f"the probe {name!r}", f"step {step} of {self.source}", self.method)
        return np.asarray(arrays[name])

    # Features and predictions.

    def labels(self, domain: str) -> np.ndarray:
        """True classes of the probe images, int `[n]`."""
        return self._per_domain(self.steps[0], "labels", domain).astype(np.int64)

    def image_features(self, step: int, domain: str) -> np.ndarray:
        """Unit-norm float32 `[n, D]`."""
        return self._per_domain(step, "image_features", domain).astype(np.float32)

    def class_features(self, step: int, domain: str) -> np.ndarray:
        """Unit-norm float32 `[C, D]`."""
        return self._per_domain(step, "class_features", domain).astype(np.float32)

    def logits(self, step: int, domain: str) -> np.ndarray:
        """Float32 `[n, C]`."""
        return self._per_domain(step, "logits", domain).astype(np.float32)

    def mixed_predictions(self, domain: str, *, image_step: int, text_step: int) -> np.ndarray:
        """Predicted classes, int `[n]`, of images of one step against classes of another.

        Raises:
            UserError: the steps differ and neither is 0 (frozen), or one is not there.
        """
        if image_step == text_step:
            return self.logits(image_step, domain).argmax(axis=1)
        if image_step and text_step:
            raise UserError(
                f"towers are mixed with the frozen ones, step 0; found {image_step} and {text_step}"
            )
        name = f"frozen_image_logits/{domain}"
        if image_step == 0 and name in self._of(text_step):
            return self.array(text_step, name).argmax(axis=1)
        images = self.image_features(image_step, domain).astype(np.float64)
        return (images @ self.class_features(text_step, domain).T).argmax(axis=1)

    # Inside the network, as tidy frames.

    def drift(self) -> pd.DataFrame:
        """How far activations moved from the frozen network's, on the same inputs.

        Columns: step, after, domain, status, tower, block (0 = embedding, k = after block k), position
        ("class": the token that is pooled; "rest": mean over the other tokens), relative_norm (length
        of the change / length before, mean over inputs, >= 0), cosine (mean, -1 .. 1), cka (linear CKA
        over the inputs of the domain, 0 .. 1, 1 = the same geometry; nan where they do not vary).
        Inputs of the image tower are the probe images, those of the text tower the class prompts in the
        first template.

        Source: Kornblith et al. 2019, "Similarity of Neural Network Representations Revisited".
        """
        rows = []
        for step, tower, domain, values in self._each("drift"):
            for block, position in np.ndindex(*values.shape[:2]):
                place = {"tower": tower, "block": block, "position": POSITIONS[position]}
                measured = dict(zip(MEASURES, values[block, position].tolist(), strict=True))
                rows.append(self._where(step, domain) | place | measured)
        return self._frame("drift", rows)

    def attention(self) -> pd.DataFrame:
        """What prompts take: columns step, after, domain, status, tower, block (from 1), share.

        Prefix tuning: the mean share of attention that goes to prompts, in [0, 1]; it is lost for the
        tokens. DIKI: length of what the residual branch adds over length of CLIP's own attention
        output, >= 0; that attention itself loses nothing.
        """
        rows = []
        for step, tower, domain, values in self._each("attention"):
            for block, share in enumerate(values.tolist(), start=1):
                if not np.isnan(share):
                    place = {"tower": tower, "block": block, "share": share}
                    rows.append(self._where(step, domain) | place)
        return self._frame("attention", rows)

    def routing(self) -> pd.DataFrame:
        """Which experts work.

        Columns: step, after, domain, status, tower, block (from 1), expert (from 0), choices (inputs of
        the domain that chose it), gate_mass (sum of its gates over them). Inputs of the frozen route
        choose no expert.
        """
        rows = []
        for step, tower, domain, choices in self._each("choices"):
            gates = self.array(step, f"gate_mass/{tower}/{domain}")
            for block, expert in np.ndindex(*choices.shape):
                place = {"tower": tower, "block": block + 1, "expert": expert}
                use = {
                    "choices": int(choices[block, expert]),
                    "gate_mass": float(gates[block, expert]),
                }
                rows.append(self._where(step, domain) | place | use)
        return self._frame("choices", rows)

    def parameter_distance(self) -> pd.DataFrame:
        """L2 distance of what a method changes; what it adds counts from zero.

        Columns: step, after, tower, block (0 = embedding, 1 .. L, L + 1 = head), from_frozen,
        from_previous.
        """
        rows = []
        for step in self.steps:
            for tower in TOWERS:
                name = f"parameters/{tower}"
                if name not in self.names(step):
                    continue
                for block, (frozen, previous) in enumerate(self.array(step, name).tolist()):
                    place = {
                        "step": step,
                        "after": self.after(step),
                        "tower": tower,
                        "block": block,
                    }
                    rows.append(place | {"from_frozen": frozen, "from_previous": previous})
        return self._frame("parameters", rows)

    def names(self, step: int) -> list[str]:
        """Names of the arrays that a step has."""
        return sorted(self._of(step))

    # Routes.

    def routes(self, step: int) -> list[str]:
        """Names of the routes an image could take; the last is the frozen network."""
        return self._named(self.array(step, "routes"))

    def route(self, step: int, domain: str) -> np.ndarray:
        """Index of the route that each image took, int `[n]`."""
        return self._per_domain(step, "route", domain).astype(np.int64)

    def route_scores(self, step: int, domain: str) -> tuple[np.ndarray, list[str]]:
        """What decided the route, float64 `[n, S]`, and the names of its columns."""
        scores = self._per_domain(step, "route_scores", domain).astype(np.float64)
        return scores, self._named(self.array(step, "score_names"))

    def route_logits(self, step: int, domain: str) -> np.ndarray:
        """Logits under every route, float32 `[n, R, C]`."""
        return self._per_domain(step, "route_logits", domain).astype(np.float32)

    # Helpers.

    def _named(self, names: np.ndarray) -> list[str]:
        # methods count tasks; here they have names
        tasks = {f"task {number}": name for number, name in enumerate(self.order, start=1)}
        return [tasks.get(str(name), str(name)) for name in names]

    def _of(self, step: int) -> Arrays:
        if step not in self._steps:
            there = ", ".join(map(str, self.steps))
            raise UserError(
                f"{self.source} has probes of steps {there}; found step {step}; if the run is not "
                "finished, the same command goes on with it"
            )
        arrays = self._steps[step]
        if callable(arrays):
            arrays = self._steps[step] = arrays()
        return arrays

    def _check_domain(self, domain: str) -> None:
        if domain not in self.domains:
            raise unknown_name("domain", domain, self.domains)

    def _per_domain(self, step: int, kind: str, domain: str) -> np.ndarray:
        self._check_domain(domain)
        return self.array(step, f"{kind}/{domain}")

    def _each(self, kind: str) -> Iterator[tuple[int, str, str, np.ndarray]]:
        for step in self.steps:
            there = set(self.names(step))
            for tower in TOWERS:
                for domain in self.domains:
                    name = f"{kind}/{tower}/{domain}"
                    if name in there:
                        yield step, tower, domain, self.array(step, name)

    def _where(self, step: int, domain: str) -> dict[str, Any]:
        status = self.status(step, domain)
        return {"step": step, "after": self.after(step), "domain": domain, "status": status}

    def _frame(self, probe: str, rows: list[dict[str, Any]]) -> pd.DataFrame:
        if not rows:
            raise missing_probe(f"the probe {probe!r}", self.source, self.method)
        return pd.DataFrame(rows)
