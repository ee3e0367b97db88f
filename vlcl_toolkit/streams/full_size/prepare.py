"""`vlcl data prepare`: fetch what a program can fetch, say what a person has to.

torchvision downloads too, but begins anew after every interruption, which for the 37 GB of SUN397 is
no small matter; so the transfer is done here and unpacking is left to torchvision.
"""

import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from torchvision.datasets.utils import extract_archive
from tqdm.auto import tqdm

from vlcl_toolkit.errors import UserError, unknown_name
from vlcl_toolkit.files import make_folder
from vlcl_toolkit.streams.full_size.mtil import mtil_names
from vlcl_toolkit.streams.full_size.reference import CAPTIONS, CAPTIONS_ADDRESS
from vlcl_toolkit.streams.full_size.sources import COOP_FILES, SOURCES, Download, coop_file

_CHUNK = 2**20
_TIMEOUT = 60.0
_ARCHIVES = (".tgz", ".zip", ".tar", ".gz")


def prepare_data(root: Path, sets: Sequence[str] = (), *, fetch: bool = True) -> Iterator[str]:
    """Complete the data folder set by set; yields one line of report after another.

    Interrupted, the same call goes on where the transfer stopped. A set that is complete is left
    alone.

    Args:
        root: the data folder; made if it is not there.
        sets: as for `check_data`; empty: the eleven of MTIL.
        fetch: False only says what is missing.

    Raises:
        UserError: unknown set; the disk is full. (A host that does not answer is a line of report.)
    """
    for name in sets:
        if name not in SOURCES:
            raise unknown_name("data set", name, SOURCES)
    make_folder(root)
    for name in sets or mtil_names():
        source = SOURCES[name]
        if _complete(name, root):
            yield f"{name}: complete"
        elif not source.downloads:
            yield f"{name}: by hand, into {root / source.folder}: {source.by_hand}"
        elif not fetch:
            addresses = ", ".join(download.url for download in source.downloads)
            yield f"{name}: to be fetched from {addresses}"
        else:
            yield from _fetch(name, root)
        if name in COOP_FILES and not (root / coop_file(name)).is_file():
            path = root / coop_file(name)
            yield f"{name}: by hand, for split='coop': {COOP_FILES[name][1]} as {path}"
    if not sets and not (root / CAPTIONS).is_file():
        yield f"captions (for ZSCL): by hand: {CAPTIONS_ADDRESS}, as {root / CAPTIONS}"


def _complete(name: str, root: Path) -> bool:
    # A folder that is being unpacked has all its entries before it has all its files, hence the mark.
    unfinished = any(_mark(root / download.file).exists() for download in SOURCES[name].downloads)
    return not unfinished and all((root / path).exists() for path in SOURCES[name].required)


def _mark(path: Path) -> Path:
    return path.with_name(path.name + ".unpacking")


def _fetch(name: str, root: Path) -> Iterator[str]:
    source = SOURCES[name]
    for item in source.downloads:
        path = root / item.file
        try:
            download(item.url, path, item.md5)
            _unpack(item, root)
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            reason = getattr(error, "reason", error)
            hint = f"; {source.by_hand}" if source.by_hand else ""
            yield (
                f"{name}: {item.url} does not answer ({reason}); try again, or put the file at "
                f"{path} and run this command again{hint}"
            )
            return
    state = "complete" if _complete(name, root) else "unpacked, but files are missing; check it"
    yield f"{name}: {state}"


def _unpack(item: Download, root: Path) -> None:
    path = root / item.file
    if not path.name.endswith(_ARCHIVES):
        return
    mark = _mark(path)
    mark.touch()
    try:
        extract_archive(str(path), str(path.parent))
        if item.inner is not None:
            extract_archive(str(path.parent / item.inner), str(path.parent))
    except (OSError, ValueError, RuntimeError, EOFError) as error:
        raise UserError(f"cannot unpack {path}: {error}; remove it, and fetch it again") from error
    mark.unlink()
    path.unlink()


def download(url: str, path: Path, md5: str | None) -> None:
    """Fetch a file, going on where an earlier call stopped.

    Args:
        path: where it goes; while it is incomplete it has the ending ".part".
        md5: what the whole file must have; None: nothing is published to compare with.

    Raises:
        UserError: it has another MD5 (it is removed), or cannot be written.
        urllib.error.URLError: the host does not answer.
    """
    if path.exists():
        if md5 is not None and _md5(path) != md5:
            raise UserError(f"{path} does not have the published MD5 {md5}; remove it")
        return
    part = path.with_name(path.name + ".part")
    make_folder(path.parent)
    try:
        _transfer(url, part)
        found = _md5(part) if md5 is not None else None
        if found != md5:
            part.unlink()
            raise UserError(f"{url} gave a file with MD5 {found}, published is {md5}; try again")
        os.replace(part, path)
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        raise
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; make room") from error


def _transfer(url: str, part: Path) -> None:
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "vlcl-toolkit"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=_TIMEOUT
        )
    except urllib.error.HTTPError as error:
        if have and error.code == 416:  # nothing is left to send
            return
        raise
    with answer:
        resumed = answer.status == 206
        length = answer.headers.get("Content-Length")
        total = None if length is None else int(length) + (have if resumed else 0)
        start = have if resumed else 0
        with (
            open(part, "ab" if resumed else "wb") as file,
            tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=part.stem) as bar,
        ):
            while chunk := answer.read(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    if total is not None and part.stat().st_size < total:
        raise ConnectionError(f"the connection ended after {part.stat().st_size} of {total} bytes")


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
