"""The prompts of all tasks in DPW: what starts where, what is trained, what is saved.

Per task and attention: V, G, b and the adapter's U, u (trained), and mean and variance of the class
token's scores (measured after training, image tower). D is fixed and the same for all tasks; it is
saved, because singular vectors have a sign that machines choose differently.

    V   left singular vectors of CLIP's W_v, as long as W_v's columns are on average
    G   full form: left singular vectors of W_q W_k^T, P for each head; light form: random, orthonormal
    b   -4 in the image tower, -2 in the text tower
    D   left singular vectors of W_v^T
    U   normal(0, 0.02), the same for all tasks; u = 0
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.methods.diki.prompts import Attend, PromptPool
from vlcl_toolkit.methods.dpw.config import DpwConfig
from vlcl_toolkit.methods.dpw.prefixes import Prefixes
from vlcl_toolkit.seeds import generator as seeded

IMAGE_BIAS, TEXT_BIAS = -4.0, -2.0
_UP_SCALE = 0.02


class PrefixPool(PromptPool):
    """A prompt pool whose places have several tensors per task, with prompt heads of their own.

    Attributes:
        tasks: per task, parameters by "<place>.<values | score_weight | score_bias | up | up_bias>".
        score_statistics: per task and place, mean and variance `[2, heads, P]` of the class token's
            scores.
        down: D by place; empty without adapters.
        training: whether adapters drop inner values now.
    """

    def __init__(self, clip: Clip, config: DpwConfig, attend: Attend):
        super().__init__(
            clip.model,
            attend,
            depth_vision=config.depth_vision,
            depth_text=config.depth_text,
            length_vision=config.length_vision,
            length_text=config.length_text,
        )
        self.config = config
        model = clip.model
        self._positions = {
            True: len(model.visual.positional_embedding),
            False: model.context_length,
        }
        self.score_statistics: list[dict[str, Tensor]] = []
        self.training = False
        self.down = {name: self._start_down(name) for name in self.places} if config.adapter else {}

    def _is_image(self, name: str) -> bool:
        return name.startswith("visual.")

    def _start_down(self, name: str) -> Float[Tensor, "width rank"]:
        attention = self.places[name]
        rank = self.config.adapter_rank or (64 if self.config.variant == "full" else 4)
        rank = min(rank, attention.embed_dim)
        if self.config.adapter_down == "svd":
            return singular_vectors(_value_weight(attention).T)[:, :rank].contiguous()
        frame = torch.randn(attention.embed_dim, rank, generator=seeded("dpw adapter", name))
        return torch.linalg.qr(frame)[0].to(attention.in_proj_weight)

    def grow_heads(self, generator: torch.Generator, image_heads: int, text_heads: int) -> None:
        """Add the prompts of the next task, with so many heads in each tower.

        Args:
            generator: a CPU generator for what starts at random.

        Raises:
            UserError: the heads do not divide the width, or need more directions than it has.
        """
        prompts: dict[str, nn.Parameter] = {}
        statistics: dict[str, Tensor] = {}
        for name, attention in self.places.items():
            heads = image_heads if self._is_image(name) else text_heads
            start = self._start(name, heads, generator)
            device = attention.in_proj_weight.device
            prompts |= {f"{name}.{part}": nn.Parameter(v.to(device)) for part, v in start.items()}
            if self.config.scores == "query_key":
                heads = attention.num_heads
            zero = torch.zeros(heads, self._lengths[name], device=device)
            statistics[name] = torch.stack((zero, zero + 1))
        self.tasks.append(prompts)
        self.score_statistics.append(statistics)

    def _start(self, name: str, heads: int, generator: torch.Generator) -> dict[str, Tensor]:
        attention, prompts = self.places[name], self._lengths[name]
        width = attention.embed_dim
        if width % heads or prompts * (heads if self.config.variant == "full" else 1) > width // (
            1 if self.config.variant == "full" else heads
        ):
            raise UserError(
                f"{heads} heads of {prompts} prompts do not fit a width of {width}: heads must divide "
                "it, and each needs directions of its own; set fewer heads or a shorter length"
            )
        query, key, value = attention.in_proj_weight.detach().float().chunk(3)
        length = value.norm(dim=0).mean()
        start = {"values": length * singular_vectors(value)[:, :prompts].T}
        if self.config.scores == "query_key":
            keys = torch.empty(1, prompts, width).uniform_(-1, 1, generator=generator)
            start |= {"score_weight": keys}
        else:
            start |= {
                "score_weight": self._start_score_weight(name, heads, generator, query @ key.T)
            }
            image = self._is_image(name)
            shape = (heads, self._positions[image], prompts)
            start |= {"score_bias": torch.full(shape, IMAGE_BIAS if image else TEXT_BIAS)}
        if self.config.adapter:
            rank = self.down[name].shape[1]
            up = _UP_SCALE * torch.randn(width, rank, generator=seeded("dpw up", name))
            start |= {"up": up, "up_bias": torch.zeros(width)}
        return {part: found.contiguous() for part, found in start.items()}

    def _start_score_weight(
        self, name: str, heads: int, generator: torch.Generator, query_key: Float[Tensor, "w w"]
    ) -> Float[Tensor, "heads channels p"]:
        prompts, width = self._lengths[name], len(query_key)
        if self.config.variant == "full":
            vectors = singular_vectors(query_key)[:, : heads * prompts]
            return vectors.unflatten(1, (heads, prompts)).transpose(0, 1)
        share = width // heads
        frames = torch.randn(heads, share, share, generator=generator)
        return torch.linalg.qr(frames)[0][:, :, :prompts]

    def prompts_at(self, task: int, name: str, weights: Float[Tensor, " n"] | None) -> Prefixes:
        """What `attend` gets."""
        own, config = self.tasks[task], self.config
        statistics = self.score_statistics[task][name]
        return Prefixes(
            values=own[f"{name}.values"],
            score_weight=own[f"{name}.score_weight"],
            score_bias=own.get(f"{name}.score_bias"),
            down=self.down.get(name),
            up=own.get(f"{name}.up"),
            up_bias=own.get(f"{name}.up_bias"),
            score_mean=statistics[0],
            score_variance=statistics[1],
            image_tower=self._is_image(name),
            activation=config.activation,
            dropout=config.adapter_dropout if self.training else 0.0,
            cut=None if weights is None else self.cut(weights),
        )

    def cut(self, weights: Float[Tensor, " n"]) -> Bool[Tensor, " n"] | None:
        """Which sequences have their weak prompts cut off; None: none has."""
        if self.config.cutoff == "off":
            return None
        if self.config.cutoff == "always":
            return torch.ones_like(weights, dtype=torch.bool)
        judged = weights if self.config.decision == "sample" else weights.mean().expand_as(weights)
        return judged < self.config.cutoff_threshold

    # Saving.

    def state_dict(self) -> dict[str, Tensor]:
        """ "<task>.<place>.<part>", "<task>.<place>.statistics" and "down.<place>"."""
        state = super().state_dict()
        for task, statistics in enumerate(self.score_statistics):
            state |= {f"{task}.{name}.statistics": value for name, value in statistics.items()}
        if self.tasks:
            state |= {f"down.{name}": value for name, value in self.down.items()}
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state_dict`.

        Raises:
            UserError: the prompts belong to another backbone or other settings.
        """
        heads = [key.split(".", 1)[0] for key in state]
        count = len(set(heads) - {"down"})
        expected: dict[str, tuple[int, ...]] = {}
        if count:
            expected |= {f"down.{name}": tuple(value.shape) for name, value in self.down.items()}
        for task in range(count):
            for name in self.places:
                expected |= self._shapes(task, name, state)
        self._check_shapes({key: tuple(value.shape) for key, value in state.items()}, expected)
        self.tasks, self.score_statistics = [], []
        for task in range(count):
            prompts, statistics = {}, {}
            for name, attention in self.places.items():
                prefix = f"{task}.{name}."
                for key in expected:
                    if not key.startswith(prefix):
                        continue
                    value = state[key].to(attention.in_proj_weight.device, torch.float32).clone()
                    if key.endswith(".statistics"):
                        statistics[name] = value
                    else:
                        prompts[key.split(".", 1)[1]] = nn.Parameter(value)
            self.tasks.append(prompts)
            self.score_statistics.append(statistics)
        if count:
            for name, value in self.down.items():
                self.down[name] = state[f"down.{name}"].to(value).clone()

    def _shapes(self, task: int, name: str, state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
        """Of a task's tensors at a place; the number of heads is read from the state."""
        width, prompts = self.places[name].embed_dim, self._lengths[name]
        affine = self.config.scores == "affine"
        found = state.get(f"{task}.{name}.score_weight")
        heads = len(found) if found is not None and found.ndim == 3 and len(found) else 1
        channels = width if self.config.variant == "full" else width // heads
        own = self.places[name].num_heads
        shapes: dict[str, tuple[int, ...]] = {
            "values": (prompts, width),
            "score_weight": (heads, channels, prompts) if affine else (1, prompts, width),
            "statistics": (2, heads if affine else own, prompts),
        }
        if affine:
            shapes["score_bias"] = (heads, self._positions[self._is_image(name)], prompts)
        if self.config.adapter:
            shapes |= {"up": (width, self.down[name].shape[1]), "up_bias": (width,)}
        return {f"{task}.{name}.{part}": shape for part, shape in shapes.items()}


def _value_weight(attention: nn.MultiheadAttention) -> Float[Tensor, "out in"]:
    return attention.in_proj_weight.detach().float().chunk(3)[2]


def singular_vectors(matrix: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows rank"]:
    """Left singular vectors, by falling singular value; the largest entry of each is positive."""
    vectors = torch.linalg.svd(matrix.float(), full_matrices=False)[0]
    largest = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True))
    return vectors * largest.sign()
