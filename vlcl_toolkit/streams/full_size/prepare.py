"""`vlcl data prepare`: fetch what a program can fetch, say what a person has to.

gdown does the transfers because it resumes them, and SUN397 has 37 GB; torchvision unpacks.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import gdown
from gdown.exceptions import DownloadError
from requests import RequestException
from torchvision.datasets.utils import calculate_md5, extract_archive

from vlcl_toolkit.errors import UserError, unknown_name
from vlcl_toolkit.files import make_folder
from vlcl_toolkit.streams.full_size.mtil import mtil_names
from vlcl_toolkit.streams.full_size.reference import CAPTIONS, CAPTIONS_ADDRESS
from vlcl_toolkit.streams.full_size.sources import (
    COOP_FILES,
    SOURCES,
    Download,
    coop_file,
    missing,
)

_ARCHIVES = (".tgz", ".zip", ".tar", ".gz")


def prepare_data(root: Path, sets: Sequence[str] = (), *, fetch: bool = True) -> Iterator[str]:
    """Complete the data folder set by set; yields one line of report after another.

    After an interruption the same call resumes the transfer. Complete sets are left alone.

    Args:
        root: the data folder; made if it is not there.
        sets: as for `check_data`; empty: the eleven of MTIL.
        fetch: False only says what is missing.

    Raises:
        UserError: unknown set; the disk is full. (A failed transfer is a line of the report.)
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
    # A folder has its first entries long before it is fully unpacked, hence the mark.
    unfinished = any(_mark(root / download.file).exists() for download in SOURCES[name].downloads)
    return not unfinished and not missing(name, root)


def _mark(path: Path) -> Path:
    return path.with_name(path.name + ".unpacking")


def _fetch(name: str, root: Path) -> Iterator[str]:
    source = SOURCES[name]
    for item in source.downloads:
        path = root / item.file
        try:
            download(item.url, path, item.md5)
            _unpack(item, root)
        except (RequestException, DownloadError) as error:
            reason = str(error).splitlines()[0].rstrip(".")
            hint = f"; {source.by_hand}" if source.by_hand else ""
            yield (
                f"{name}: {item.url} was not fetched ({reason}); run this command again, which "
                f"resumes, or put the file at {path} first{hint}"
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
    """Fetch a file; what an earlier call left behind is resumed, or dropped if the host cannot.

    Args:
        path: where it goes; until it is complete it lies beside that, ending in ".part".
        md5: of the whole file; None: nothing is published to compare with.

    Raises:
        UserError: it has another MD5, or cannot be written.
        RequestException, DownloadError: the host does not answer, or the transfer breaks.
    """
    make_folder(path.parent)
    given = path.exists()
    if not given:
        before = _partial(path)
        try:
            _transfer(url, path)
        except DownloadError:
            if not before or _partial(path) != before:  # broken again, but further on
                raise
            for part in before:
                part.unlink()
            _transfer(url, path)
    if md5 is not None and (found := calculate_md5(path)) != md5:
        if given:
            raise UserError(f"{path} has MD5 {found}, published is {md5}; remove it")
        path.unlink()
        raise UserError(f"{url} gave a file with MD5 {found}, published is {md5}; try again")


def _partial(path: Path) -> dict[Path, int]:
    return {part: part.stat().st_size for part in path.parent.glob(f"{path.name}*.part")}


def _transfer(url: str, path: Path) -> None:
    try:
        gdown.download(url, str(path), resume=True, use_cookies=False, timeout=60)
    except RequestException:  # an OSError, too
        raise
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; make room") from error
