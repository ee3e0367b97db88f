"""Device, precision, processes and portions of a run, by Lightning Fabric.

Fabric places the run, connects the processes that torchrun started, averages their gradients (DDP) and
scales those of fp16. `division.py` says which process computes what.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int64
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision, Precision
from lightning_fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor, nn

from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.methods import Method
from vlcl_toolkit.sharding import BatchSharding, in_process_group, process_group, sharded
from vlcl_toolkit.streams.pictures import decoding_threads
from vlcl_toolkit.training.backends import attention, compiled, deterministic, memory_advice
from vlcl_toolkit.training.execution import Execution

_LOG_EVERY = 20  # steps, where looking at a loss means waiting for the device


class TowerPrecision(MixedPrecision):
    """Fabric's mixed precision for a model whose towers alone run in it (`Clip.autocast`).

    Losses stay in float32; fp16 gradients are scaled.
    """

    def forward_context(self) -> contextlib.AbstractContextManager:
        """The towers do it."""
        return contextlib.nullcontext()

    def convert_input(self, data: Any) -> Any:
        """As it is."""
        return data

    def convert_output(self, data: Any) -> Any:
        """As it is."""
        return data

    def unscale_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        """Also for optimisers that could do it in their step: `after_backward` comes before it."""
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)


class _Loss(nn.Module):
    # What Fabric sets up: the loss of a method as a function of what it trains.

    def __init__(self, method: Method):
        super().__init__()
        self.method = [method]  # in a list: no sub-module
        self.trained = nn.ParameterList(method.trainable().values())

    def forward(self, images: Tensor, labels: Tensor, step: int) -> dict[str, Tensor]:
        terms = self.method[0].loss(images, labels, step)
        return {name: value if name == "loss" else value.detach() for name, value in terms.items()}


class Devices:
    """What a run computes on.

    Attributes:
        process, processes: of this process, and how many there are.
        log_every: steps between two looks at the losses.
        workers: as in `Execution`.
    """

    def __init__(self, clip: Clip, execution: Execution | None = None, *, trains_all: bool = False):
        """Connect the processes.

        Args:
            trains_all: as in `Method`.

        Raises:
            UserError: the devices asked for are not there, or not what torchrun started.
        """
        self.clip, self.execution = clip, execution or Execution()
        found = process_group()
        wanted = self.execution.devices
        if wanted not in (None, found.world):
            raise UserError(_other_count(wanted, found.world, clip.device))
        self.process, self.processes = found.rank, found.world
        device = clip.device
        self.log_every = self.execution.log_every or (1 if device.type == "cpu" else _LOG_EVERY)
        self.workers = self.execution.workers
        if self.processes > 1 and device.index not in (None, found.local_rank):
            raise UserError(
                f"each of {self.processes} processes takes a GPU of its own; found --device {device} "
                "for all of them; use --device cuda"
            )
        index = [device.index or 0] if device.type != "cpu" else 1
        options: dict[str, Any] = {"devices": index}
        environment: Any = LightningEnvironment()
        if self.processes > 1:
            options = {"devices": found.local_world, "num_nodes": found.world // found.local_world}
            options["strategy"] = DDPStrategy(find_unused_parameters=not trains_all)
            environment = TorchElasticEnvironment()
        plugins = [environment, _precision(clip)]
        self.fabric = Fabric(accelerator=device.type, plugins=plugins, **options)
        _launch_quietly(self.fabric)
        self._module: tuple[Method, Any] | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes, prints and listens."""
        return self.process == 0

    @property
    def precision(self) -> Precision:
        """Fabric's; its state belongs to a checkpoint."""
        return self.fabric.strategy.precision

    def division(self, images: int) -> BatchSharding | None:
        """Of a batch of `images`; None: one process computes it at once."""
        portions = self.execution.accumulate
        if self.processes == portions == 1:
            return None
        return BatchSharding(images, self.process, self.processes, portions)

    def set_up(self, method: Method) -> None:
        """Take hold of what `method` trains now."""
        self._module = None  # before another one holds the same parameters
        module = self.fabric.setup_module(_Loss(method), move_to_device=False)
        self._module = method, module

    def backward(
        self,
        method: Method,
        images: Float[Tensor, "part 3 h w"],
        labels: Int64[Tensor, " b"],
        step: int,
    ) -> dict[str, Tensor]:
        """Terms of the loss of a batch; afterwards every parameter has the gradient of the whole batch."""
        if self._module is None or self._module[0] is not method:
            self.set_up(method)
        assert self._module is not None
        module, division = self._module[1], self.division(len(labels))
        with sharded(division):
            if division is None or division.portions == 1:
                terms = module(images, labels, step)
                self.fabric.backward(terms["loss"] / self._held_back)
            else:
                terms = self._in_portions(division, module, (images, labels, step))
        if self._held_back > 1:
            grads = [value.grad for value in method.trainable().values() if value.grad is not None]
            torch._foreach_mul_(grads, self._held_back)
        return {name: value.detach() for name, value in terms.items()}

    def _in_portions(
        self, division: BatchSharding, module: Any, batch: tuple[Tensor, Tensor, int]
    ) -> dict[str, Tensor]:
        state = self._random_state()
        with division.recording():
            terms = module.module(*batch)
        for index in range(division.portions):
            self._set_random_state(state)  # every pass draws the numbers of the whole batch
            silent = self.processes > 1 and index < division.portions - 1
            with (
                division.portion(index),
                self.fabric.no_backward_sync(module, enabled=silent),
            ):
                loss = module(*batch)["loss"] / (division.portions * self._held_back)
                self.fabric.backward(loss)
        return terms

    @property
    def _held_back(self) -> int:
        # The gradient of own rows is larger by the number of processes (division.py), which fp16 might not hold.
        return self.processes if self.clip.precision == "fp16" else 1

    def _random_state(self) -> list[Tensor]:
        on_gpu = [torch.cuda.get_rng_state()] if self.clip.device.type == "cuda" else []
        return [torch.get_rng_state(), *on_gpu]

    def _set_random_state(self, state: list[Tensor]) -> None:
        torch.set_rng_state(state[0])
        if len(state) > 1:
            torch.cuda.set_rng_state(state[1])

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """The optimiser's step; one whose fp16 gradients overflowed is left out."""
        self.fabric.strategy.optimizer_step(optimizer)

    # Agreeing.

    def broadcast(self, value: Any) -> Any:
        """What the first process says, on all of them."""
        return self.fabric.broadcast(value)

    def all_reduce_max(self, number: int) -> int:
        """The largest of the processes' numbers."""
        if self.processes == 1:
            return number
        found = torch.tensor(number, device=self.clip.device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def barrier(self) -> None:
        """Until all processes are here."""
        self.fabric.barrier()

    # Modes of computing.

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """Context of a run: attention, determinism, advice when memory runs out."""
        device, execution = self.clip.device, self.execution
        with (
            in_process_group(self.process, self.processes),
            decoding_threads(self.workers),
            attention(execution.attention),
            deterministic(device, execution.determinism),
            memory_advice(device),
        ):
            yield

    def compiled(self) -> contextlib.AbstractContextManager:
        """Context in which both towers are compiled, if that is wanted; the method is attached."""
        return compiled(self.clip.model) if self.execution.compile else contextlib.nullcontext()


def _launch_quietly(fabric: Fabric) -> None:
    log = logging.getLogger("lightning_fabric")  # every process would announce itself
    level = log.level
    log.setLevel(logging.WARNING)
    fabric.launch()
    log.setLevel(level)


def _precision(clip: Clip) -> Precision:
    if clip.precision == "fp32":
        return Precision()
    if clip.precision == "bf16":
        return TowerPrecision("bf16-mixed", clip.device.type)
    scaler = torch.amp.GradScaler(clip.device.type)
    return TowerPrecision("16-mixed", clip.device.type, scaler)


def _other_count(wanted: int | None, started: int, device: torch.device) -> str:
    there = torch.cuda.device_count() if device.type == "cuda" else os.cpu_count() or 1
    kind = "GPU" if device.type == "cuda" else "CPU core"
    if wanted is not None and wanted > there and started == 1:
        return f"{wanted} devices asked for; this machine has {there} {kind}(s); lower --devices"
    return (
        f"{wanted} devices need {wanted} processes; found {started}; start them with torchrun "
        f"--nproc-per-node {wanted} -m vlcl_toolkit.cli ..., or lower --devices"
    )
