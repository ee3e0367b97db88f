"""Options that several commands share."""

import ast
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.training.execution import ONE_DEVICE, Execution

if TYPE_CHECKING:
    from vlcl_toolkit.clip.model import Clip
    from vlcl_toolkit.streams import TaskStream

Backbone = Annotated["BackboneOptions", tyro.conf.arg(name="")]
Imports = Annotated[
    tuple[str, ...],
    tyro.conf.arg(name="import", metavar="MODULE|FILE"),
    tyro.conf.UseAppendAction,
]
LabelSpaceOption = Literal["task", "seen", "odcl", "all"] | None
KeyValues = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE ...")]


@dataclass(frozen=True)
class BackboneOptions:
    """Which CLIP, where and how it computes."""

    backbone: str = "mini"
    """"mini" (embedded), any ViT CLIP of open_clip, e.g. ViT-B-16-quickgelu, or random weights for
    dry runs: random:ViT-B-16-quickgelu:depth=2,width=64 (also pixels=, dim=, seed=)."""
    pretrained: str | None = None
    """Weights that open_clip knows for that backbone, e.g. openai."""
    checkpoint: Path | None = None
    """A local weights file instead (.safetensors, .pt, .pth)."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, cuda:1, ..."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Number format of the towers."""
    execution: Execution = ONE_DEVICE
    """Devices, micro-batches, loading processes, ..."""

    def load(self) -> "Clip":
        """The backbone (imported late, to keep --help fast)."""
        from vlcl_toolkit.load import load_clip

        return load_clip(
            self.backbone,
            pretrained=self.pretrained,
            checkpoint=self.checkpoint,
            device=self.device,
            precision=self.precision,
        )


EMBEDDED = BackboneOptions()


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
    tasks: str | None = None
    """Learn only these tasks, in this order (names or indices, comma-separated); of MTIL and X-TAIL, only their data
    sets have to be there."""

    def options(self) -> dict[str, Any]:
        """The options that were given, as `load_stream` calls them."""
        options = {name: value for name, value in asdict(self).items() if value}
        if "tasks" in options:
            options["tasks"] = [key.strip() for key in options["tasks"].split(",")]
        if "data" in options:
            options["root"] = options.pop("data")
        if options.pop("unverified", False):
            options["verify"] = False
        return options


AS_PUBLISHED = DataOptions()
Data = Annotated[DataOptions, tyro.conf.arg(name="")]


@dataclass(frozen=True)
class Sources:
    """What is learned, and on which backbone."""

    stream: str = "mini"
    """Name of the stream: mini, mtil, mtil-II, mtil-5shot, mtil-16shot, cifar100-10, ..., folder:/path, or your own."""
    imports: Imports = ()
    """A module or a .py file with methods and streams of your own; several: --import a.py --import b.py."""
    label_space: LabelSpaceOption = None
    """Classes that a test image is classified among: those of its own task (task), of all tasks learned so far (seen),
    the same but for tasks still to come their own (odcl), or of the whole stream (all); default: the stream's own."""
    backbone: Backbone = EMBEDDED
    files: Data = AS_PUBLISHED

    def load_stream(self) -> "TaskStream":
        """The stream, after the imports; methods of your own have names then."""
        from vlcl_toolkit.load import load_stream

        import_all(self.imports)
        stream = load_stream(self.stream, **self.files.options())
        return stream.with_label_space(self.label_space) if self.label_space else stream

    def __call__(self) -> "tuple[TaskStream, Clip]":
        """Stream and backbone, where a job of a cluster runs."""
        return self.load_stream(), self.backbone.load()


Chosen = Annotated[Sources, tyro.conf.arg(name="")]
DEFAULT = Sources()


@dataclass(frozen=True)
class RunOptions:
    """How one run is made."""

    seed: int = 0
    """Random seed (data order, augmentation, initialisation)."""
    out: Path | None = None
    """The run's folder; default: runs/<stream>/<method>/<order and config hash>."""
    set: KeyValues = ()
    """Settings of the method that differ from its preset, e.g. --set learning_rate=3e-4 iterations=50."""
    probes: bool = False
    """Record what happens inside the network after every task; the numbers stay the same."""


Run = Annotated[RunOptions, tyro.conf.arg(name="")]
ONE_RUN = RunOptions()


def import_all(modules: Sequence[str]) -> None:
    """Import modules, or .py files, that register methods and streams.

    As with `python FILE`, what lies beside a file can be imported from it; beside a module, what lies in the working
    directory.

    Raises:
        UserError: there is no such module or file, or its name is another module's.
    """
    for name in modules:
        file = Path(name).resolve() if name.endswith(".py") else None
        if file and not file.is_file():
            raise UserError(f"cannot import {name}: there is no such file; check the path")
        folder, module = (str(file.parent), file.stem) if file else (os.getcwd(), name)
        if folder not in sys.path:
            sys.path.insert(0, folder)
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise  # the module is there and misses another one
            raise UserError(
                f"cannot import {name!r}: there is no such module; give its .py file"
            ) from error
        if file and found.__file__ != str(file):
            raise UserError(
                f"cannot import {name}: the name {module!r} is taken by {found.__file__}; rename the file"
            )


def read_settings(pairs: tuple[str, ...]) -> dict[str, Any]:
    """Settings written NAME=VALUE; UserError for another form, or a name that comes twice."""
    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise UserError(
                f"a setting is written NAME=VALUE; found {pair!r}; e.g. --set learning_rate=3e-4"
            )
        if name in settings:
            raise UserError(f"{name} is set twice; found {pair!r} last; leave one of them out")
        settings[name] = read_value(text)
    return settings


def read_value(text: str) -> Any:
    """A Python literal, or else the word itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # no literal: a word
        return text
