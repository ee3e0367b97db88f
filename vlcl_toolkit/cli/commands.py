"""What each command does; tyro makes options and help of the signatures and docstrings."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from vlcl_toolkit.cli.data import data
from vlcl_toolkit.cli.options import (
    DEFAULT,
    EMBEDDED,
    ONE_RUN,
    Backbone,
    Chosen,
    KeyValues,
    Run,
    read_settings,
    read_value,
)
from vlcl_toolkit.cli.recipe import recipe
from vlcl_toolkit.errors import UserError


def run(
    method: str,
    sources: Chosen = DEFAULT,
    order: str | None = None,
    few_shot: int | None = None,
    options: Run = ONE_RUN,
) -> None:
    """Learn the tasks of a stream one after another with one method, and test all of them after each.

    Interrupt it at any time: the same command goes on where it stopped, and ends in the identical result.

    Args:
        method: Name of the method, e.g. finetune.
        order: Task names or indices, comma-separated, each once; "reversed" or "alphabetical".
        few_shot: Training images per class; all by default.
    """
    from vlcl_toolkit.cli.tables import print_run
    from vlcl_toolkit.training.loop import run as run_method

    chosen = sources.load_stream()
    if order is not None:
        chosen = chosen.reorder(order)
    if few_shot is not None:
        chosen = chosen.few_shot(few_shot, seed=options.seed)
    result = run_method(
        method,
        chosen,
        sources.backbone.load(),
        seed=options.seed,
        out=options.out,
        config=read_settings(options.set),
        probes=options.probes,
        execution=sources.backbone.execution,
    )
    print_run(result.folder)


def compare(
    sources: Chosen = DEFAULT,
    methods: tuple[str, ...] = ("all",),
    seeds: tuple[int, ...] = (0,),
    orders: tuple[str, ...] = (),
    alone: bool = False,
    out: Path | None = None,
    jobs: int | None = None,
    probes: bool = False,
    cluster: Literal["slurm", "local"] | None = None,
    cluster_set: KeyValues = (),
) -> None:
    """Run several methods over seeds and orders; print and write one table, and figures.

    Give the same command again after an interruption: finished runs are read, the others go on where they were.

    Args:
        methods: Names, or "all": zero-shot and every method with a preset for the backbone.
        seeds: One run of each method per seed.
        orders: Task orders, each as for `vlcl run --order`; default: the stream's own.
        alone: Instead, let each method learn every task alone from the frozen CLIP.
        out: Folder of table and figures; default: runs/<stream>/comparison, or
            comparison-<label space>. The runs lie in their own folders.
        jobs: Runs at once, each with its share of the cores; default: one per core (at most 8), one on a GPU.
        probes: Record what happens inside the network after every task; the numbers stay the same.
        cluster: Submit every run as a job of its own: to Slurm; or "local", the same as processes here, to try it out.
        cluster_set: Parameters of submitit, e.g. timeout_min=720 gpus_per_node=1 slurm_partition=gpu
            slurm_array_parallelism=8.
    """
    from vlcl_toolkit.analysis.comparison import alone_table, mean_and_spread, score_table
    from vlcl_toolkit.cli.gallery import write_comparison
    from vlcl_toolkit.cli.tables import LiveScores, print_alone, print_comparison, print_diverged
    from vlcl_toolkit.experiments import compare as experiments
    from vlcl_toolkit.files import make_folder, write_atomic

    if cluster and alone:
        raise UserError("--alone runs here only; leave out --cluster or --alone")
    chosen, backbone = sources.load_stream(), sources.backbone
    suffix = f"-{sources.label_space}" if sources.label_space else ""
    folder = make_folder(out or Path("runs", sources.stream, f"comparison{suffix}"))
    if alone:
        clip = backbone.load()
        for method in experiments.choose_methods(methods, clip.name, chosen.id):
            results = experiments.learn_alone(method, chosen, clip, seeds=seeds, jobs=jobs)
            table = alone_table(results)
            write_atomic(folder / f"alone_{method}.csv", table.to_csv(float_format="%.4f").encode())
            print_alone(method, table, len(seeds))
        return
    diverged: list[Any] = []  # see `run_jobs`
    if cluster:
        from vlcl_toolkit.experiments.slurm import run_on_cluster

        plan = experiments.plan_comparison(
            methods,
            chosen,
            backbone.backbone,
            seeds,
            orders,
            probes=probes,
            execution=backbone.execution,
        )
        parameters = read_settings(cluster_set)
        results = run_on_cluster(
            plan, sources, folder / "jobs", cluster=cluster, parameters=parameters
        )
    else:
        options: dict[str, Any] = {"probes": probes, "execution": backbone.execution}
        results = experiments.compare(
            methods,
            chosen,
            backbone.load(),
            seeds=seeds,
            orders=orders,
            jobs=jobs,
            diverged=diverged,
            on_result=LiveScores(),
            **options,
        )
    scores = score_table(results)
    write_atomic(folder / "scores.csv", scores.to_csv(index=False, float_format="%.4f").encode())
    write_comparison(folder, results, scores)
    print_comparison(mean_and_spread(scores))
    print_diverged(diverged)
    print(f"table and figures: {folder}")


def search(
    method: str,
    setting: str,
    values: tuple[str, ...],
    sources: Chosen = DEFAULT,
    seeds: tuple[int, ...] = (0, 1),
    orders: tuple[str, ...] = ("default", "reversed"),
    criterion: Literal["learned", "average"] = "learned",
    set: KeyValues = (),
    out: Path | None = None,
    jobs: int | None = None,
) -> None:
    """Try values of one setting and show which one validation images prefer; test images are not looked at.

    Args:
        method: Name of the method.
        setting: Name of the setting, e.g. learning_rate.
        values: What to try.
        seeds: Seeds per value and order.
        orders: Task orders, each as for `vlcl run --order`.
        criterion: learned: accuracy on each task right after learning it (quick; forgetting does not count); average:
            Average over all tasks after every task, on their validation images.
        set: Other settings that differ from the preset, e.g. --set iterations=50.
        out: Folder of the table; default: runs/<stream>/search.
        jobs: Runs at once, each with its share of the cores; default: one per core (at most 8), one on a GPU.
    """
    from vlcl_toolkit.analysis.comparison import mean_and_spread, score_table
    from vlcl_toolkit.cli.tables import print_diverged, print_search
    from vlcl_toolkit.experiments import compare as experiments
    from vlcl_toolkit.files import make_folder, write_atomic

    folder = make_folder(out or Path("runs", sources.stream, "search"))
    parsed = [read_value(value) for value in values]
    diverged: list[Any] = []  # see `run_jobs`
    results = experiments.search(
        method,
        sources.load_stream(),
        sources.backbone.load(),
        setting,
        parsed,
        seeds=seeds,
        orders=orders,
        config=read_settings(set),
        criterion=criterion,
        jobs=jobs,
        diverged=diverged,
        execution=sources.backbone.execution,
    )
    scores = score_table(results, setting)
    name = f"{method}_{setting}" + ("_average" if criterion == "average" else "")
    write_atomic(folder / f"{name}.csv", scores.to_csv(index=False, float_format="%.6g").encode())
    print_search(method, setting, mean_and_spread(scores, setting), criterion)
    print_diverged(diverged)


def show(folder: Annotated[Path, tyro.conf.Positional]) -> None:
    """Print what a run's folder holds, finished or not.

    Args:
        folder: The run's folder.
    """
    from vlcl_toolkit.cli.tables import print_run

    print_run(folder)


def export(
    folders: Annotated[tuple[Path, ...], tyro.conf.Positional],
    html: Path,
    stream: str | None = None,
) -> None:
    """Write a run, or two side by side, as one web page that plays without a kernel or a network.

    Args:
        folders: One run's folder, or two of the same stream; with probes (`vlcl run --probes`) there is more to see.
        html: The page; an earlier one is replaced.
        stream: Where small pictures of the images come from; default: none, but for the embedded stream its own.
    """
    from vlcl_toolkit.analysis.record import run_record
    from vlcl_toolkit.files import write_atomic
    from vlcl_toolkit.load import load_stream
    from vlcl_toolkit.plotting.player import player_page
    from vlcl_toolkit.training.results import RunResult

    results = [RunResult.load(folder) for folder in folders]
    # The embedded images are always at hand; others may be far away, or many.
    name = stream or next((result.stream for result in results if result.stream == "mini"), None)
    images = load_stream(name) if name else None
    records = [run_record(result, images) for result in results]
    page = player_page(records).encode()
    write_atomic(html, page)
    for record in records:
        for text in record["missing"]:
            print(f"not on the page: {record['method']}: {text}")
    print(f"{html}: {len(page) / 2**20:.1f} MiB")


def import_(
    method: str,
    file: Path,
    backbone: Backbone = EMBEDDED,
    tasks: int | None = None,
    selector: Path | None = None,
    frozen: Path | None = None,
    set: KeyValues = (),
    out: Path | None = None,
) -> None:
    """Read a checkpoint of an official implementation (without pickle), check it, and save it in our own form.

    The folder holds state.safetensors and import.json. In Python: vlcl_toolkit.methods.load_imported(folder, clip).

    Args:
        method: diki (task_<i>.pt), moe_adapters, zscl, lwf, icarl, wise_ft, ... (<data set>.pth).
        file: The official file.
        tasks: Take only the first ones that it has learned.
        selector: MoE-Adapters: file of the autoencoders.
        frozen: MoE-Adapters: text file with the names of frozen parameters; without it none is frozen.
        set: Settings that do not follow from the file, e.g. --set decision=batch.
        out: Folder to write; default: imported/<method>/<file's name>.
    """
    from vlcl_toolkit.cli.tables import print_import
    from vlcl_toolkit.methods import import_official

    clip = backbone.load()
    options: dict[str, Any] = {"tasks": tasks, "selector": selector, "frozen": frozen}
    imported = import_official(method, file, clip, settings=read_settings(set), **options)
    print_import(imported, imported.write(out or Path("imported", method, file.stem)))


def figures(out: Path = Path("figures")) -> None:
    """Rebuild the gallery of figures from runs on the embedded stream (an hour; finished runs are not repeated).

    Args:
        out: Folder of the gallery.
    """
    from vlcl_toolkit.cli.gallery import write_gallery

    for path in write_gallery(out):
        print(path)


COMMANDS: dict[str, Callable[..., Any]] = {
    "run": run,
    "compare": compare,
    "search": search,
    "recipe": recipe,
    "show": show,
    "export": export,
    "figures": figures,
    "data": data,
    "import": import_,
}
