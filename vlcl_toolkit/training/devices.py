"""Device, precision, ranks and micro-batches of a run, by Lightning Fabric.

Fabric places the run, connects the processes that torchrun started, averages their gradients (DDP) and
scales those of fp16. `sharding.py` says which rank computes what.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision, Precision
from lightning_fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor, nn

from vlcl_toolkit.clip.model import Clip
from vlcl_toolkit.errors import UserError
from vlcl_toolkit.methods import Batch, Method
from vlcl_toolkit.sharding import (
    BatchSharding,
    in_process_group,
    process_group,
    sharded,
    started_by_torchrun,
)
from vlcl_toolkit.streams.pictures import decoding_threads
from vlcl_toolkit.training.backends import attention, compiled, deterministic, memory_advice
from vlcl_toolkit.training.execution import Execution

_LOG_EVERY = 20  # steps, where fetching a loss means waiting for the device


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

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        terms = self.method[0].loss(batch)
        return {name: value if name == "loss" else value.detach() for name, value in terms.items()}


class Devices:
    """What a run computes on.

    Attributes:
        rank, world_size: of this process, and how many processes there are.
        log_every: steps between two fetches of the losses.
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
        if wanted not in (None, found.world_size):
            raise UserError(_other_count(wanted, found.world_size, clip.device))
        self.rank, self.world_size = found.rank, found.world_size
        device = clip.device
        self.log_every = self.execution.log_every or (1 if device.type == "cpu" else _LOG_EVERY)
        self.workers = self.execution.workers
        if self.world_size > 1 and device.index not in (None, found.local_rank):
            raise UserError(
                f"each of {self.world_size} processes needs a GPU of its own; found --device {device} "
                "for all of them; use --device cuda"
            )
        index = [device.index or 0] if device.type != "cpu" else 1
        options: dict[str, Any] = {"devices": index}
        environment: Any = LightningEnvironment()
        if started_by_torchrun():  # one process takes the path of several
            options = {
                "devices": found.local_world_size,
                "num_nodes": found.world_size // found.local_world_size,
            }
            options["strategy"] = DDPStrategy(find_unused_parameters=not trains_all)
            environment = TorchElasticEnvironment()
        plugins = [environment, _precision(clip)]
        self.fabric = Fabric(accelerator=device.type, plugins=plugins, **options)
        _launch_quietly(self.fabric)
        self._module: tuple[Method, Any] | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes, prints and listens."""
        return self.rank == 0

    @property
    def precision(self) -> Precision:
        """Fabric's; its state belongs to a checkpoint."""
        return self.fabric.strategy.precision

    def sharding(self, images: int) -> BatchSharding | None:
        """Of a batch of `images`; None: one process computes it at once."""
        micro_batches = self.execution.accumulate
        if self.world_size == micro_batches == 1:
            return None
        return BatchSharding(images, self.rank, self.world_size, micro_batches)

    def set_up(self, method: Method) -> None:
        """Register the parameters that `method` trains now."""
        self._module = None  # before another one holds the same parameters
        module = self.fabric.setup_module(_Loss(method), move_to_device=False)
        self._module = method, module

    def backward(self, method: Method, batch: Batch) -> dict[str, Tensor]:
        """Terms of the loss of a batch; afterwards every parameter has the gradient of the whole batch."""
        if self._module is None or self._module[0] is not method:
            self.set_up(method)
        assert self._module is not None
        module, sharding = self._module[1], self.sharding(len(batch.labels))
        with sharded(sharding):
            with torch.no_grad():
                batch = method.prepare(batch)
            if sharding is None or sharding.micro_batches == 1:
                terms = module(batch)
                self.fabric.backward(terms["loss"] / self._fp16_loss_divisor)
            else:
                terms = self._in_micro_batches(sharding, module, batch)
        if self._fp16_loss_divisor > 1:
            grads = [value.grad for value in method.trainable().values() if value.grad is not None]
            torch._foreach_mul_(grads, self._fp16_loss_divisor)
        return {name: value.detach() for name, value in terms.items()}

    def _in_micro_batches(
        self, sharding: BatchSharding, module: Any, batch: Batch
    ) -> dict[str, Tensor]:
        state = self._random_state()
        with sharding.caching():
            terms = module.module(batch)
        for index in range(sharding.micro_batches):
            self._set_random_state(state)  # every pass samples the same random numbers
            silent = self.world_size > 1 and index < sharding.micro_batches - 1
            with (
                sharding.micro_batch(index),
                self.fabric.no_backward_sync(module, enabled=silent),
            ):
                loss = module(batch)["loss"] / (sharding.micro_batches * self._fp16_loss_divisor)
                self.fabric.backward(loss)
        return terms

    @property
    def _fp16_loss_divisor(self) -> int:
        # The gradient of local rows is larger by the number of ranks (sharding.py), which fp16 might not hold.
        return self.world_size if self.clip.precision == "fp16" else 1

    def _random_state(self) -> list[Tensor]:
        on_gpu = [torch.cuda.get_rng_state()] if self.clip.device.type == "cuda" else []
        return [torch.get_rng_state(), *on_gpu]

    def _set_random_state(self, state: list[Tensor]) -> None:
        torch.set_rng_state(state[0])
        if len(state) > 1:
            torch.cuda.set_rng_state(state[1])

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """The optimiser's step; skipped if fp16 gradients overflowed."""
        self.fabric.strategy.optimizer_step(optimizer)

    # Agreeing.

    def broadcast(self, value: Any) -> Any:
        """The value of rank 0, on all ranks."""
        return self.fabric.broadcast(value)

    def all_reduce_max(self, number: int) -> int:
        """The largest number of all ranks."""
        if self.world_size == 1:
            return number
        found = torch.tensor(number, device=self.clip.device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        self.fabric.barrier()

    # Modes of computing.

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """Context of a run: attention, determinism, advice when memory runs out."""
        device, execution = self.clip.device, self.execution
        with (
            in_process_group(self.rank, self.world_size),
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
