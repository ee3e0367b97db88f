"""Mixture of experts beside the MLP of one transformer block (MoE-Adapters, section 3.2).

    h      = x + attention(ln_1(x))              the residual stream, not normalised
    gates  = softmax of the k largest logits of h[:, 0] @ W_gate (+ noise in training), 0 elsewhere
    y      = sum over experts of gate * expert(h)
    output = h + mlp(ln_2(h)) + y

A whole row (an image, a prompt) goes to the experts that its first token chose. Only those experts
are computed, in one grouped matrix product; an expert that no row chose is not part of the graph
and gets no gradient. `ExpertTowers` puts such a mixture beside every block.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn

from vlcl_toolkit.sharding import gather_rows, local_random, sum_counts

NO_ROUTER = -1  # the plain block: no expert takes part
MINIMAL_SIGMA = 0.01
_ALIGNED = 8  # sizes that grouped products take in every precision
Tower = Literal["image", "text"]


class Place(NamedTuple):
    """A block of the model."""

    tower: Tower
    layer: int


class Routing(NamedTuple):
    """Which experts each row chose, in ascending order of expert, and how it came about.

    `logits` are `clean` plus noise of standard deviation `sigma` (None without noise).
    """

    chosen: Int64[Tensor, "rows k"]
    weights: Float[Tensor, "rows k"]
    clean: Float[Tensor, "rows experts"]
    logits: Float[Tensor, "rows experts"]
    sigma: Float[Tensor, "rows experts"] | None

    def gates(self) -> Float[Tensor, "rows experts"]:
        """The weight of every expert for every row, 0 for those not chosen."""
        return torch.zeros_like(self.clean).scatter(1, self.chosen, self.weights)

    def counts(self) -> Int64[Tensor, " experts"]:
        """By how many rows each expert was chosen with a weight that is not 0."""
        active = (self.weights != 0).long()
        counts = self.chosen.new_zeros(self.clean.shape[1])
        return counts.scatter_add(0, self.chosen.flatten(), active.flatten())


class Sampler:
    """Random numbers of the mixture; subclass it to replay recorded ones."""

    def noise(self, place: Place, like: Float[Tensor, "rows experts"]) -> Tensor:
        """Standard normal numbers for the router, of the shape of `like`."""
        return local_random(torch.randn, like)

    def keep(self, place: Place, like: Float[Tensor, "rows k tokens hidden"], p: float) -> Tensor:
        """Dropout mask of the hidden layer: true where kept; experts of a row in ascending order."""
        return local_random(torch.rand, like) >= p


@dataclass
class Mode:
    """What every block does in the next forward passes; shared by all of them.

    Attributes:
        router: whose choice counts, or NO_ROUTER.
        training: dropout acts and choices are counted.
        noise: the router is noisy.
        one_choice: rows of a text batch choose alike, so the first row decides (see `forward`).
        ends: position of the token that routes, per row of a text batch; None: the first token.
        balance: load-balance terms are gathered here if it is a list.
        observer: called with every place and routing, e.g. to record it.
    """

    router: int = NO_ROUTER
    training: bool = False
    noise: bool = False
    one_choice: bool = False
    ends: Tensor | None = None
    balance: list[Tensor] | None = None
    observer: Callable[[Place, Routing], None] | None = None
    sampler: Sampler = field(default_factory=Sampler)


class Expert(nn.Module):
    """Bottleneck adapter: up(dropout(relu(down(h)))); its weights alone, `Mixture` computes."""

    def __init__(self, width: int, bottleneck: int):
        super().__init__()
        self.down_proj = nn.utils.skip_init(nn.Linear, width, bottleneck)
        self.up_proj = nn.utils.skip_init(nn.Linear, bottleneck, width)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Initial values: Kaiming-uniform (a = sqrt 5) into the bottleneck, 0 elsewhere."""
        bound = 1 / math.sqrt(self.down_proj.in_features)
        values = torch.empty(self.down_proj.weight.shape)
        values.uniform_(-bound, bound, generator=generator)
        self.down_proj.weight.data.copy_(values)


