"""`vlcl recipe`: a paper's run, and its numbers beside the published ones."""

import math
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.table import Table

from vlcl_toolkit.cli.options import (
    AS_PUBLISHED,
    ONE_RUN,
    BackboneOptions,
    Data,
    Imports,
    LabelSpaceOption,
    Run,
    import_all,
    read_settings,
)
from vlcl_toolkit.errors import UserError

if TYPE_CHECKING:
    from vlcl_toolkit.experiments.published_results import Published
    from vlcl_toolkit.experiments.published_runs import Recipe
    from vlcl_toolkit.training.results import RunResult


@dataclass(frozen=True)
class RecipeBackbone(BackboneOptions):
    """Which CLIP, where and how it computes."""

    backbone: str = "the recipe's"
    """Any ViT CLIP of open_clip (with --pretrained or --checkpoint), or random weights for
    dry runs: random:ViT-B-16-quickgelu:depth=2,width=64 (also pixels=, dim=, seed=)."""

    def of(self, recipe: "Recipe") -> BackboneOptions:
        """What was given, and the recipe's for what was not."""
        if self.backbone != "the recipe's":
            return self
        own = replace(self, backbone=recipe.backbone)
        if self.pretrained is None and self.checkpoint is None:
            own = replace(own, pretrained=recipe.pretrained)
        return own


AS_RECIPE = RecipeBackbone()


def recipe(
    name: Annotated[str | None, tyro.conf.Positional] = None,
    backbone: Annotated[RecipeBackbone, tyro.conf.arg(name="")] = AS_RECIPE,
    files: Data = AS_PUBLISHED,
    imports: Imports = (),
    label_space: LabelSpaceOption = None,
    list: bool = False,
    stop_after: int | None = None,
    dry_run: bool = False,
    options: Run = ONE_RUN,
) -> None:
    """Run what a paper ran, and print the result beside the published one, with what keeps them from being comparable.

    Interrupt it at any time: the same command goes on where it stopped, and ends in the identical result.

    Args:
        name: Protocol and method, e.g. mtil-order-I/diki; --list shows them all.
        list: Show all recipes: training steps, published result, published cost.
        label_space: Among which classes a test image is classified instead: see `vlcl run --help`.
        imports: A module or a .py file to import before, e.g. one that replaces a part of a method.
        stop_after: Stop after this many tasks; the same command without it goes on.
        dry_run: All of it in minutes, on imitations of the data sets (--data): random weights, a few steps per task,
            files not verified; the numbers mean nothing.
    """
    if list:
        print_recipes()
        return
    if name is None:
        raise UserError("which recipe? none given; `vlcl recipe --list` shows them")
    from vlcl_toolkit.experiments import reproduce
    from vlcl_toolkit.experiments.published_runs import find_recipe

    import_all(imports)
    chosen, settings = find_recipe(name), read_settings(options.set)
    if dry_run:
        if backbone.backbone == AS_RECIPE.backbone:
            backbone = replace(backbone, backbone=reproduce.DRY_RUN_BACKBONE)
        settings = reproduce.dry_run_settings(chosen.method) | settings
        files = replace(files, unverified=True)
    chosen.config(settings)  # before eleven data sets are read
    stream, own = reproduce.recipe_stream(chosen, **files.options()), backbone.of(chosen)
    if label_space is not None:
        stream = stream.with_label_space(label_space, merge_shared_names=chosen.merge_shared_names)
    result = reproduce.run_recipe(
        chosen,
        stream=stream,
        clip=own.load(),
        settings=settings,
        stop_after=stop_after,
        seed=options.seed,
        out=options.out,
        probes=options.probes,
        execution=own.execution,
    )
    print_reproduction(result, chosen)


_COLUMNS = {
    "recipe": 35,
    "steps": 8,
    "Transfer": 8,
    "Average": 7,
    "Last": 6,
    "GPU hours": 9,
}  # 80 columns, with a blank between two


def print_recipes() -> None:
    """All recipes: title, training steps, published scores and cost."""
    from vlcl_toolkit.experiments.published_results import SCORES, published_for
    from vlcl_toolkit.experiments.published_runs import recipes, training_steps

    console, sources = Console(), dict[str, None]()
    console.print("Published scores in percent; ? means not verified, see the sources below.")
    for protocol, group in groupby(recipes().items(), key=lambda item: item[1].protocol):
        members = [*group]
        title = f"{protocol}: {members[0][1].title}"
        table = Table(title=title, box=None, title_justify="left", padding=(0, 1, 0, 0))
        for column, width in _COLUMNS.items():
            left = column == "recipe"
            table.add_column(column, justify="left" if left else "right", width=width, no_wrap=True)
        for name, each in members:
            entries, steps = published_for(protocol, each.variant), training_steps(each)
            scores = ["", "", ""]
            if entries:
                mark = "" if entries[0].verified else "?"
                scores = [_percent(entries[0].scores[score]) for score in SCORES]
                scores = [text + mark if text else "" for text in scores]
            hours = next((f"{entry.cost['gpu_hours']}?" for entry in entries if entry.cost), "")
            table.add_row(name, "unknown" if steps is None else f"{steps:,}", *scores, hours)
            sources |= {f"{name}: {entry.source}": None for entry in entries}
        console.print(table)
        console.print()
    console.print("Sources of the published figures:", soft_wrap=True)
    for source in sources:
        console.print(f"  {source}", soft_wrap=True, highlight=False)
    console.print(
        "GPU hours are quoted (third-party notes on NuSA-CL; the hardware is not told there); what this code needs on "
        "one GPU: docs/performance.md.",
        soft_wrap=True,
    )


def print_reproduction(result: "RunResult", recipe: "Recipe") -> None:
    """A run, then the same beside each published result, then the caveats."""
    from vlcl_toolkit.analysis.published import caveats
    from vlcl_toolkit.cli.tables import print_run
    from vlcl_toolkit.experiments.published_results import published_for

    print_run(result.folder)
    console = Console()
    if result.complete:
        for entry in published_for(recipe.protocol, recipe.variant):
            console.print(_comparison(result, entry))
    console.print("Before you compare:")
    for caveat in caveats(result, recipe):
        console.print(f"  - {caveat}", soft_wrap=True, highlight=False, markup=False)


def _comparison(result: "RunResult", entry: "Published") -> Table:
    from vlcl_toolkit.analysis.published import beside_published

    frame = beside_published(result, entry)
    sign = "verified" if entry.verified else "NOT verified"
    title = f"{entry.method}: this run beside {entry.id} ({sign}), percent"
    table = Table(title=title, box=None, caption=f"published: {entry.source}")
    table.add_column("", no_wrap=True)
    for score, whose in frame.columns:
        table.add_column(f"{score.capitalize()}\n{whose}", justify="right")
    for name, row in frame.iterrows():
        if name == "mean":
            table.add_section()
        table.add_row(str(name), *(_percent(value) for value in row))
    return table


def _percent(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.1f}"
