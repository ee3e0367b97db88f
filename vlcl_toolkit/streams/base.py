"""What is learned, in which order: tasks and streams of tasks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from string import Formatter
from typing import Literal, cast, get_args

import torch
from jaxtyping import UInt8
from torch import Tensor

from vlcl_toolkit.errors import UserError, unknown_name, whole_number
from vlcl_toolkit.seeds import derive_seed
from vlcl_toolkit.streams.data import ImageData, batches, few_shot_indices, load_batch
from vlcl_toolkit.streams.pictures import data_fingerprint

__all__ = [
    "ImageData",
    "Reference",
    "Task",
    "TaskStream",
    "batches",
    "load_batch",
    "named_orders",
    "resolve_order",
]


LabelSpaceName = Literal["task", "seen", "odcl", "all"]


@dataclass(frozen=True, eq=False)
class Task:
    """One data set to learn.

    Attributes:
        name: unique in its stream.
        class_names: words of the classes; label `i` means `class_names[i]`.
        templates: prompts with one "{}" each; training uses the first, tests the whole ensemble.
        train, validation, test: labelled images; validation may be empty.
        parts: of a union of tasks (see `label_space.py`), the tasks whose classes these are, in order,
            each with its own templates; else empty.

    Raises:
        UserError: no class, a template without exactly one "{}", a label without a class.
    """

    name: str
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    train: ImageData
    validation: ImageData
    test: ImageData
    parts: "tuple[Task, ...]" = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        if not self.class_names:
            raise UserError(f"task {self.name!r} has an empty class list; name its classes")
        if not self.templates:
            raise UserError(
                f"task {self.name!r} has no template; give one, e.g. 'a photo of a {{}}.'"
            )
        for template in self.templates:
            if not _is_template(template):
                raise UserError(
                    f"a template needs exactly one {{}} for the class name; "
                    f"task {self.name!r} has {template!r}; repair it"
                )
        for split in ("train", "validation", "test"):
            labels = getattr(self, split).labels
            if len(labels) and int(labels.max()) >= len(self.class_names):
                raise UserError(
                    f"labels of task {self.name!r} must lie in 0..{len(self.class_names) - 1}; "
                    f"found {int(labels.max())} in its {split} set; name the class or drop it"
                )

    def prompts(self, template: int = 0) -> list[str]:
        """One text per class from template number `template`."""
        if self.parts:
            return [text for part in self.parts for text in part.prompts(template)]
        return [self.templates[template].format(name) for name in self.class_names]

    def __repr__(self) -> str:
        sizes = f"{len(self.train)}/{len(self.validation)}/{len(self.test)}"
        return f"Task({self.name}, {len(self.class_names)} classes, {sizes} images)"


def _is_template(text: str) -> bool:
    try:
        fields = [field for _, field, _, _ in Formatter().parse(text) if field is not None]
    except ValueError:  # a lone brace
        return False
    return fields == [""]


@dataclass(frozen=True, eq=False)
class Reference:
    """Unlabelled data from outside the stream, for methods that distil on it or reject by it.

    Attributes:
        images: uint8 `[N, 3, H, W]`, or a set of images of any size (its labels are ignored).
        sentences: about anything (ZSCL takes captions).
        class_names: of anything (ImageNet's in ZSCL's experiments without captions).
    """

    images: UInt8[Tensor, "n 3 h w"] | ImageData
    sentences: tuple[str, ...]
    class_names: tuple[str, ...]

    def fingerprint(self) -> str:
        """Hexadecimal hash that changes when images (of files: name, size, time) or texts do."""
        texts = "\n".join((*self.sentences, "", *self.class_names))
        return f"{derive_seed(texts, data_fingerprint((self.unlabelled,))):016x}"

    @property
    def unlabelled(self) -> ImageData:
        """The images as a set; every label is 0."""
        nothing = torch.zeros(len(self.images), dtype=torch.int64)
        if isinstance(self.images, ImageData):
            return self.images.relabelled(nothing)
        return ImageData(self.images, nothing)


@dataclass(frozen=True, eq=False)
class TaskStream:
    """Tasks in the order in which they are learned.

    Attributes:
        id: names the stream in every record, e.g. "mini" or "mini-5shot".
        tasks: what is learned, first to last.
        split_id: names the split into train, validation and test sets.
        held_out: tasks that are tested after every task and never learned.
        reference: called when a method asks for reference data; None: there is none.
        skipped: by task, how many unreadable images were left out (see `DataLocation`).
        left_out: of a folder of one's own, how many files are no images, by suffix.
        label_space: which classes an image is classified among; see `label_space.py`.
        merge_shared_names: whether a class name that several tasks share is one class.

    Raises:
        UserError: no task, two tasks of one name, or "odcl" for a single task.
    """

    id: str
    tasks: tuple[Task, ...]
    split_id: str
    held_out: tuple[Task, ...] = ()
    reference: Callable[[], Reference] | None = None
    skipped: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    label_space: LabelSpaceName = "task"
    merge_shared_names: bool = False

    def __post_init__(self) -> None:
        if not self.tasks:
            raise UserError(f"stream {self.id!r} has no task; give at least one")
        names = [task.name for task in (*self.tasks, *self.held_out)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise UserError(f"task names must differ; stream {self.id!r} repeats {twice}; rename")
        if self.label_space == "odcl" and len(self.tasks) == 1:
            raise UserError(
                f"label space 'odcl' needs at least two tasks; stream {self.id!r} has one; use 'task'"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """Task names in order."""
        return tuple(task.name for task in self.tasks)

    def __len__(self) -> int:
        return len(self.tasks)

    def __iter__(self) -> Iterator[Task]:
        return iter(self.tasks)

    def __getitem__(self, key: int | str) -> Task:
        return self.tasks[_position(self, key)]

    def __repr__(self) -> str:
        return f"TaskStream({self.id}: {', '.join(self.names)})"

    def reorder(self, order: str | Sequence[int | str]) -> "TaskStream":
        """The same tasks in another order; see `resolve_order`."""
        return replace(self, tasks=tuple(self.tasks[i] for i in resolve_order(self, order)))

    def subset(
        self, keys: Sequence[int | str], *, held_out: Sequence[int | str] = ()
    ) -> "TaskStream":
        """Only the tasks at `keys` (names or indices), in that order; held-out tasks stay.

        Args:
            held_out: other tasks of the stream that are tested after every task, too, and never learned.
        """
        tested = (*(self[key] for key in held_out), *self.held_out)
        return replace(self, tasks=tuple(self[key] for key in keys), held_out=tested)

    def with_label_space(
        self, label_space: str, *, merge_shared_names: bool = False
    ) -> "TaskStream":
        """The same tasks, tested among other classes; see `label_space.py`.

        Raises:
            UserError: no such label space, or "odcl" for a single task.
        """
        if label_space not in get_args(LabelSpaceName):
            raise unknown_name("label space", label_space, get_args(LabelSpaceName))
        name = cast(LabelSpaceName, label_space)
        return replace(self, label_space=name, merge_shared_names=merge_shared_names)

    def tested_on_validation(self) -> "TaskStream":
        """The same tasks with their validation images as test images, to choose settings by the scores of whole runs.

        Held-out tasks are left out.

        Raises:
            UserError: a task without validation images.
        """
        missing = [task.name for task in self.tasks if not len(task.validation)]
        if missing:
            raise UserError(
                "validation images of every task are needed to test on them; "
                f"found none of {', '.join(missing)}; give some, or leave the task out"
            )
        tasks = tuple(replace(task, test=task.validation) for task in self.tasks)
        split = f"{self.split_id}, tested on validation images"
        return replace(self, tasks=tasks, held_out=(), split_id=split)

    def few_shot(self, k: int, seed: int = 0) -> "TaskStream":
        """Keep `k` random training and `min(k, 4)` validation images per class; tests stay whole.

        The id gains the suffix "-<k>shot" (and the seed, if it is not 0).
        """
        k = whole_number("images per class (few_shot)", k, least=1)
        seed = whole_number("seed", seed)

        def shrink(task: Task) -> Task:
            draw = derive_seed(seed, task.name)
            train = few_shot_indices(task.train.labels, k, draw)
            validation = few_shot_indices(task.validation.labels, min(k, 4), draw)
            return replace(
                task,
                train=task.train.subset(train),
                validation=task.validation.subset(validation),
            )

        suffix = f"-{k}shot" + (f"-seed{seed}" if seed else "")
        return replace(self, id=self.id + suffix, tasks=tuple(map(shrink, self.tasks)))


def named_orders(stream: TaskStream) -> dict[str, tuple[int, ...]]:
    """The orders that have a name: "default" (as the stream is), "reversed", "alphabetical"."""
    default = tuple(range(len(stream)))
    return {
        "default": default,
        "reversed": default[::-1],
        "alphabetical": tuple(sorted(default, key=lambda position: stream.names[position])),
    }


def resolve_order(stream: TaskStream, order: str | Sequence[int | str]) -> tuple[int, ...]:
    """Positions in `stream` of an order: names or indices, "a,b,c", or one of `named_orders`.

    Raises:
        UserError: an unknown name or index, or not every task exactly once.
    """
    if isinstance(order, str) and order in named_orders(stream):
        return named_orders(stream)[order]
    keys = [key.strip() for key in order.split(",")] if isinstance(order, str) else list(order)
    positions = tuple(_position(stream, key) for key in keys)
    if sorted(positions) != list(range(len(stream))):
        missing = [name for i, name in enumerate(stream.names) if i not in positions]
        repeated = [name for i, name in enumerate(stream.names) if positions.count(i) > 1]
        raise UserError(
            f"an order names each of the {len(stream)} tasks once; "
            f"missing: {', '.join(missing) or 'none'}; repeated: {', '.join(repeated) or 'none'}"
        )
    return positions


def _position(stream: TaskStream, key: int | str) -> int:
    if key in stream.names:
        return stream.names.index(str(key))
    try:
        index = int(key)
    except ValueError:
        raise unknown_name("task", key, stream.names) from None
    if not -len(stream) <= index < len(stream):
        raise UserError(
            f"stream {stream.id!r} has tasks 0..{len(stream) - 1} "
            f"({', '.join(stream.names)}); found index {index}"
        )
    return index % len(stream)
