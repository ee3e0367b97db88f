"""Reading the `<data set>.pth` that the official ZSCL code saves after each task.

1. The file is read without pickle: `{"state_dict": all weights of the model}` in OpenAI's names,
   which are open_clip's; a prefix `module.` of multi-GPU runs is removed.
2. Names and shapes must be those of the backbone, and the logit scale, which is never trained, its
   own.

The files of ZSCL, LwF, iCaRL, WiSE-FT, WE and WC are all of this kind: the weights are all there is
to predict with, and all that the next task starts from.
"""

from pathlib import Path

import torch
from torch import Tensor

from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.clip.weights import read_state
from vlcl_toolkit.errors import UserError


def read_official_checkpoint(path: str | Path, clip: Clip) -> dict[str, Tensor]:
    """Weights for `load_state_dict` of `Finetune` and every method built on it, in float32.

    iCaRL's memory is in no file: it is empty after loading.

    Raises:
        UserError: unreadable, other names or shapes than the backbone's, another logit scale, or
            NaN or Inf.
    """
    path = Path(path)
    state = {name: value.float() for name, value in read_state(path).items()}
    own = dict(clip.model.named_parameters())
    wrong = sorted(own.keys() ^ state.keys())
    if wrong:
        raise UserError(
            f"{path} is not a checkpoint of {clip.name}: {len(wrong)} names differ "
            f"({', '.join(wrong[:3])}); load the backbone that it was trained on"
        )
    for name, parameter in own.items():
        if state[name].shape != parameter.shape:
            raise UserError(
                f"{path} does not fit the backbone {clip.name}; {name} has shape "
                f"{tuple(state[name].shape)}, expected {tuple(parameter.shape)}; load the backbone "
                "that it was trained on"
            )
        if not state[name].isfinite().all():
            raise UserError(f"{path} contains NaN or Inf ({name}); fetch it again")
    scale = state.pop("logit_scale").to(clip.device)
    if not torch.isclose(scale, clip.model.logit_scale, rtol=1e-3):
        raise UserError(
            f"{path} has the logit scale {float(scale.exp()):.4g}, the backbone {clip.name} "
            f"{clip.logit_scale:.4g}, which training never changes; load the right backbone"
        )
    return state
