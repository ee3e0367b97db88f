"""One batch on several ranks, or in micro-batches one after another: each computes its own rows.

The rule inside `sharded(...)`:

1. `load_batch` gives a rank its own images; labels, texts and random numbers are global.
2. A tower computes the local rows. Its output is gathered, so that every rank goes on with the
   features of the whole batch and computes the loss of the whole batch, whatever that couples.
3. In the backward pass the gradient of the gathered features is cut to the local rows, times the
   number of parts. The mean over the parts (DDP's over ranks; over micro-batches their sum divided
   by their number) then is the gradient of the whole batch, also for what every part computes
   alike. Parts need not be equal.

Micro-batches (gradient caching; Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under
Memory Limited Setup") need the features of the whole batch first: one pass without a graph caches
them (`caching`), then every micro-batch computes its own rows again, with a graph (`micro_batch`).
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

_current: ContextVar["BatchSharding | None"] = ContextVar("sharding", default=None)


def shard_bounds(total: int, index: int, parts: int) -> tuple[int, int]:
    """First row and end of part `index` of `total` rows; sizes differ by one at most."""
    return total * index // parts, total * (index + 1) // parts


class Rows(NamedTuple):
    """Rows of a global batch of `total` that are computed here.

    Attributes:
        in_batch: which rows of the global batch. `in_rank`: the same, counted from this rank's first.
        ranks, micro_batches: how many parts there are (1: everyone computes all).
    """

    total: int
    in_batch: slice
    in_rank: slice
    ranks: int
    micro_batches: int


class BatchSharding:
    """Who computes which rows of one batch.

    Args:
        images: of the global batch.
        rank, world_size: of this process, and how many processes there are.
        micro_batches: how many a rank splits its rows into; at most its number of images.
    """

    def __init__(self, images: int, rank: int = 0, world_size: int = 1, micro_batches: int = 1):
        self.images, self.rank, self.world_size = images, rank, world_size
        self.micro_batches = max(1, min(micro_batches, images // world_size))
        self._caching = False
        self._micro_batch: int | None = None
        self._cached: list[Tensor] = []
        self._next = 0
        self._rows: Rows | None = None  # of the tower that runs now

    def local_rows(self, total: int) -> slice:
        """Rows of this rank; all of them if there are fewer than ranks."""
        if total < self.world_size:
            return slice(0, total)
        return slice(*shard_bounds(total, self.rank, self.world_size))

    def rows(self, total: int) -> Rows:
        """Rows that a tower computes now; it is split into micro-batches only to build a graph."""
        local = self.local_rows(total)
        ranks = self.world_size if total >= self.world_size else 1
        count = local.stop - local.start
        if self._micro_batch is None or total // ranks < self.micro_batches:
            return Rows(total, local, slice(0, count), ranks, 1)
        start, stop = shard_bounds(count, self._micro_batch, self.micro_batches)
        in_batch = slice(local.start + start, local.start + stop)
        return Rows(total, in_batch, slice(start, stop), ranks, self.micro_batches)

    @contextlib.contextmanager
    def caching(self) -> Iterator[None]:
        """Context: towers run without a graph; their outputs are cached for the micro-batches."""
        self._caching, self._cached = True, []
        try:
            yield
        finally:
            self._caching = False

    @contextlib.contextmanager
    def micro_batch(self, index: int) -> Iterator[None]:
        """Context: towers compute micro-batch `index`; the other rows come from the cache."""
        self._micro_batch, self._next = index, 0
        try:
            yield
        finally:
            self._micro_batch = None

    def run(self, tower: Callable[[Tensor], Tensor], inputs: Tensor, total: int) -> Tensor:
        """Output of `tower` for the global batch; `inputs` are the rows of this rank."""
        local = self.local_rows(total)
        if len(inputs) != local.stop - local.start:
            raise ValueError(
                f"rank {self.rank} of {self.world_size} has {local.stop - local.start} of "
                f"{total} rows; found {len(inputs)}; load them with load_batch, or give their total"
            )
        graph, micro_batch = torch.is_grad_enabled(), self._micro_batch
        if not graph:  # e.g. a teacher: never in micro-batches
            self._micro_batch = None
        caching, self._caching = self._caching, self._caching and graph
        self._rows = self.rows(total)
        try:
            with torch.set_grad_enabled(graph and not caching):
                return self.all_gather(tower(inputs[self._rows.in_rank]))
        finally:
            self._rows, self._caching, self._micro_batch = None, caching, micro_batch

    def all_gather(self, local: Shaped[Tensor, "local *rest"]) -> Shaped[Tensor, "total *rest"]:
        """The rows of all ranks and micro-batches."""
        rows = self._rows
        assert rows is not None, "a tower is running"
        if self._micro_batch is not None and not self._caching:
            cached = self._cached[self._next]
            self._next += 1
            if rows.micro_batches == 1 and rows.ranks == 1:
                return local
            return _AllGather.apply(local, cached, rows)
        gathered = local if rows.ranks == 1 else _AllGather.apply(local, None, rows)
        if self._caching:
            self._cached.append(gathered)
        return gathered

    def sum_counts(self, counts: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
        """Counts over local rows, summed over ranks; 0 in a pass that caches or repeats rows."""
        rows = self._rows
        repeated = self._micro_batch is not None and rows is not None and rows.micro_batches == 1
        if self._caching or (repeated and self._micro_batch != 0):
            return torch.zeros_like(counts)
        if rows is not None and rows.ranks > 1:
            dist.all_reduce(counts)
        return counts


class _AllGather(torch.autograd.Function):
    """Step 2, and step 3 in the backward pass."""

    @staticmethod
    def forward(ctx: Any, local: Tensor, cached: Tensor | None, rows: Rows) -> Tensor:
        ctx.rows = rows
        if cached is None:
            return all_gather_rows(local, rows.total, rows.ranks)
        gathered = cached.clone()
        gathered[rows.in_batch] = local
        return gathered

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        factor = ctx.rows.ranks * ctx.rows.micro_batches
        return gradients[0][ctx.rows.in_batch] * factor, None, None


def all_gather_rows(
    local: Shaped[Tensor, "local *rest"], total: int, ranks: int
) -> Shaped[Tensor, "total *rest"]:
    """The rows of all ranks, in the order of the ranks; no gradient."""
    most = -(-total // ranks)
    padded = local.new_zeros(most, *local.shape[1:])
    padded[: len(local)] = local.detach()
    parts = [torch.empty_like(padded) for _ in range(ranks)]
    dist.all_gather(parts, padded)
    sizes = [stop - start for start, stop in (shard_bounds(total, i, ranks) for i in range(ranks))]
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


@contextlib.contextmanager
def sharded(sharding: BatchSharding | None) -> Iterator[None]:
    """Context in which the rule at the head of this file holds; None: nothing is sharded."""
    token = _current.set(sharding)
    try:
        yield
    finally:
        _current.reset(token)


def is_sharded() -> bool:
    """Whether batches are sharded here."""
    return _current.get() is not None


def local_images(total: int) -> slice:
    """Which of `total` images this rank loads."""
    sharding = _current.get()
    return slice(0, total) if sharding is None else sharding.local_rows(total)


@contextlib.contextmanager
def other_batch(total: int) -> Iterator[None]:
    """Context: images belong to another batch than the labelled one, of `total` images."""
    sharding = _current.get()
    if sharding is None:
        yield
        return
    before, sharding.images = sharding.images, total
    try:
        yield
    finally:
        sharding.images = before


def run_sharded(tower: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """`tower(inputs)` of the global batch; every rank and micro-batch computes its part.

    Args:
        inputs: the rows of this rank, loaded by `load_batch`; see `other_batch`.
    """
    sharding = _current.get()
    if sharding is None:
        return tower(inputs)
    total = len(inputs) if sharding.world_size == 1 else sharding.images
    return sharding.run(tower, inputs, total)


def run_sharded_global(tower: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """As `run_sharded`, for inputs that every rank has all of."""
    sharding = _current.get()
    if sharding is None:
        return tower(inputs)
    return sharding.run(tower, inputs[sharding.local_rows(len(inputs))], len(inputs))


def gather_rows(local: Shaped[Tensor, "local *rest"]) -> Shaped[Tensor, "total *rest"]:
    """Inside a tower: the global rows of a value with one row per input, for a loss that sums over rows."""
    sharding = _current.get()
    return local if sharding is None else sharding.all_gather(local)


def sum_counts(counts: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """Inside a tower: counts over the rows of the global batch."""
    sharding = _current.get()
    return counts if sharding is None else sharding.sum_counts(counts)


def local_random(
    sample: Callable[..., Tensor], like: Float[Tensor, "local *rest"]
) -> Float[Tensor, "local *rest"]:
    """Inside a tower: the local rows of random numbers that are sampled for the global batch.

    Args:
        sample: torch.randn or torch.rand.
    """
    sharding = _current.get()
    rows = None if sharding is None else sharding._rows
    if rows is None or rows.in_batch == slice(0, rows.total):
        return sample(like.shape, dtype=like.dtype, device=like.device)
    everywhere = sample((rows.total, *like.shape[1:]), dtype=like.dtype, device=like.device)
    return everywhere[rows.in_batch]


_group: ContextVar[tuple[int, int]] = ContextVar("process_group", default=(0, 1))


class ProcessGroup(NamedTuple):
    """The place of this process among those of a run.

    Attributes:
        rank, world_size: its number, and how many there are.
        local_rank, local_world_size: the same on this machine.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1


