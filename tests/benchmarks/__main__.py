"""How fast training and testing are here: `python tests/benchmarks steps|mtil|savings`; --help explains."""

import json
import platform
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from pydantic import Field
from pydantic.dataclasses import dataclass

sys.path.insert(0, str(Path(__file__).parents[1]))

from vlcl_toolkit.cli.options import BackboneOptions
from vlcl_toolkit.settings import Count, Settings, Size

TRUE_SIZE = BackboneOptions(backbone="random:ViT-B-16-quickgelu")
Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class BenchOptions(Settings):
    """What is measured, and how much of it."""

    methods: tuple[str, ...] = ("finetune", "zscl", "moe_adapters", "diki")
    """Names of methods."""
    batch_sizes: tuple[Size, ...] = (64, 128)
    """Images per step (mtil: the method's own; savings: the first)."""
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    """Number formats to compare."""
    steps: Count = 8
    """Timed steps of each measurement."""
    scale: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Of the numbers of images and texts; 1: the true ones."""
    tasks: Count | None = None
    """mtil: only the first data sets."""


WHOLE = BenchOptions()


def bench(
    what: Annotated[Literal["steps", "mtil", "savings"], tyro.conf.Positional] = "steps",
    backbone: Annotated[BackboneOptions, tyro.conf.arg(name="")] = TRUE_SIZE,
    options: Annotated[BenchOptions, tyro.conf.arg(name="")] = WHOLE,
    out: Path = Path("runs/bench"),
) -> None:
    """Measure speed and memory here, with random weights and noise for images.

    steps: time of a training step, images per second, peak memory, and the share that a step reaches of the fastest
    matrix product measured on this device. mtil: the time of a whole MTIL run, order I, with the true numbers of
    images, classes, templates and steps; pieces are measured and multiplied. savings: exact savings, with and without,
    in turn.
    Every call adds to one file, so that a few short calls make one table.

    Args:
        what: steps, mtil or savings.
        out: Folder of <what>.jsonl.
    """
    table = {"steps": _steps, "mtil": _mtil, "savings": _savings}[what]
    path = out / f"{what}.jsonl"
    where: dict[str, Any] = {}
    for row in table(backbone, options):
        where = where or _where(backbone)
        _append(path, {**where, **row})
        print("  ".join(f"{key} {_short(value)}" for key, value in row.items()), flush=True)
    print(f"added to {path}")


def _steps(backbone: BackboneOptions, options: BenchOptions) -> Any:
    import torch
    from benchmarks.measure import peak_rate
    from benchmarks.steps import measure_steps

    from vlcl_toolkit.errors import UserError

    for precision in options.precisions:
        clip = replace(backbone, precision=precision).load()
        peak = peak_rate(precision, clip.device)
        yield {"precision": precision, "matmul_tflops": peak / 1e12}
        for method in options.methods:
            for batch_size in options.batch_sizes:
                try:
                    yield measure_steps(
                        method,
                        clip,
                        batch_size=batch_size,
                        steps=options.steps,
                        peak=peak,
                        execution=backbone.execution,
                        scale=options.scale,
                    )
                except UserError as error:
                    if not isinstance(error.__cause__, torch.OutOfMemoryError):
                        raise
                    tried = {"method": method, "precision": precision, "batch_size": batch_size}
                    yield tried | {"step_ms": None, "problem": "out of memory"}


def _mtil(backbone: BackboneOptions, options: BenchOptions) -> Any:
    from benchmarks.simulate import simulate

    for precision in options.precisions:
        clip = replace(backbone, precision=precision).load()
        for method in options.methods:
            cost = simulate(
                method,
                clip,
                backbone.execution,
                steps=options.steps,
                scale=options.scale,
                tasks=options.tasks,
            )
            hours = {"hours": cost.total / 3600}
            yield hours | {k: v for k, v in asdict(cost).items() if k != "by_task"}


def _savings(backbone: BackboneOptions, options: BenchOptions) -> Any:
    from benchmarks.savings import measure_savings

    clip = replace(backbone, precision="fp32").load()
    yield from measure_savings(
        clip, batch_size=options.batch_sizes[0], scale=options.scale, repeats=options.steps
    )


def _where(backbone: BackboneOptions) -> dict[str, Any]:
    import torch

    from vlcl_toolkit.clip.model import find_device

    device = find_device(backbone.device)
    on_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_gpu else platform.processor() or "CPU"
    threads = {} if on_gpu else {"threads": torch.get_num_threads()}
    return {"device": name, **threads, "torch": torch.__version__, "backbone": backbone.backbone}


def _append(path: Path, row: dict[str, Any]) -> None:
    from vlcl_toolkit.files import make_folder, write_atomic

    make_folder(path.parent)
    before = path.read_bytes() if path.is_file() else b""
    write_atomic(path, before + json.dumps(row).encode() + b"\n")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    from vlcl_toolkit.cli import run_command

    sys.exit(run_command(bench))