class Mixture(nn.Module):
    """The experts and routers of one block. Parameter names are those of official checkpoints."""

    count: Tensor
    frozen: Tensor

    def __init__(
        self,
        place: Place,
        width: int,
        mode: Mode,
        *,
        experts: int,
        top_k: int,
        bottleneck: int,
        dropout: float,
        scale: float,
    ):
        super().__init__()
        self.place, self.width, self.mode = place, width, mode
        self.bottleneck = bottleneck
        self.top_k, self.dropout, self.scale = top_k, dropout, scale
        self.adaptmlp_list = nn.ModuleList(Expert(width, bottleneck) for _ in range(experts))
        self.router_list = nn.ParameterList()
        self.w_noise_list = nn.ParameterList()
        self.register_buffer("count", torch.zeros(experts, dtype=torch.int64))
        self.register_buffer("frozen", torch.zeros(experts, dtype=torch.bool))

    def add_router(self) -> None:
        """One more router, zero: with noise its first choices are uniformly random."""
        for routers in (self.router_list, self.w_noise_list):
            shape = (self.width, len(self.adaptmlp_list))
            routers.append(nn.Parameter(torch.zeros(shape, device=self.count.device)))

    def forward(self, h: Float[Tensor, "rows tokens width"]) -> Float[Tensor, "rows tokens width"]:
        """What the experts add to the stream `h`."""
        mode = self.mode
        text = self.place.tower == "text"
        if text and mode.one_choice:
            # Under a causal mask nothing but the start-of-text token reaches position 0, so that
            # without noise every prompt chooses the same experts with the same weights.
            routing = self._observed(self.route(h[:1, 0]))
            return self._fused(h, routing)
        token = h[:, 0]
        if text and mode.ends is not None:
            token = h[torch.arange(len(h), device=h.device), mode.ends]
        routing = self._observed(self.route(token))
        if mode.training:
            self.count += sum_counts(routing.counts())
            if mode.balance is not None:
                mode.balance.append(balance(_whole(routing)))
        return self.apply_experts(h, routing)

    def route(self, token: Float[Tensor, "rows width"]) -> Routing:
        """Noisy top-k gating (Shazeer et al. 2017, equations 3 to 5), in float32."""
        mode = self.mode
        with torch.autocast(token.device.type, enabled=False):
            token = token.float()
            clean = token @ self.router_list[mode.router]
            logits, sigma = clean, None
            if mode.noise:
                sigma = F.softplus(token @ self.w_noise_list[mode.router]) + MINIMAL_SIGMA
                logits = clean + mode.sampler.noise(self.place, clean) * sigma
            # A stable sort: of equal logits the lower index wins, on every device.
            best = logits.sort(dim=1, descending=True, stable=True)
            weights = best.values[:, : self.top_k].softmax(dim=1)
            chosen, order = best.indices[:, : self.top_k].sort(dim=1)
            return Routing(chosen, weights.gather(1, order), clean, logits, sigma)

    def _observed(self, routing: Routing) -> Routing:
        if self.mode.observer is not None:
            self.mode.observer(self.place, routing)
        return routing

    def apply_experts(
        self, h: Float[Tensor, "rows tokens width"], routing: Routing
    ) -> Float[Tensor, "rows tokens width"]:
        """Output of each row's experts, weighted; the experts in use share one grouped product."""
        rows, tokens = h.shape[:2]
        k = routing.chosen.shape[1]
        # Pairs (row, expert) of non-zero weight, sorted by expert.
        expert_of, order = routing.chosen.flatten().sort(stable=True)
        weights = routing.weights.flatten()[order]
        if bool((weights == 0).any()):  # underflow of the softmax: not chosen at all
            kept = weights != 0
            expert_of, order, weights = expert_of[kept], order[kept], weights[kept]
        used, sizes = expert_of.unique_consecutive(return_counts=True)
        members = [self.adaptmlp_list[index] for index in used.tolist()]
        group = torch.arange(len(used), device=h.device).repeat_interleave(sizes)
        ends = (sizes.cumsum(0) * tokens).to(torch.int32)

        x = h.index_select(0, order // k)  # [pairs, tokens, width]
        down = torch.stack([expert.down_proj.weight for expert in members])
        bias = torch.stack([expert.down_proj.bias for expert in members])[group, None]
        hidden = (
            grouped_linear(x.flatten(0, 1), down, ends).unflatten(0, (-1, tokens)) + bias
        ).relu()
        if self.mode.training and self.dropout:
            keep = self.mode.sampler.keep(
                self.place,
                hidden.detach().new_empty(rows, k, tokens, hidden.shape[-1]),
                self.dropout,
            )
            hidden = hidden * keep.flatten(0, 1)[order] / (1 - self.dropout)
        up = torch.stack([expert.up_proj.weight for expert in members])
        bias = torch.stack([expert.up_proj.bias for expert in members])[group, None]
        y = grouped_linear(hidden.flatten(0, 1), up, ends).unflatten(0, (-1, tokens)) + bias
        y = y * (self.scale * weights)[:, None, None]
        return torch.zeros_like(h).index_add(0, order // k, y.to(h.dtype))

    def _fused(self, h: Float[Tensor, "rows tokens width"], routing: Routing) -> Tensor:
        # The chosen experts as one wider adapter, the gates inside its upper weights.
        members = [self.adaptmlp_list[index] for index in routing.chosen[0].tolist()]
        gates = (self.scale * routing.weights[0]).unbind()
        pairs = list(zip(gates, members, strict=True))
        down = torch.cat([expert.down_proj.weight for expert in members])
        bias = torch.cat([expert.down_proj.bias for expert in members])
        up = torch.cat([gate * expert.up_proj.weight for gate, expert in pairs], dim=1)
        up_bias = torch.stack([gate * expert.up_proj.bias for gate, expert in pairs]).sum(dim=0)
        return F.linear(F.linear(h, down, bias).relu(), up, up_bias).to(h.dtype)


def grouped_linear(
    x: Float[Tensor, "n inputs"],
    weight: Float[Tensor, "groups outputs inputs"],
    ends: Int[Tensor, " groups"],
) -> Float[Tensor, "n outputs"]:
    """`x @ weight[g].T` for the rows of each group g; group g ends before row `ends[g]`."""
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.to(dtype)
    outputs, inputs = weight.shape[1:]
    more_inputs, more_outputs = -inputs % _ALIGNED, -outputs % _ALIGNED
    if more_inputs or more_outputs:  # zeros change no product
        x = F.pad(x, (0, more_inputs))
        weight = F.pad(weight, (0, more_inputs, 0, more_outputs))
    return F.grouped_mm(x, weight.transpose(1, 2), offs=ends)[:, :outputs]


def _whole(routing: Routing) -> Routing:
    # Of all rows of a batch that is sharded over ranks.
    chosen, weights, clean, logits, sigma = routing
    whole_sigma = None if sigma is None else gather_rows(sigma)
    others = gather_rows(weights), gather_rows(clean), gather_rows(logits)
    return Routing(gather_rows(chosen), *others, whole_sigma)


def balance(routing: Routing) -> Float[Tensor, ""]:
    """Sum of the squared coefficients of variation of importance and load.

    Source: Shazeer et al. 2017, section 4 and appendix A; computed and dropped in the official code.
    """
    return _squared_variation(routing.gates().sum(dim=0)) + _squared_variation(load(routing))


def load(routing: Routing) -> Float[Tensor, " experts"]:
    """Expected number of rows per expert over the noise; without noise, or if all are chosen: counts."""
    k = routing.chosen.shape[1]
    if routing.sigma is None or k == routing.clean.shape[1]:
        return routing.counts().to(routing.clean.dtype)
    best = routing.logits.topk(k + 1, dim=1).values
    inside = routing.logits > best[:, k:]
    threshold = torch.where(inside, best[:, k:], best[:, k - 1 : k])
    return torch.special.ndtr((routing.clean - threshold) / routing.sigma).sum(dim=0)


def _squared_variation(values: Float[Tensor, " experts"]) -> Float[Tensor, ""]:
    return values.var() / (values.mean() ** 2 + 1e-10)
