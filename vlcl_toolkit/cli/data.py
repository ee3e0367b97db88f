"""`vlcl data check|prepare|replica`, and the options that say where a stream's files are."""

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
    """Division of MTIL; default: the one that the protocol was published with."""
    cache: Path | None = None
    """Folder for decoded images (3 bytes per pixel), filled on the first use."""
    skip_unreadable: bool = False
    """Leave out damaged images, and record how many."""
    replica: bool = False
    """The data sets are small imitations: do not insist on the published sizes. (Those of `vlcl data
    replica` are known as such.)"""
    reference: str | None = None
    """Reference images: imagenet, tinyimagenet (both in the data folder), or a folder of images."""
    captions: Path | None = None
    """Reference sentences: a file with lines "caption<TAB>address"."""

    def load(self, stream: str) -> "TaskStream":
        """The stream, with the options that were given."""
        from vlcl_toolkit.streams.registry import load_stream

        return load_stream(stream, **self.options())

    def options(self) -> dict[str, Any]:
        """The options that were given, as `load_stream` calls them."""
        options = {name: value for name, value in asdict(self).items() if value}
        if "data" in options:
            options["root"] = options.pop("data")
        if options.pop("replica", False):
            options["verify"] = False
        return options


AS_PUBLISHED = DataOptions()
Data = Annotated[DataOptions, tyro.conf.arg(name="")]


def data(
    action: Annotated[Literal["check", "prepare", "replica"], tyro.conf.Positional],
    root: Path | None = None,
    sets: tuple[str, ...] = (),
    splits: tuple[Literal["zscl", "coop"], ...] = ("zscl", "coop"),
    decode: bool = True,
    sizes: bool = True,
    fetch: bool = True,
) -> None:
    """Check data sets, or prepare them: download what can be downloaded, say what to fetch by hand; or imitate them.

    check looks at files, counts (against the published table), classes and every image. prepare can be interrupted
    at any time: the same command goes on where it stopped. replica writes imitations of all sets, reference material
    included: the published layouts, a few tiny images per class, for rehearsals.

    Args:
        action: check, prepare or replica.
        root: The data folder (prepare and replica make it); default: the environment variable VLCL_DATA.
        sets: Only these, e.g. Food SUN397 TinyImageNet ImageNet; default: the eleven of MTIL (replica: everything).
        splits: check: which divisions of MTIL.
        decode: check: look at every image (the longest part by far).
        sizes: check: compare counts and checksums with the published ones; --no-sizes for replicas.
        fetch: prepare: --no-fetch only says what is missing.
    """
    from vlcl_toolkit.streams.data_check import check_data
    from vlcl_toolkit.streams.data_prepare import prepare_data
    from vlcl_toolkit.streams.material import data_folder
    from vlcl_toolkit.streams.replicas import write_replicas

    if action == "replica":
        if root is None:
            raise UserError("replicas want a folder of their own; none given; give --root DIR")
        print(f"replicas: {write_replicas(root, sets)}")
        return
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
