"""A user's own images as a stream: a folder per task, in it a sub-folder per class.

    flowers-and-tools/
        task.yaml            optional: order, templates, split
        flowers/
            task.yaml        optional: templates, class_names, split of this task alone
            rose/  lily/     images (.jpg, .png, .tif, ...), also in sub-folders; turned as their EXIF
                             data say
        tools/
            train/  test/    or split already: each with one sub-folder per class;
                             validation/ (or val/, valid/) is optional

A folder that has train/ and test/ itself is a stream of one task. Hidden files and folders and macOS'
`__MACOSX` are passed over; other files that are no images are left out and counted (`TaskStream.left_out`).
What a `task.yaml` may say: `StreamSettings` and `TaskSettings`, below.
"""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import field
from pathlib import Path
from reprlib import repr as short_repr
from typing import Any, ClassVar

import torch
import yaml
from pydantic import model_validator
from pydantic.dataclasses import dataclass

from vlcl_toolkit.errors import UserError, unknown_name
from vlcl_toolkit.seeds import generator
from vlcl_toolkit.settings import AnySettings, CountOrZero, Settings, Share, build_settings
from vlcl_toolkit.streams.base import Reference, Task, TaskStream
from vlcl_toolkit.streams.location import DataLocation, fingerprint
from vlcl_toolkit.streams.pictures import (
    IMAGE_SUFFIXES,
    FilePictures,
    PictureData,
    image_files,
    is_stray,
)
from vlcl_toolkit.streams.splits import SPLITS

SETTINGS = "task.yaml"
_PARTS = {"train": "train", "test": "test"} | dict.fromkeys(
    ("validation", "valid", "val"), "validation"
)


@dataclass(frozen=True)
class SplitSettings(Settings):
    """Parts of each class, for tasks that are not split yet; they sum to 1."""

    train: Share = 0.7
    validation: Share = 0.1
    test: Share = 0.2
    seed: CountOrZero = 0

    @model_validator(mode="after")
    def _is_whole(self) -> "SplitSettings":
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-6:
            raise UserError(f"the parts of a split must sum to 1; found {total:g}; correct them")
        return self


@dataclass(frozen=True)
class CommonSettings(Settings):
    """Of the stream; a task may override them."""

    templates: list[str] = field(default_factory=lambda: ["a photo of a {}."])
    """Prompts with one {} each."""
    split: dict[str, Any] = field(default_factory=dict)
    """As `SplitSettings`; with `test` and without `validation` there is no validation set."""


@dataclass(frozen=True)
class StreamSettings(CommonSettings):
    """`task.yaml` of the stream."""

    order: list[str] | None = None
    """Task folders, first to last; default: alphabetical."""


@dataclass(frozen=True)
class TaskSettings(CommonSettings):
    """`task.yaml` of a task."""

    class_names: dict[str, str] = field(default_factory=dict)
    """Words by class folder; otherwise "_" in a folder's name becomes a space."""


def folder_stream(
    path: str | Path,
    location: DataLocation | None = None,
    reference: Callable[[], Reference] | None = None,
) -> TaskStream:
    """Load a stream from a folder; see the module's docstring for the layout.

    Args:
        location: cache, and what happens to unreadable images.
        reference: reference data of the stream, see `reference_source`.

    Raises:
        UserError: no task, a task without classes or images, malformed settings.
    """
    path = Path(path).expanduser().resolve()
    if not path.is_dir():
        raise UserError(f"there is no folder {path}; give load_stream('folder:/path') another one")
    given = _read_yaml(path / SETTINGS)
    settings = _checked(StreamSettings, given, path)
    found = sorted(entry.name for entry in path.iterdir() if _is_folder(entry))
    order = found if settings.order is None else settings.order
    for name in order:
        if name not in found:
            raise unknown_name(f"task folder (order in {path / SETTINGS})", name, found)
    for name, times in Counter(order).items():
        if times > 1:
            raise UserError(f"order in {path / SETTINGS} has {name!r} {times} times; name it once")
    if settings.order == []:
        raise UserError(f"order in {path / SETTINGS} names no task; name some, or leave it out")
    if not order:
        raise UserError(f"{path} has no task: no sub-folder; make one per task")
    left_out = Counter[str]()
    if _split_folders(path, found):
        tasks = [_task(path, {}, left_out)]
    else:
        common = {name: given[name] for name in ("templates", "split") if name in given}
        tasks = [_task(path / name, common, left_out) for name in order]
    location = location or DataLocation(root=path)
    ready, skipped = location.prepare(tasks)
    return TaskStream(
        id=f"folder-{path.name}",
        tasks=ready,
        split_id=f"folder-{fingerprint(tasks)}",
        reference=reference,
        skipped=skipped,
        left_out=dict(left_out),
    )


def _split_folders(path: Path, folders: list[str]) -> dict[str, str]:
    """Part -> folder, of a task that is split already; empty for one that is not.

    Raises:
        UserError: some folders are called as parts are, and it is not clear what they are.
    """
    parts = {name: _PARTS[name.lower()] for name in folders if name.lower() in _PARTS}
    known = set(parts.values())
    if len(known) < 2:  # a train is a class, too
        return {}
    if len(parts) < len(folders) or not {"train", "test"} <= known or len(known) < len(parts):
        raise UserError(
            f"{path} has the folders {', '.join(folders)}: a task that is split already has train and "
            "test, may have validation, and nothing else; a task that is not has a folder per class; "
            "rename them"
        )
    return {part: name for name, part in parts.items()}


