"""Reference data of full-size streams: unlabelled images, and sentences about anything.

ZSCL distils on ImageNet's training images and the captions of Conceptual Captions' validation
split; MoE-Adapters' auto-selector rejects by Tiny-ImageNet's training images.
"""

import os
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.streams.base import Reference
from vlcl_toolkit.streams.full_size.class_incremental import class_names
from vlcl_toolkit.streams.full_size.imagenet import read_imagenet, read_tiny_imagenet
from vlcl_toolkit.streams.location import VARIABLE, data_folder
from vlcl_toolkit.streams.pictures import IMAGE_SUFFIXES, FilePictures, PictureData, image_files

CAPTIONS = "conceptual_captions/Validation_GCC-1.1.0-Validation.tsv"
"""Where the captions lie in the data folder; fetched by hand."""
CAPTIONS_ADDRESS = "ai.google.com/research/ConceptualCaptions/download"


def reference_source(
    kind: str, root: str | Path | None = None, captions: str | Path | None = None
) -> Callable[[], Reference]:
    """What a stream calls when a method asks for reference data; read once, then kept.

    Args:
        kind: "imagenet" (`imagenet/train` of the data folder), "tinyimagenet", or a folder of images
            (searched with its sub-folders).
        root: the data folder; None: see `data_folder`.
        captions: a file for `read_captions`; None: that of Conceptual Captions if it lies in the
            data folder, otherwise there are no sentences.

    Raises:
        UserError: (when called) files are missing or malformed.
    """

    @lru_cache(maxsize=1)
    def read() -> Reference:
        if kind == "imagenet":
            images = read_imagenet(data_folder(root), "train").data
        elif kind == "tinyimagenet":
            images = read_tiny_imagenet(data_folder(root), "train").data
        else:
            images = image_folder(Path(kind))
        names = class_names("tinyimagenet" if kind == "tinyimagenet" else "imagenet1000")
        return Reference(images, _sentences(root, captions), names)

    return read


def image_folder(path: Path) -> PictureData:
    """All image files below a folder, sorted by path; every label is 0.

    Raises:
        UserError: there is none.
    """
    if not path.is_dir():
        raise UserError(f"there is no folder of reference images {path}; name an existing one")
    files = image_files(path, Counter())
    if not files:
        raise UserError(
            f"{path} contains no image ({', '.join(sorted(IMAGE_SUFFIXES))}); name another folder"
        )
    pictures = FilePictures(path, [str(file.relative_to(path)) for file in files], upright=True)
    return PictureData(pictures, torch.zeros(len(files), dtype=torch.int64))


def read_captions(path: str | Path) -> tuple[str, ...]:
    """Sentences of a captions file in Conceptual Captions' form: caption, tab, address; no header.

    Raises:
        UserError: it is missing, not UTF-8, or has a malformed line (its number is in the message).
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the captions file {path}: {error}; name another") from error
    sentences = []
    for number, line in enumerate(lines, start=1):
        parts = line.split("\t")
        if len(parts) != 2 or not parts[0].strip():
            raise UserError(
                f"{path}, line {number}: a captions file has lines 'caption<TAB>address'; found "
                f"{line[:60]!r}; take Conceptual Captions' .tsv file as it is"
            )
        sentences.append(parts[0].strip())
    if not sentences:
        raise UserError(f"the captions file {path} is empty; fetch it again")
    return tuple(sentences)


def _sentences(root: str | Path | None, captions: str | Path | None) -> tuple[str, ...]:
    if captions is not None:
        return read_captions(captions)
    if root is None and VARIABLE not in os.environ:
        return ()
    default = data_folder(root) / CAPTIONS
    return read_captions(default) if default.is_file() else ()
