"""`vlcl data check|prepare`, and the options that say where a stream's files are."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from vlcl_toolkit.errors import UserError

if TYPE_CHECKING:
    from vlcl_toolkit.streams import TaskStream


@dataclass(frozen=True)
class DataOptions:
    """Where the files of a full-size stream are, and how they are read."""

    data: Path | None = None
    """Folder of the data sets; default: the environment variable VLCL_DATA."""
    split: Literal["zscl", "coop"] | None = None
    """Split of MTIL; default: the one that the protocol was published with."""
    cache: Path | None = None
    """Folder for decoded images (3 bytes per pixel), filled on the first use."""
    skip_unreadable: bool = False
    """Leave out damaged images, and record how many."""
    unverified: bool = False
    """Do not insist on the published sizes and checksums, e.g. of small imitations; the record says so."""
    reference: str | None = None
    """Reference images: imagenet, tinyimagenet (both in the data folder), or a folder of images."""
    captions: Path | None = None
    """Reference sentences: a file with lines "caption<TAB>address"."""

    def load(self, stream: str) -> "TaskStream":
        """The stream, with the options that were given."""
        from vlcl_toolkit.load import load_stream

        return load_stream(stream, **self.options())

    def options(self) -> dict[str, Any]:
        """The options that were given, as `load_stream` calls them."""
        options = {name: value for name, value in asdict(self).items() if value}
        if "data" in options:
            options["root"] = options.pop("data")
        if options.pop("unverified", False):
            options["verify"] = False
        return options


AS_PUBLISHED = DataOptions()
Data = Annotated[DataOptions, tyro.conf.arg(name="")]


def data(
    action: Annotated[Literal["check", "prepare"], tyro.conf.Positional],
    root: Path | None = None,
    sets: tuple[str, ...] = (),
    splits: tuple[Literal["zscl", "coop"], ...] = ("zscl", "coop"),
    decode: bool = True,
    sizes: bool = True,
    fetch: bool = True,
) -> None:
    """Check data sets, or prepare them: download what can be downloaded, say what to fetch by hand.

    check looks at files, counts (against the published table), classes and every image. prepare can be interrupted
    at any time: the same command goes on where it stopped.

    Args:
        action: check or prepare.
        root: The data folder (prepare makes it); default: the environment variable VLCL_DATA.
        sets: Only these, e.g. Food SUN397 TinyImageNet ImageNet; default: the eleven of MTIL.
        splits: check: which splits of MTIL.
        decode: check: look at every image (the longest part by far).
        sizes: check: compare counts and checksums with the published ones; --no-sizes for imitations.
        fetch: prepare: --no-fetch only says what is missing.
    """

    from vlcl_toolkit.streams.full_size.check import check_data
    from vlcl_toolkit.streams.full_size.prepare import prepare_data
    from vlcl_toolkit.streams.location import data_folder

    if action == "prepare":
        for line in prepare_data(root or data_folder(None), sets, fetch=fetch):
            print(line, flush=True)
        return
    folder, faults = data_folder(root), 0
    for finding in check_data(folder, sets, splits, decode=decode, sizes=sizes):
        faults += not finding.good
        sign = "ok   " if finding.good else "FAULT"
        print(f"{sign} {finding.data_set}, {finding.aspect}: {finding.text}", flush=True)
    if faults:
        raise UserError(f"{faults} faults in {folder}, listed above; repair them and check again")
