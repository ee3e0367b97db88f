"""Official checkpoints in the toolkit's own form: a folder with `state.safetensors` and `import.json`.

1. The file is read without pickle by the reader of its method (`official.py` in the folder of its
   paper), which leaves out known leftovers by name and checks
   everything else against the backbone.
2. What the method then holds is its own state; it is written with the settings that it needs, a table
   of its tensors, and the hashes of source, state and backbone.
3. `load_imported` checks the hashes and gives an attached method, ready to classify.
"""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save
from torch import Tensor

from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.files import make_folder, sha256_of, write_atomic
from vlcl_toolkit.methods.base import Method
from vlcl_toolkit.methods.diki.diki import Diki
from vlcl_toolkit.methods.diki.official import DikiCheckpoint
from vlcl_toolkit.methods.diki.official import read_official_checkpoint as read_diki
from vlcl_toolkit.methods.moe_adapters.moe_adapters import MoEAdapters
from vlcl_toolkit.methods.moe_adapters.official import load_official, shape_settings
from vlcl_toolkit.methods.registry import make_method, method_class
from vlcl_toolkit.methods.zscl.finetune import Finetune
from vlcl_toolkit.methods.zscl.official import read_official_checkpoint as read_zscl

STATE, RECORD = "state.safetensors", "import.json"
_DIKI_SHAPES = ("depth_vision", "depth_text", "length_vision", "length_text")


@dataclass(frozen=True)
class Imported:
    """Content of an official file as the state of our own method.

    Attributes:
        method: name of the method.
        settings: those that differ from the method's defaults.
        backbone, backbone_sha256, activation: the backbone that it belongs to.
        source, source_sha256: name and hash of the official file.
        tasks: how many tasks were learned; None if the file does not record it.
        state: for `Method.load_state_dict`.
    """

    method: str
    settings: dict[str, Any]
    backbone: str
    backbone_sha256: str
    activation: str
    source: str
    source_sha256: str
    tasks: int | None
    state: dict[str, Tensor]

    def write(self, folder: str | Path) -> Path:
        """Write both files; the folder must not hold another import.

        Raises:
            UserError: it does, or it cannot be written.
        """
        folder = make_folder(folder)
        if (folder / RECORD).exists():
            raise UserError(f"{folder} holds an import already; choose another folder")
        content = save({name: value.contiguous().clone() for name, value in self.state.items()})
        write_atomic(folder / STATE, content)
        record = {key: value for key, value in vars(self).items() if key != "state"}
        record["state_sha256"] = sha256_of(folder / STATE)
        record["tensors"] = {
            name: {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
            for name, value in self.state.items()
        }
        write_atomic(folder / RECORD, (json.dumps(record, indent=1) + "\n").encode())
        return folder


def import_official(
    method: str,
    file: str | Path,
    clip: Clip,
    *,
    tasks: int | None = None,
    settings: Mapping[str, Any] | None = None,
    selector: str | Path | None = None,
    frozen: str | Path | None = None,
) -> Imported:
    """Read an official checkpoint and check it against a backbone.

    Args:
        method: "diki" (`task_<i>.pt`), "moe_adapters" (`<data set>.pth`), or one of ZSCL's repository
            ("zscl", "lwf", "icarl", "wise_ft", ..., `<data set>.pth`).
        tasks: take only the first ones; None: all that the file has learned.
        settings: of the method, beyond those that follow from the file's shapes.
        selector, frozen: MoE-Adapters: the autoencoders' `.pth`; the list of frozen parameters.

    Raises:
        UserError: no reader for this method; a file of another method or backbone, damaged, in need
            of pickle, or with fewer tasks than requested.
    """
    file, chosen, cls = Path(file), dict(settings or {}), method_class(method)
    if (selector or frozen) and cls is not MoEAdapters:
        raise UserError(
            f"only moe_adapters has files of a selector or of frozen names; not {method}"
        )
    if cls is Diki:
        checkpoint = _first_tasks(read_diki(file, clip), tasks, file)
        tasks, state = checkpoint.tasks_learned, checkpoint.state_dict()
        chosen |= {name: getattr(checkpoint.config(), name) for name in _DIKI_SHAPES}
    elif cls is MoEAdapters:
        chosen |= shape_settings(file)
        if selector is None:
            chosen |= {"selector": "none", "shared_router": True}
        state = {}
    elif issubclass(cls, Finetune):
        if tasks is not None:
            raise UserError(
                f"files of {method} do not record how many tasks were learned; omit tasks"
            )
        state = read_zscl(file, clip)
    else:
        raise UserError(
            f"no official checkpoints of {method} are known; known are diki, moe_adapters, zscl and "
            "the methods of ZSCL's repository; choose one of them"
        )
    with make_method(method, clip, chosen) as learner:
        if isinstance(learner, MoEAdapters):
            load_official(learner, file, selector, tasks=tasks, frozen=frozen)
            tasks = learner.tasks
            if selector is None and tasks > 1:
                raise UserError(
                    f"{file} has learned {tasks} tasks, and which router serves an image is up to the "
                    "autoencoders; give their file as selector"
                )
        else:
            learner.load_state_dict(state)
        state = {name: value.detach().cpu().clone() for name, value in learner.state_dict().items()}
    return Imported(
        method=method,
        settings=chosen,
        backbone=clip.name,
        backbone_sha256=clip.weights_sha256,
        activation=clip.activation,
        source=file.name,
        source_sha256=sha256_of(file),
        tasks=tasks,
        state=state,
    )


def load_imported(folder: str | Path, clip: Clip) -> Method:
    """An attached method that holds what was imported into `folder`.

    Raises:
        UserError: no import, a damaged one, or one of another backbone.
    """
    folder = Path(folder)
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        found = sha256_of(folder / STATE)
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(
            f"{folder} holds no whole import ({error}); run vlcl import again"
        ) from error
    if found != record["state_sha256"]:
        raise UserError(f"{folder / STATE} is damaged (its hash differs); run vlcl import again")
    here = {"backbone_sha256": clip.weights_sha256, "activation": clip.activation}
    if any(record.get(name, value) != value for name, value in here.items()):
        raise UserError(
            f"{folder} belongs to the backbone {record['backbone']!r} with other weights or another "
            f"activation than {clip.name!r}; load the backbone that it was imported for"
        )
    with contextlib.ExitStack() as stack:
        method = stack.enter_context(make_method(record["method"], clip, record["settings"]))
        method.load_state_dict(load_file(folder / STATE))
        stack.pop_all()  # it stays attached
    return method


def _first_tasks(checkpoint: DikiCheckpoint, tasks: int | None, file: Path) -> DikiCheckpoint:
    learned = checkpoint.tasks_learned
    if tasks is None:
        return checkpoint
    if not 1 <= tasks <= learned:
        raise UserError(f"{file} knows {learned} tasks; found tasks={tasks}; choose 1..{learned}")
    return replace(checkpoint, tasks_learned=tasks)
