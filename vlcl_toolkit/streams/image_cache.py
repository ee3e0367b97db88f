"""Images decoded once: their pixels in one memory-mapped file of bytes.

What is kept is the decoded original, in its own size and mode, not a resized copy: training crops
each original again, and every transform gives bit-identical results with and without the cache. It
takes 3 bytes per pixel (0.8 MB for an image of Food-101, ten times its JPEG file), so put it on the
fast local disk; for SUN397 or ImageNet it may not be worth the space.

`<name>-<fingerprint>.pixels` contains the bytes; the `.json` beside it lists offset, size, mode and
CRC-32 of each image, with a SHA-256 of that table. Other files (changed, added, removed) have another
fingerprint, so a cache is never out of date. Images that cannot be read, or whose pixels are no bytes
(palettes, 16 bits), are left to the original file.
"""

import hashlib
import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from PIL import Image
from tqdm.auto import tqdm

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.files import make_folder, write_atomic
from vlcl_toolkit.streams.pictures import Pictures

_BYTES_PER_PIXEL = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "CMYK": 4, "YCbCr": 3}
Entry = tuple[int, int, int, str, int]
"""Offset in bytes, width, height, mode, CRC-32."""


class CachedPictures(Pictures):
    """The images of `source`, read from a cache that is made on the first use.

    Raises:
        UserError: the folder cannot be written, the disk is full, the table of the cache is damaged.
    """

    def __init__(self, source: Pictures, folder: str | Path, name: str):
        """
        Args:
            folder: of the cache, shared by any number of sets and processes.
            name: of the set, for people.
        """
        self.source = source
        self._fingerprint = source.fingerprint()
        stem = make_folder(folder) / f"{name}-{self._fingerprint[:16]}"
        self.path, table = stem.with_suffix(".pixels"), stem.with_suffix(".json")
        if not table.is_file():
            with FileLock(stem.with_suffix(".lock")):  # several processes may come at once
                if not table.is_file():
                    write_atomic(table, _table(_write_pixels(source, self.path, name)))
        self._entries = _read_table(table, len(source))
        self._pixels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Image.Image:
        entry = self._entries[index]
        if entry is None:
            return self.source[index]
        offset, width, height, mode, checksum = entry
        count = width * height * _BYTES_PER_PIXEL[mode]
        data = self._mapped()[offset : offset + count].tobytes()
        if len(data) != count or zlib.crc32(data) != checksum:
            raise UserError(
                f"the image cache {self.path} is damaged at {self.name(index)}; remove that file "
                f"and {self.path.with_suffix('.json')}, and it will be made again"
            )
        return Image.frombytes(mode, (width, height), data)

    def name(self, index: int) -> str:
        """As the source calls it."""
        return self.source.name(index)

    def fingerprint(self) -> str:
        """That of the source."""
        return self._fingerprint

    def _mapped(self) -> np.ndarray:
        if self._pixels is None:
            if not self.path.stat().st_size:  # nothing could be cached; an empty file has no map
                return np.empty(0, dtype=np.uint8)
            self._pixels = np.memmap(self.path, dtype=np.uint8, mode="r")
        return self._pixels

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_pixels": None}  # a pickled map would carry the whole file


def _write_pixels(source: Pictures, path: Path, name: str) -> list[Entry | None]:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    entries: list[Entry | None] = []
    offset = 0
    try:
        with open(temporary, "wb") as file:
            for index in tqdm(range(len(source)), desc=f"decode {name}", unit="image", leave=False):
                try:
                    image = source[index]
                except UserError:  # reading it later raises the error
                    entries.append(None)
                    continue
                if image.mode not in _BYTES_PER_PIXEL:
                    entries.append(None)
                    continue
                data = image.tobytes()
                entries.append((offset, *image.size, image.mode, zlib.crc32(data)))
                offset += file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        cause = error.strerror or str(error)
        raise UserError(
            f"cannot write the image cache {path}: {cause}; choose another folder, make room "
            f"({offset / 2**30:.1f} GiB were not enough), or go without a cache"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    return entries


def _table(entries: list[Entry | None]) -> bytes:
    text = json.dumps(entries)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return json.dumps({"sha256": digest, "entries": text}).encode()


def _read_table(path: Path, count: int) -> list[Entry | None]:
    try:
        table = json.loads(path.read_bytes())
        intact = hashlib.sha256(table["entries"].encode()).hexdigest() == table["sha256"]
        entries = json.loads(table["entries"]) if intact else []
    except (ValueError, KeyError, TypeError, AttributeError):
        entries = []
    if len(entries) != count:
        raise UserError(f"the table of the image cache, {path}, is damaged; remove it")
    return [None if entry is None else tuple(entry) for entry in entries]