def started_by_torchrun() -> bool:
    """Whether this process is one of a group, be it the only one."""
    return dist.is_available() and dist.is_torchelastic_launched()


def process_group() -> ProcessGroup:
    """As torchrun says; without torchrun: one process."""
    if not started_by_torchrun():
        return ProcessGroup()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return ProcessGroup(*(int(os.environ[name]) for name in names))


@contextlib.contextmanager
def in_process_group(rank: int, world_size: int) -> Iterator[None]:
    """Context of a run, for `gather_predictions`."""
    token = _group.set((rank, world_size))
    try:
        yield
    finally:
        _group.reset(token)


def gather_predictions(
    batches: Sequence[Tensor], predict: Callable[[Tensor], Tensor], device: torch.device
) -> Int64[Tensor, " n"]:
    """Predicted labels of images, on the CPU; the ranks of a run share the batches.

    Args:
        batches: the indices of each batch, 0 .. n - 1 in order.
        predict: indices -> labels, int64.
    """
    rank, world_size = _group.get()
    if world_size == 1:
        empty = torch.empty(0, dtype=torch.int64)
        return torch.cat([empty, *(predict(batch).cpu() for batch in batches)])
    labels = torch.zeros(sum(map(len, batches)), dtype=torch.int64, device=device)
    for batch in batches[rank::world_size]:
        labels[batch.to(device)] = predict(batch).to(device)
    dist.all_reduce(labels)
    return labels.cpu()
