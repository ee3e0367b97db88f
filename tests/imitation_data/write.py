"""Small imitations of the published data sets: their layouts byte for byte, a few tiny images per class.

They test the readers, and dry runs use them where nothing can be downloaded:

    python tests/imitation_data DIR --sets EuroSAT MNIST
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from imitation_data.imagenet import captions, imagenet, tiny_imagenet
from imitation_data.mtil import MTIL

from vlcl_toolkit.errors import UserError, unknown_name
from vlcl_toolkit.files import make_folder

IMITATIONS: dict[str, Callable[[Path], None]] = {
    **MTIL,
    "TinyImageNet": tiny_imagenet,
    "ImageNet": imagenet,
    "ConceptualCaptions": captions,
}
_MARK = "IMITATION.txt"
_WORDS = (
    "Small imitations of data sets: the published layouts and nothing else in common with them.\n"
)


def write_imitations(root: str | Path, sets: Sequence[str] = ()) -> Path:
    """Write imitations into a data folder of their own; what is there already is left alone.

    Args:
        root: the data folder; made if it is not there. Eleven sets of MTIL take about 30 MB on disk.
        sets: keys of `IMITATIONS`; empty: all of them.

    Returns:
        the folder.

    Raises:
        UserError: unknown set; the folder holds anything else; a full disk.
    """
    for name in sets:
        if name not in IMITATIONS:
            raise unknown_name("imitation", name, IMITATIONS)
    root = make_folder(root)
    if any(root.iterdir()) and not (root / _MARK).is_file():
        raise UserError(f"{root} holds other files; imitations need a folder of their own")
    (root / _MARK).write_text(_WORDS, encoding="utf-8")
    for name in sets or IMITATIONS:
        mark = root / f".{name}.complete"
        if not mark.exists():
            IMITATIONS[name](root)
            mark.touch()
    return root
