"""Among which classes an image is classified when a task is tested.

After K of T tasks, about an image of task j:

    "task"  the classes of task j: the task's identity is given (MTIL).
    "seen"  the classes of the tasks learned so far; of a task still to come: those of the whole
            stream (class-incremental learning, which does not count such rows).
    "odcl"  the classes of the tasks learned so far; of a task still to come: its own, its identity
            is given (ODCL-CIL; Li et al. 2024, "Coleclip").
    "all"   the classes of the whole stream, learned or not (X-TAIL; Xu et al. 2024, "Advancing
            Cross-domain Discriminability in Continual Learning of Vision-Language Models").

Each class keeps the templates of its own task. A name that several tasks share stays one class of
each (`shared_class_names`): of equal scores the earlier task's class is the answer. Held-out tasks
always keep their own classes.
"""

from collections import Counter

from vlcl_toolkit.streams.base import Task, TaskStream
from vlcl_toolkit.streams.data import ImageData


class LabelSpace:
    """What is asked about the test images of each task of a stream."""

    def __init__(self, stream: TaskStream):
        self.stream = stream
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
        if space == "task" or task.name not in self.stream.names:
            return task.test, task
        position = self.stream.names.index(task.name)
        if space == "odcl" and position >= learned:
            return task.test, task
        everything = space == "all" or position >= learned
        return self._among_all(position), self._union(len(self.stream) if everything else learned)

    def _among_all(self, position: int) -> ImageData:
        task = self.stream[position]
        if task.name not in self._relabelled:
            offset = sum(len(earlier.class_names) for earlier in self.stream.tasks[:position])
            self._relabelled[task.name] = task.test.relabelled(task.test.labels + offset)
        return self._relabelled[task.name]

    def _union(self, count: int) -> Task:
        if count not in self._unions:
            self._unions[count] = union(self.stream.tasks[:count])
        return self._unions[count]


def union(tasks: tuple[Task, ...]) -> Task:
    """The classes of several tasks, in their order, as one task without images.

    Its `parts` are the tasks; its templates are those of the first and serve no class.
    """
    names = tuple(name for task in tasks for name in task.class_names)
    nothing = tasks[0].test.subset([])
    templates = tasks[0].templates
    return Task(f"first {len(tasks)} tasks", names, templates, nothing, nothing, nothing, tasks)


def shared_class_names(stream: TaskStream) -> list[str]:
    """Class names that occur in more than one task of the stream, sorted."""
    count = Counter(name for task in stream for name in set(task.class_names))
    return sorted(name for name, tasks in count.items() if tasks > 1)