def _task(path: Path, common: dict[str, Any], left_out: Counter[str]) -> Task:
    given = common | _read_yaml(path / SETTINGS)
    settings = _checked(TaskSettings, given, path)
    found = sorted(entry.name for entry in path.iterdir() if _is_folder(entry))
    presplit = _split_folders(path, found)
    parts = [presplit[part] for part in SPLITS if part in presplit] or ["."]
    classes = sorted({e.name for part in parts for e in (path / part).iterdir() if _is_folder(e)})
    if not classes:
        raise UserError(f"the task folder {path} has no sub-folder; make one per class")
    for folder in settings.class_names:
        if folder not in classes:
            raise unknown_name(f"class folder (class_names in {path / SETTINGS})", folder, classes)
    names = tuple(settings.class_names.get(name, name.replace("_", " ")) for name in classes)
    _check_names(path, dict(zip(classes, names, strict=True)))
    files = {part: _files(path, part, classes, left_out) for part in parts}
    paths = [file for part in parts for file, _ in files[part]]
    labels = torch.tensor([label for part in parts for _, label in files[part]])
    empty = sorted(set(range(len(classes))) - set(labels.tolist()))
    if empty:
        known = ", ".join(sorted(IMAGE_SUFFIXES))
        raise UserError(
            f"the class folder {classes[empty[0]]!r} of {path} has no image ({known}); add some"
        )
    if presplit:
        ends = torch.tensor([0, *(len(files[part]) for part in parts)]).cumsum(0).tolist()
        kinds = [part for part in SPLITS if part in presplit]
        rows = {part: torch.arange(ends[i], ends[i + 1]) for i, part in enumerate(kinds)}
    else:
        rows = _random_split(labels, path, settings.split)
    data = PictureData(FilePictures(path, paths, upright=True), labels)
    sets = [data.subset(rows.get(split, [])) for split in SPLITS]
    try:
        return Task(path.name, names, tuple(settings.templates), *sets)
    except UserError as error:
        raise (UserError(f"{SETTINGS} of {path}: {error}") if given else error) from error


def _random_split(
    labels: torch.Tensor, path: Path, split: dict[str, Any]
) -> dict[str, torch.Tensor]:
    given = {"validation": 0.0} | split if "test" in split else split
    parts = _checked(SplitSettings, given, path)
    order = torch.randperm(len(labels), generator=generator("folder", path.name, parts.seed))
    rows: dict[str, list[torch.Tensor]] = {name: [] for name in SPLITS}
    for label in labels.unique().tolist():
        members = order[labels[order] == label]
        first = round(parts.train * len(members))
        second = first + round(parts.validation * len(members))
        for name, chosen in zip(SPLITS, members.tensor_split([first, second]), strict=True):
            rows[name].append(chosen)
    return {name: torch.cat(chosen).sort().values for name, chosen in rows.items()}


def _check_names(path: Path, names: dict[str, str]) -> None:
    # Class folder -> words.
    folder_of: dict[str, str] = {}
    for folder, words in names.items():
        if not words.strip():
            raise UserError(
                f"the class folder {folder!r} of {path} has no words; give it some (class_names in "
                f"{SETTINGS})"
            )
        if words in folder_of:
            raise UserError(
                f"the class folders {folder_of[words]!r} and {folder!r} of {path} have the same words, "
                f"{words!r}, so that one of them could never be answered; rename one (class_names in "
                f"{SETTINGS})"
            )
        folder_of[words] = folder
    for name in (path.name, *names):
        if name != os.fsencode(name).decode("utf-8", "replace"):
            raise UserError(f"{path}: the folder {name!a} has a name that is no UTF-8; rename it")


def _files(
    path: Path, part: str, classes: list[str], left_out: Counter[str]
) -> list[tuple[str, int]]:
    found = []
    for label, name in enumerate(classes):
        for file in image_files(path / part / name, left_out):
            found.append((str(file.relative_to(path)), label))
    return found


def _is_folder(entry: Path) -> bool:
    return entry.is_dir() and not is_stray(entry.name)


class _Words(yaml.SafeLoader):
    # Names of folders and classes stay as they are written: 007, no and 2024-01-01 are words there.
    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in known if tag.endswith((":null", ":merge"))]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _read_yaml(path: Path) -> dict[Any, Any]:
    if not os.path.lexists(path):
        return {}
    try:
        text = path.read_text(encoding="utf-8")
        content, as_written = yaml.safe_load(text), yaml.load(text, _Words)
    except Exception as error:  # PyYAML lets through what its constructors raise
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not valid YAML: {reason}; correct it") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        found = short_repr(content)
        raise UserError(f"{path} must contain settings 'name: value'; found {found}; fix it")
    for name, kind in (("class_names", dict), ("order", list)):
        if isinstance(content.get(name), kind):
            content[name] = as_written[name]
    return content


def _checked(cls: type[AnySettings], values: dict[Any, Any], folder: Path) -> AnySettings:
    try:
        return build_settings(cls, values)
    except UserError as error:
        raise UserError(f"{SETTINGS} of {folder}: {error}") from error
