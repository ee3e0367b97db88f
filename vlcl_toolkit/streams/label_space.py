"""Among which classes an image is classified when a task is tested."""

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.streams.base import Task, TaskStream
from vlcl_toolkit.streams.data import ImageData


class LabelSpace:
    """What is asked about the test images of each task.

    "task": their own task's classes. "seen": the classes of all tasks learned so far; about a task
    that is still to come, the classes of the whole stream. Held-out tasks keep their own classes.

    Raises:
        UserError: "seen" for tasks whose prompts differ, which no single list of prompts can serve.
    """

    def __init__(self, stream: TaskStream):
        self.stream = stream
        self._merged: dict[int, Task] = {}
        self._shifted: dict[str, ImageData] = {}
        if stream.label_space == "seen" and len({task.templates for task in stream}) > 1:
            raise UserError(
                f"label_space='seen' needs one list of templates for all tasks; those of stream "
                f"{stream.id!r} differ; give them the same"
            )

    def evaluation_set(self, task: Task, learned: int) -> tuple[ImageData, Task]:
        """Test images, and the task whose classes they are classified among.

        Args:
            task: of the stream, or held out. `learned`: how many tasks have been learned.
        """
        if self.stream.label_space == "task" or task.name not in self.stream.names:
            return task.test, task
        position = self.stream.names.index(task.name)
        count = learned if position < learned else len(self.stream)
        return self._labelled(position), self._union(count)

    def _labelled(self, position: int) -> ImageData:
        task = self.stream[position]
        if (
            task.name not in self._shifted
        ):  # the same object each time, so that methods may remember
            offset = sum(len(earlier.class_names) for earlier in self.stream.tasks[:position])
            self._shifted[task.name] = task.test.relabelled(task.test.labels + offset)
        return self._shifted[task.name]

    def _union(self, count: int) -> Task:
        if count not in self._merged:
            tasks = self.stream.tasks[:count]
            names = tuple(name for task in tasks for name in task.class_names)
            nothing = tasks[0].test.subset([])
            self._merged[count] = Task(
                f"first {count} tasks", names, tasks[0].templates, nothing, nothing, nothing
            )
        return self._merged[count]
