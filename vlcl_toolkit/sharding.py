"""One batch on several processes, or in portions one after another: each computes its own rows.

The rule inside `sharded(...)`:

1. `load_batch` gives a process its own images; labels, texts and random numbers are whole everywhere.
2. A tower computes its own rows. What comes out of it is joined, so that every process goes on with
   the features of the whole batch and computes the loss of the whole batch, whatever that couples.
3. Going back, the gradient of the joined features is cut to the own rows, times the number of
   parts. The mean over the parts (DDP's; the sum over portions divided by their number) then is the
   gradient of the whole batch, also for what every part computes alike. Parts need not be equal.

Portions (gradient accumulation; Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under
Memory Limited Setup") need the features of the whole batch first: one pass without a graph records
them (`recording`), then every portion computes its own rows again, with a graph (`portion`).
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

_current: ContextVar["BatchSharding | None"] = ContextVar("division", default=None)


def shard_bounds(total: int, index: int, parts: int) -> tuple[int, int]:
    """First row and end of part `index` of `total` rows; sizes differ by one at most."""
    return total * index // parts, total * (index + 1) // parts


class Rows(NamedTuple):
    """Rows of a whole batch of `total` that are computed here.

    Attributes:
        own: which of the whole. `here`: the same, counted from the first row of this process.
        processes, portions: how many parts there are (1: everyone computes all).
    """

    total: int
    own: slice
    here: slice
    processes: int
    portions: int


class BatchSharding:
    """Who computes which rows of one batch.

    Args:
        images: of the whole batch.
        process, processes: of this process, and how many there are.
        portions: how many portions a process takes its rows in; at most its number of images.
    """

    def __init__(self, images: int, process: int = 0, processes: int = 1, portions: int = 1):
        self.images, self.process, self.processes = images, process, processes
        self.portions = max(1, min(portions, images // processes))
        self._recording = False
        self._portion: int | None = None
        self._recorded: list[Tensor] = []
        self._next = 0
        self._rows: Rows | None = None  # of the tower that runs now

    def local_rows(self, total: int) -> slice:
        """Rows of this process; all of them if there are fewer than processes."""
        if total < self.processes:
            return slice(0, total)
        return slice(*shard_bounds(total, self.process, self.processes))

    def rows(self, total: int) -> Rows:
        """Rows that a tower computes now; portions take part in building a graph alone."""
        mine = self.local_rows(total)
        processes = self.processes if total >= self.processes else 1
        count = mine.stop - mine.start
        if self._portion is None or total // processes < self.portions:
            return Rows(total, mine, slice(0, count), processes, 1)
        start, stop = shard_bounds(count, self._portion, self.portions)
        own = slice(mine.start + start, mine.start + stop)
        return Rows(total, own, slice(start, stop), processes, self.portions)

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Context: towers run without a graph, and their outputs are kept for the portions."""
        self._recording, self._recorded = True, []
        try:
            yield
        finally:
            self._recording = False

    @contextlib.contextmanager
    def portion(self, index: int) -> Iterator[None]:
        """Context: towers compute portion `index`; the other rows are those recorded."""
        self._portion, self._next = index, 0
        try:
            yield
        finally:
            self._portion = None

    def run(self, tower: Callable[[Tensor], Tensor], inputs: Tensor, total: int) -> Tensor:
        """Output of `tower` for the whole batch; `inputs` are the rows of this process."""
        mine = self.local_rows(total)
        if len(inputs) != mine.stop - mine.start:
            raise ValueError(
                f"process {self.process} of {self.processes} has {mine.stop - mine.start} of "
                f"{total} rows; found {len(inputs)}; load them with load_batch, or say their total"
            )
        graph, portion = torch.is_grad_enabled(), self._portion
        if not graph:  # e.g. a teacher: never in portions
            self._portion = None
        recording, self._recording = self._recording, self._recording and graph
        self._rows = self.rows(total)
        try:
            with torch.set_grad_enabled(graph and not recording):
                return self.join(tower(inputs[self._rows.here]))
        finally:
            self._rows, self._recording, self._portion = None, recording, portion

    def join(self, own: Shaped[Tensor, "own *rest"]) -> Shaped[Tensor, "total *rest"]:
        """The whole of what every process and portion has for its own rows."""
        rows = self._rows
        assert rows is not None, "a tower is running"
        if self._portion is not None and not self._recording:
            recorded = self._recorded[self._next]
            self._next += 1
            if rows.portions == 1 and rows.processes == 1:
                return own
            return _AllGather.apply(own, recorded, rows)
        whole = own if rows.processes == 1 else _AllGather.apply(own, None, rows)
        if self._recording:
            self._recorded.append(whole)
        return whole

    def sum(self, counts: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
        """Counts of the own rows, added over processes; of a recording or a repetition: 0."""
        rows = self._rows
        repeated = self._portion is not None and rows is not None and rows.portions == 1
        if self._recording or (repeated and self._portion != 0):
            return torch.zeros_like(counts)
        if rows is not None and rows.processes > 1:
            dist.all_reduce(counts)
        return counts


class _AllGather(torch.autograd.Function):
    """Step 2, and step 3 on the way back."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, recorded: Tensor | None, rows: Rows) -> Tensor:
        ctx.rows = rows
        if recorded is None:
            return all_gather_rows(own, rows.total, rows.processes)
        whole = recorded.clone()
        whole[rows.own] = own
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        factor = ctx.rows.processes * ctx.rows.portions
        return gradients[0][ctx.rows.own] * factor, None, None


def all_gather_rows(
    own: Shaped[Tensor, "own *rest"], total: int, processes: int
) -> Shaped[Tensor, "total *rest"]:
    """The rows of all processes, one process after another; no gradient."""
    most = -(-total // processes)
    padded = own.new_zeros(most, *own.shape[1:])
    padded[: len(own)] = own.detach()
    parts = [torch.empty_like(padded) for _ in range(processes)]
    dist.all_gather(parts, padded)
    sizes = [
        stop - start
        for start, stop in (shard_bounds(total, i, processes) for i in range(processes))
    ]
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


@contextlib.contextmanager
def sharded(division: BatchSharding | None) -> Iterator[None]:
    """Context in which the rule at the head of this file holds; None: everything is whole."""
    token = _current.set(division)
    try:
        yield
    finally:
        _current.reset(token)


def is_sharded() -> bool:
    """Whether batches are divided here."""
    return _current.get() is not None


def local_images(total: int) -> slice:
    """Which of `total` images this process loads."""
    division = _current.get()
    return slice(0, total) if division is None else division.local_rows(total)


@contextlib.contextmanager
def other_batch(total: int) -> Iterator[None]:
    """Context: images belong to another batch than the labelled one, of `total` images."""
    division = _current.get()
    if division is None:
        yield
        return
    before, division.images = division.images, total
    try:
        yield
    finally:
        division.images = before


def run_sharded(tower: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """`tower(inputs)` of the whole batch, every process and portion computing its part.

    Args:
        inputs: the rows of this process, loaded by `load_batch`; see `other_batch`.
    """
    division = _current.get()
    if division is None:
        return tower(inputs)
    return division.run(tower, inputs, len(inputs) if division.processes == 1 else division.images)


def run_sharded_global(tower: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """As `divided`, for inputs that every process has all of."""
    division = _current.get()
    if division is None:
        return tower(inputs)
    return division.run(tower, inputs[division.local_rows(len(inputs))], len(inputs))


def gather_rows(own: Shaped[Tensor, "own *rest"]) -> Shaped[Tensor, "total *rest"]:
    """Inside a tower: the whole of something that has a row per input, for a loss that sums over rows."""
    division = _current.get()
    return own if division is None else division.join(own)


def sum_counts(counts: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """Inside a tower: counts over the rows of the whole batch."""
    division = _current.get()
    return counts if division is None else division.sum(counts)


def local_random(
    draw: Callable[..., Tensor], like: Float[Tensor, "own *rest"]
) -> Float[Tensor, "own *rest"]:
    """Inside a tower: the own rows of random numbers that are drawn for the whole batch.

    Args:
        draw: torch.randn or torch.rand.
    """
    division = _current.get()
    rows = None if division is None else division._rows
    if rows is None or rows.own == slice(0, rows.total):
        return draw(like.shape, dtype=like.dtype, device=like.device)
    whole = draw((rows.total, *like.shape[1:]), dtype=like.dtype, device=like.device)
    return whole[rows.own]


_team: ContextVar[tuple[int, int]] = ContextVar("team", default=(0, 1))


class ProcessGroup(NamedTuple):
    """This process among those of a run.

    Attributes:
        rank, world: its number, and how many there are. local_rank, local_world: on this machine.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1


def process_group() -> ProcessGroup:
    """As torchrun tells it; without torchrun: one process."""
    if not dist.is_available() or not dist.is_torchelastic_launched():
        return ProcessGroup()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return ProcessGroup(*(int(os.environ[name]) for name in names))


@contextlib.contextmanager
def in_process_group(process: int, processes: int) -> Iterator[None]:
    """Context of a run: this process and how many there are, for `spread`."""
    token = _team.set((process, processes))
    try:
        yield
    finally:
        _team.reset(token)


def gather_predictions(
    parts: Sequence[Tensor], answer: Callable[[Tensor], Tensor], device: torch.device
) -> Int64[Tensor, " n"]:
    """Labels of images, on the CPU; the processes of a run take turns with the batches.

    Args:
        parts: the indices of each batch, 0 .. n - 1 in order.
        answer: indices -> labels, int64.
    """
    process, processes = _team.get()
    if processes == 1:
        return torch.cat(
            [torch.empty(0, dtype=torch.int64), *(answer(part).cpu() for part in parts)]
        )
    labels = torch.zeros(sum(map(len, parts)), dtype=torch.int64, device=device)
    for part in parts[process::processes]:
        labels[part.to(device)] = answer(part).to(device)
    dist.all_reduce(labels)
    return labels.cpu()
