"""Numbers recorded from the official implementations, and the model they belong to."""

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import CLIP
from safetensors.torch import load_file
from torch import Tensor

from vlcl_toolkit.clip.model import Clip

GOLDEN = Path(__file__).parent / "golden"


def read_case(method: str, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The JSON and the tensors of a case."""
    record = json.loads((GOLDEN / method / f"{name}.json").read_text())
    return record, load_file(GOLDEN / method / f"{name}.safetensors")


def zscl_clip(weights: str) -> Clip:
    """The tiny CLIP of the ZSCL cases with the weights in `<weights>.safetensors`."""
    shape = json.loads((GOLDEN / "zscl" / "inputs.json").read_text())["model"]
    layers = shape["layers"]
    model = CLIP(
        embed_dim=shape["embed"],
        vision_cfg={
            "image_size": 32,
            "patch_size": shape["patch"],
            "width": shape["vw"],
            "layers": layers,
        },
        text_cfg={"width": shape["tw"], "heads": shape["tw"] // 64, "layers": layers},
        quick_gelu=True,
    )
    state = load_file(GOLDEN / "zscl" / f"{weights}.safetensors")
    ids, rows = state.pop("token_embedding.ids"), state.pop("token_embedding.rows")
    embedding = torch.zeros(model.vocab_size, shape["tw"])
    embedding[ids] = rows
    model.load_state_dict(state | {"token_embedding.weight": embedding})
    return Clip(model, open_clip.get_tokenizer("ViT-B-32"), name="golden")


def assert_golden(found: Tensor, record: dict[str, Any], tensors: dict[str, Tensor], name: str):
    """Compare with a recorded tensor, at the tolerance that the ZSCL cases state."""
    rounding = record["tensors"][name]["max_abs_diff_float32_vs_float64"] or 0.0
    atol = max(2e-5, 20 * rounding)
    torch.testing.assert_close(
        found.detach(), tensors[name], rtol=1e-4, atol=atol, msg=lambda text: f"{name}: {text}"
    )
