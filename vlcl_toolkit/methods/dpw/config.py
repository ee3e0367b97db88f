"""Settings of DPW; six of them are the rungs of the paper's ablation, with DIKI at the foot."""

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from vlcl_toolkit.errors import UserError
from vlcl_toolkit.methods.diki.config import PromptConfig
from vlcl_toolkit.settings import Few, FewOrZero, Rate, ShareBelowOne, Size

Cutoff = Literal["official", "always", "off"]
Activation = Literal["softmax", "sigmoid", "normalised"]


@dataclass(frozen=True)
class DpwConfig(PromptConfig):
    """Settings of DPW; the defaults are the full form's in the official repository."""

    depth_vision: FewOrZero = 12
    """Blocks of the image tower with prompts, from the first; all if the tower has fewer."""
    depth_text: FewOrZero = 12
    """Blocks of the text tower with prompts, from the first; all if the tower has fewer."""
    learning_rate: Rate = 1.25
    """Rate of the first step."""
    batch_size: Size = 32
    """Training images per step."""
    variant: Literal["full", "light"] = "full"
    """"full": a head scores all channels of a token; "light": its own share of them."""
    heads: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = "auto"
    """Prompt heads of a task and tower; "auto": from the task's frozen features (full form), or a
    quarter of the tower's own heads (light)."""
    scores: Literal["affine", "query_key"] = "affine"
    """How prompts are scored: a trained affine map of the token, or DIKI's query times key."""
    activation: Activation = "normalised"
    """Scores to weights: "softmax" (total 1, DIKI's), "sigmoid", or "normalised": sigmoid, divided by
    its sum where that exceeds 1."""
    cutoff: Cutoff = "official"
    """When weak prompts are set to 0 at test time: "official": where the weight of the image (with
    decision "batch" the batch's mean) is below `cutoff_threshold`; "always" (the paper's words); "off"."""
    cutoff_threshold: Annotated[float, Field(ge=0, le=1)] = 0.825
    """See `cutoff`; the repository's constant, fitted to ViT-B/16."""
    adapter: bool = True
    """Whether a low-rank adapter gets the weight that the normalisation takes away."""
    adapter_rank: Few | None = None
    """Rank of the adapters; None: 64 (full) or 4 (light), at most the width."""
    adapter_dropout: ShareBelowOne = 0.1
    """Share of an adapter's inner values that a training step sets to 0."""
    adapter_down: Literal["svd", "random"] = "svd"
    """The adapter's fixed first factor: singular vectors of CLIP's value projection (the paper), or a
    random orthonormal frame (what the repository computes)."""

    @model_validator(mode="after")
    def _normalisation_feeds_the_adapter(self) -> "DpwConfig":
        if self.scores == "query_key" and self.variant == "light":
            raise UserError(
                "the light form is one of affine scores; found scores='query_key' with "
                "variant='light'; choose variant='full' or scores='affine'"
            )
        return self
