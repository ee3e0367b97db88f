"""`vlcl data check|prepare`."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from vlcl_toolkit.errors import UserError


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
