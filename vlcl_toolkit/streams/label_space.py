"""Among which classes an image is classified when a task is tested.

After K of T tasks, about an image of task j:

    "task"  the classes of task j: the task's identity is given (MTIL).
    "seen"  the classes of the tasks learned so far; of a task still to come: those of the whole
            stream (class-incremental learning, which does not count such rows).
    "odcl"  the classes of the tasks learned so far; of a task still to come: its own, its identity
            is given (ODCL-CIL; Li et al. 2024, "Coleclip").
    "all"   the classes of the whole stream, learned or not (X-TAIL; Xu et al. 2024, "Advancing
            Cross-domain Discriminability in Continual Learning of Vision-Language Models").

Each class keeps the templates of its own task. A name that several tasks share (`shared_class_names`)
stays one class of each, and of equal scores the earlier task's class is the answer; unless the stream
merges shared names, as CoLeCLIP's code does: then it is one class, at its first place, with the
templates of all of its tasks (in every label space). Held-out tasks always keep their own classes.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

import torch

from vlcl_toolkit.streams.base import Task, TaskStream
from vlcl_toolkit.streams.data import ImageData

LABEL_SPACES = {
    "task": "the classes of its own data set",
    "seen": "the classes of all tasks so far",
    "odcl": "the classes of all tasks so far, before its task is learned those of its own data set",
    "all": "the classes of all tasks of the stream, learned or not",
}
"""Label space -> among what an image is classified, in words."""


class LabelSpace:
    """What is asked about the test images of each task of a stream."""

    def __init__(self, stream: TaskStream):
        self.stream = stream
        self._shared = shared_class_names(stream) if stream.merge_shared_names else []
        self._own: dict[str, Task] = {}
        # The same objects each time, so that methods may remember what they computed.
        self._unions: dict[int, Task] = {}
        self._relabelled: dict[str, ImageData] = {}

    def evaluation_set(self, task: Task, learned: int) -> tuple[ImageData, Task]:
        """Test images, and the task whose classes they are classified among.

        Args:
            task: of the stream, or held out.
            learned: how many tasks have been learned.
        """
        space = self.stream.label_space
        if task.name not in self.stream.names:
            return task.test, task
        position = self.stream.names.index(task.name)
        if space == "task" or (space == "odcl" and position >= learned):
            return task.test, self._among_own(task)
        everything = space == "all" or position >= learned
        return self._among_all(position), self._union(len(self.stream) if everything else learned)

    def _among_own(self, task: Task) -> Task:
        if not set(task.class_names) & set(self._shared):
            return task
        if task.name not in self._own:
            self._own[task.name] = self._merged((task,))
        return self._own[task.name]

    def _among_all(self, position: int) -> ImageData:
        task = self.stream[position]
        if task.name not in self._relabelled:
            before = self.stream.tasks[: position + 1]
            names = [name for earlier in before for name in earlier.class_names]
            if self._shared:
                names = list(dict.fromkeys(names))
                columns = [names.index(name) for name in task.class_names]
            else:
                columns = list(range(len(names) - len(task.class_names), len(names)))
            labels = torch.tensor(columns)[task.test.labels]
            self._relabelled[task.name] = task.test.relabelled(labels)
        return self._relabelled[task.name]

    def _union(self, count: int) -> Task:
        if count not in self._unions:
            tasks = self.stream.tasks[:count]
            self._unions[count] = self._merged(tasks) if self._shared else union(tasks)
        return self._unions[count]

    def _merged(self, tasks: Sequence[Task]) -> Task:
        templates: dict[str, tuple[str, ...]] = {}
        for task in tasks:
            for name in task.class_names:
                owners = [other for other in self.stream if name in other.class_names]
                # CoLeCLIP's only exception: an aerial view of these two.
                sole = [owner for owner in owners if owner.name == "EuroSAT"]
                if name in ("forest", "river") and sole:
                    owners = sole
                templates.setdefault(name, tuple(t for owner in owners for t in owner.templates))
        # Neighbours with the same templates form a part.
        parts = [
            replace(bare(tasks[0]), name=f"part {i}", class_names=tuple(names), templates=shared)
            for i, (shared, names) in enumerate(groupby(templates, templates.__getitem__))
        ]
        return union(tuple(parts))


def bare(task: Task) -> Task:
    """A task without its images."""
    nothing = task.test.subset([])
    return replace(task, train=nothing, validation=nothing, test=nothing)


def union(tasks: tuple[Task, ...]) -> Task:
    """The classes of several tasks, in their order, as one task without images.

    Its `parts` are the tasks; its templates are those of the first and serve no class.
    """
    names = tuple(name for task in tasks for name in task.class_names)
    return replace(
        bare(tasks[0]), name=f"union of {len(tasks)}", class_names=names, parts=tuple(tasks)
    )


def shared_class_names(stream: TaskStream) -> list[str]:
    """Class names that occur in more than one task of the stream, sorted."""
    count = Counter(name for task in stream for name in set(task.class_names))
    return sorted(name for name, tasks in count.items() if tasks > 1)
