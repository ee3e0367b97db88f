"""Where the files of a full-size stream lie and how its images are read."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.files import make_folder, write_atomic
from vlcl_toolkit.streams.base import Task
from vlcl_toolkit.streams.image_cache import CachedPictures
from vlcl_toolkit.streams.pictures import (
    ArrayPictures,
    FilePictures,
    PictureData,
    Pictures,
    unreadable,
)
from vlcl_toolkit.streams.splits import SPLITS

VARIABLE = "VLCL_DATA"


def data_folder(root: str | Path | None) -> Path:
    """`root`, or what the environment variable VLCL_DATA says.

    Raises:
        UserError: neither, or there is no such folder.
    """
    given = root if root is not None else os.environ.get(VARIABLE)
    if given is None:
        raise UserError(
            f"this stream needs the folder of its data sets; none given; pass root=... or set the "
            f"environment variable {VARIABLE}"
        )
    path = Path(given).expanduser()
    if not path.is_dir():
        raise UserError(f"there is no data folder {path}; make it, or name another one")
    return path


@dataclass(frozen=True)
class DataLocation:
    """Files and how to read them.

    Attributes:
        root: the data folder; None: see `data_folder`.
        cache: folder of decoded images (see `image_cache.py`); None: decode each time.
        skip_unreadable: leave out images that cannot be decoded; the stream records how many.
            Every image is decoded once; the outcome is kept in `cache`, or in `.vlcl` of the data
            folder.
        verify: insist on the published sizes, numbers of classes and checksums. False is for
            imitations: the split id then says "unverified".
    """

    root: str | Path | None = None
    cache: str | Path | None = None
    skip_unreadable: bool = False
    verify: bool = True

    @property
    def folder(self) -> Path:
        """The data folder, which exists."""
        return data_folder(self.root)

    def prepare(self, tasks: Sequence[Task]) -> tuple[tuple[Task, ...], dict[str, int]]:
        """Tasks that read through the cache and without unreadable images, if so configured.

        Returns:
            the tasks, and how many images were left out, by task.
        """
        caches: dict[int, Pictures] = {}
        skipped: dict[str, int] = {}
        ready = []
        for task in tasks:
            parts = {split: getattr(task, split) for split in SPLITS}
            for split, data in parts.items():
                if not isinstance(data, PictureData) or not len(data):
                    continue
                if isinstance(data.pictures, ArrayPictures):  # decoded when they were read
                    continue
                if self.skip_unreadable:
                    data, count = self._without_unreadable(data, f"{task.name} {split}")
                    skipped[task.name] = skipped.get(task.name, 0) + count
                if self.cache is not None and len(data):
                    data = _cached(data, self.cache, f"{task.name}-{split}", caches)
                parts[split] = data
            ready.append(replace(task, **parts))
        return tuple(ready), {name: count for name, count in skipped.items() if count}

    def _without_unreadable(self, data: PictureData, name: str) -> tuple[PictureData, int]:
        folder = self.folder / ".vlcl" if self.cache is None else Path(self.cache)
        rows = data.rows.tolist()
        path = folder / f"readable-{data.pictures.fingerprint()[:16]}.json"
        known = _read_known(path)
        todo = [row for row in rows if row not in known]
        if todo:
            faults = unreadable(data.pictures, todo, f"read {name}")
            known |= {row: row not in faults for row in todo}
            make_folder(folder)
            write_atomic(path, json.dumps(known).encode())
        keep = [position for position, row in enumerate(rows) if known[row]]
        return data.subset(keep), len(rows) - len(keep)


def _cached(
    data: PictureData, folder: str | Path, name: str, caches: dict[int, Pictures]
) -> PictureData:
    key = id(data.pictures)  # parts of one set share its cache
    if key not in caches:
        caches[key] = CachedPictures(data.pictures, folder, name)
    return PictureData(caches[key], data.labels, data.rows)


def _read_known(path: Path) -> dict[int, bool]:
    if not path.is_file():
        return {}
    try:
        return {int(row): bool(good) for row, good in json.loads(path.read_bytes()).items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{path} is damaged; remove it") from error


def fingerprint(tasks: Iterable[Task]) -> str:
    """Eight hexadecimal digits of a hash of who is in which split with which label.

    File names and labels count, pixels do not; the order of the tasks does not.
    """
    digests = []
    for task in tasks:
        digest = hashlib.sha256("\n".join((task.name, *task.class_names)).encode())
        for split in SPLITS:
            data = getattr(task, split)
            digest.update(data.labels.numpy().tobytes())
            rows = data.rows.tolist() if isinstance(data, PictureData) else []
            pictures = data.pictures if isinstance(data, PictureData) else None
            if isinstance(pictures, FilePictures):
                text = "\n".join(pictures.paths[row] for row in rows)
                digest.update(text.encode(errors="surrogateescape"))
            else:
                digest.update(str(rows).encode())
        digests.append(digest.hexdigest())
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()[:8]
