"""Small imitations of the data sets: the official layouts byte for byte, a few tiny images per class.

With them the readers are tested, and a whole run is rehearsed, where nothing can be downloaded. The
split id of a stream of replicas says "replica".
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from vlcl_toolkit.errors import UserError, unknown_name
from vlcl_toolkit.files import make_folder
from vlcl_toolkit.streams.material import VARIABLE
from vlcl_toolkit.streams.replicas.imagenet import captions, imagenet, tiny_imagenet
from vlcl_toolkit.streams.replicas.mtil import MTIL

__all__ = ["MTIL", "REPLICAS", "is_replica", "write_replicas"]

REPLICAS: dict[str, Callable[[Path], None]] = {
    **MTIL,
    "TinyImageNet": tiny_imagenet,
    "ImageNet": imagenet,
    "ConceptualCaptions": captions,
}
_MARK = "REPLICA.txt"
_WORDS = (
    "These data sets are small imitations, written by `vlcl data replica`.\n"
    "They have the layout of the published ones and nothing else in common with them.\n"
)


def write_replicas(root: str | Path, sets: Sequence[str] = ()) -> Path:
    """Write replicas into a data folder of their own; what is there already is left alone.

    Args:
        root: the data folder; made if it is not there. Eleven sets of MTIL take about 30 MB on disk.
        sets: keys of `REPLICAS`; empty: all of them.

    Returns:
        the folder.

    Raises:
        UserError: unknown set; the folder holds anything that is not a replica; a full disk.
    """
    for name in sets:
        if name not in REPLICAS:
            raise unknown_name("replica", name, REPLICAS)
    root = make_folder(root)
    if any(root.iterdir()) and not is_replica(root):
        raise UserError(f"{root} holds other files; replicas want a folder of their own")
    (root / _MARK).write_text(_WORDS, encoding="utf-8")
    for name in sets or REPLICAS:
        mark = root / f".{name}.complete"
        if not mark.exists():
            REPLICAS[name](root)
            mark.touch()
    return root


def is_replica(root: str | Path | None) -> bool:
    """Whether a data folder was written by `write_replicas`; None: the one that VLCL_DATA names."""
    given = root if root is not None else os.environ.get(VARIABLE)
    return given is not None and (Path(given).expanduser() / _MARK).is_file()
