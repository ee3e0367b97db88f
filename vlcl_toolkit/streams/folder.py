"""A user's own images as a stream: a folder per task, in it a sub-folder per class.

    flowers-and-tools/
        task.yaml            optional: order, templates, split
        flowers/
            task.yaml        optional: templates, class_names, split of this task alone
            rose/  lily/     images (.jpg, .jpeg, .png, .webp, .bmp)
        tools/
            train/  test/    or split already: each with one sub-folder per class;
                             validation/ is optional

order: task folders, first to last (default: alphabetical). templates: prompts with one {} each.
class_names: {folder: words}; otherwise "_" in a folder's name becomes a space. split: shares of each
class for tasks that are not split yet, {train: 0.7, validation: 0.1, test: 0.2, seed: 0}.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

from vlcl_toolkit.errors import UserError, unknown_name
from vlcl_toolkit.seeds import generator
from vlcl_toolkit.streams.base import Reference, Task, TaskStream
from vlcl_toolkit.streams.full_size.reference import IMAGE_SUFFIXES
from vlcl_toolkit.streams.location import DataLocation
from vlcl_toolkit.streams.pictures import FilePictures, PictureData
from vlcl_toolkit.streams.splits import SPLITS, fingerprint

SETTINGS = "task.yaml"
DEFAULT_TEMPLATES = ("a photo of a {}.",)
DEFAULT_SPLIT = {"train": 0.7, "validation": 0.1, "test": 0.2, "seed": 0}


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
    settings = _settings(path, {"order", "templates", "split"})
    found = sorted(entry.name for entry in path.iterdir() if _is_folder(entry))
    order = settings.get("order", found)
    for name in order:
        if name not in found:
            raise unknown_name(f"task folder (order in {path / SETTINGS})", name, found)
    if not order:
        raise UserError(f"{path} has no task: no sub-folder; make one per task")
    tasks = [_task(path / name, settings) for name in order]
    location = location or DataLocation(given_root=path)
    ready, skipped = location.prepare(tasks)
    return TaskStream(
        id=f"folder-{path.name}",
        tasks=ready,
        split_id=f"folder-{fingerprint(tasks)}",
        reference=reference,
        skipped=skipped,
    )


def _task(path: Path, common: dict[str, Any]) -> Task:
    settings = common | _settings(path, {"templates", "class_names", "split"})
    folders = sorted(entry.name for entry in path.iterdir() if _is_folder(entry))
    presplit = {"train", "test"} <= set(folders) <= set(SPLITS)
    parts = folders if presplit else ["."]
    classes = sorted({e.name for part in parts for e in (path / part).iterdir() if _is_folder(e)})
    if not classes:
        raise UserError(f"the task folder {path} has no sub-folder; make one per class")
    renamed = settings.get("class_names", {})
    for folder in renamed:
        if folder not in classes:
            raise unknown_name(f"class folder (class_names in {path / SETTINGS})", folder, classes)
    names = tuple(renamed.get(name, name.replace("_", " ")) for name in classes)
    files = {part: _files(path, part, classes) for part in parts}
    paths = [file for part in parts for file, _ in files[part]]
    labels = torch.tensor([label for part in parts for _, label in files[part]])
    empty = sorted(set(range(len(classes))) - set(labels.tolist()))
    if empty:
        raise UserError(f"the class folder {classes[empty[0]]!r} of {path} has no image; add some")
    if presplit:
        ends = torch.tensor([0, *(len(files[part]) for part in parts)]).cumsum(0).tolist()
        rows = {part: torch.arange(ends[i], ends[i + 1]) for i, part in enumerate(parts)}
    else:
        rows = _random_split(labels, path, settings.get("split", {}))
    data = PictureData(FilePictures(path, paths), labels)
    sets = [data.subset(rows.get(split, [])) for split in SPLITS]
    return Task(path.name, names, tuple(settings.get("templates", DEFAULT_TEMPLATES)), *sets)


def _random_split(
    labels: torch.Tensor, path: Path, split: dict[str, Any]
) -> dict[str, torch.Tensor]:
    unknown = set(split) - set(DEFAULT_SPLIT)
    shares = DEFAULT_SPLIT | split if "test" not in split else {"validation": 0, "seed": 0} | split
    total = sum(float(shares.get(name, 0)) for name in SPLITS)
    if unknown or abs(total - 1) > 1e-6 or any(shares.get(name, 0) < 0 for name in SPLITS):
        raise UserError(
            f"the split of {path} must give shares of train, validation and test that sum to 1, and "
            f"perhaps a seed; found {split}; correct {SETTINGS}"
        )
    order = torch.randperm(len(labels), generator=generator("folder", path.name, shares["seed"]))
    rows: dict[str, list[torch.Tensor]] = {name: [] for name in SPLITS}
    for label in labels.unique().tolist():
        members = order[labels[order] == label]
        first = round(float(shares["train"]) * len(members))
        second = first + round(float(shares["validation"]) * len(members))
        for name, part in zip(SPLITS, members.tensor_split([first, second]), strict=True):
            rows[name].append(part)
    return {name: torch.cat(parts).sort().values for name, parts in rows.items()}


def _files(path: Path, part: str, classes: list[str]) -> list[tuple[str, int]]:
    return [
        (str(file.relative_to(path)), label)
        for label, name in enumerate(classes)
        for file in sorted((path / part / name).glob("*"))
        if file.suffix.lower() in IMAGE_SUFFIXES
    ]


def _is_folder(entry: Path) -> bool:
    return entry.is_dir() and not entry.name.startswith(".")


def _settings(folder: Path, known: set[str]) -> dict[str, Any]:
    path = folder / SETTINGS
    if not path.is_file():
        return {}
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(
            f"{path} is not valid YAML: {' '.join(str(error).split())}; correct it"
        ) from error
    if not isinstance(settings, dict):
        raise UserError(
            f"{path} must contain settings 'name: value'; found {settings!r}; correct it"
        )
    for name, value in settings.items():
        if name not in known:
            raise unknown_name(f"setting in {path}", name, known)
        expected = dict if name in ("class_names", "split") else list
        if not isinstance(value, expected):
            form = "a mapping" if expected is dict else "a list"
            raise UserError(f"{name} in {path} must be {form}; found {value!r}; correct it")
    return settings
