"""The command line: help, results, exit codes, one clear line for each mistake."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from vlcl_toolkit.cli import main
from vlcl_toolkit.cli.commands import COMMANDS
from vlcl_toolkit.load import load_stream

# Two steps on one domain: enough to pass through everything.
QUICK = ["--tasks", "digits", "--set", "iterations=2", "warmup=1"]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def mistake(capsys, *arguments: str) -> str:
    """The one line that a user's mistake prints."""
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("vlcl: ")
    assert "\n" not in error
    assert "Traceback" not in error
    return error


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    options = set(re.findall(r"--[a-z-]+", shown)) - {"--help"}
    assert len(shown.split()) > 25
    assert options or command == "show"


HEAVY = {"torch", "torchvision", "open_clip", "lightning_fabric", "numpy", "pandas", "PIL"}
DRAWING = {"matplotlib", "seaborn", "scipy", "sklearn", "umap", "submitit", "ipywidgets"}


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("main(['--help'])", HEAVY | DRAWING),
        ("main(['recipe', '--list'])", HEAVY | DRAWING),
        ("main(['show', 'run'])", HEAVY | DRAWING),
        ("import vlcl_toolkit; vlcl_toolkit.run", DRAWING | {"pandas", "tyro", "rich", "loky"}),
    ],
)
def test_libraries_are_imported_where_they_are_used(code, absent, tmp_path):
    Path("run").mkdir()
    config = {"label_space": "task", "decision": "sample", "settings_from": "a preset"}
    config |= {"backbone": {"name": "mini", "weights_sha256": "0"}}
    Path("run/config.json").write_text(json.dumps(config))
    record = {"method": "m", "stream": "s", "seed": 0, "order": ["a"], "zero_shot": [50.0]}
    record |= {"accuracy": [[60.0]], "held_out": {"b": [40.0, None]}, "metrics": {"last": 60.0}}
    record |= {"seconds": {"train": 1.0, "evaluate": 1.0}, "peak_memory_mib": 1.0}
    record |= {"trainable_parameters": 1, "total_parameters": 2, "complete": True}
    Path("run/result.json").write_text(json.dumps(record))
    prepared = "" if "main" not in code else "from vlcl_toolkit.cli import main"
    script = f"""
import sys
{prepared}
try:
    {code}
except SystemExit as end:
    assert end.code == 0
print("imported:", *sorted({absent!r} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "imported:"


def test_an_unknown_option_is_a_mistake(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["run", "--method", "zero_shot", "--bogus", "1"])
    assert stopped.value.code == 2


def test_run_writes_the_folder_and_show_prints_it(capsys):
    assert main(["run", "--method", "finetune", *QUICK, "--out", "one"]) == 0
    first, shown = capsys.readouterr().out.split("\n", 1)
    chosen = "preset mini (backbone); given: iterations, warmup"
    assert first == f"settings of finetune: {chosen}"
    assert chosen in " ".join(shown.split())
    assert "digits" in shown
    assert "(faces)" in shown
    with open("one/result.json") as file:
        record = json.load(file)
    assert record["complete"]
    assert record["order"] == ["digits"]
    assert main(["show", "one"]) == 0
    assert capsys.readouterr().out.splitlines()[:8] == shown.splitlines()[:8]


def test_compare_writes_one_table_and_figures(tmp_path, monkeypatch, capsys):
    one_task = load_stream("mini").subset(["digits"])
    quick = {"iterations": 2, "warmup": 1}
    monkeypatch.setattr("vlcl_toolkit.load.load_stream", lambda name: one_task)
    monkeypatch.setattr(
        "vlcl_toolkit.methods.presets.preset_settings",
        lambda method, backbone, stream: quick if method == "finetune" else {},
    )
    assert (
        main(
            ["compare", "--methods", "zero_shot", "finetune", "--seeds", "0", "1", "--out", "table"]
        )
        == 0
    )
    shown = capsys.readouterr().out
    assert "zero_shot" in shown
    assert "±" in shown
    scores = pd.read_csv(tmp_path / "table" / "scores.csv")
    assert list(scores["method"]) == ["zero_shot", "zero_shot", "finetune", "finetune"]
    assert list(scores["seed"]) == [0, 1, 0, 1]
    assert (tmp_path / "table" / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert main(["compare", "--methods", "finetune", "--alone", "--out", "table"]) == 0
    assert "each task learned alone" in capsys.readouterr().out


def test_a_search_writes_the_values_it_tried():
    values = ["5e-05", "0.0001"]
    options = ["--seeds", "0", "--orders", "default", "--jobs", "1", "--out", "found"]
    command = ["search", "--method", "finetune", "--setting", "learning_rate", *options]
    assert main([*command, *QUICK, "--values", *values]) == 0
    table = pd.read_csv("found/finetune_learning_rate.csv")
    assert table["learning_rate"].tolist() == [float(value) for value in values]
    assert table["validation"].between(0, 100).all()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["run", "--method", "finetun"], "finetun.*did you mean 'finetune'"),
        (["run", "--method", "finetune", "--stream", "minni"], "stream 'minni'.*mini"),
        (["run", "--method", "finetune", "--tasks", "digit"], "task 'digit'.*digits"),
        (["run", "--method", "finetune", "--order", "land,digits"], "missing: textures"),
        (["run", "--method", "finetune", "--order", "0,0,1,2,3,4"], "repeated: textures"),
        (["run", "--method", "finetune", "--device", "cuda:7"], "no device 'cuda:7' is available"),
        (["run", "--method", "finetune", "--backbone", "RN50"], "RN50.*ViT"),
        (["run", "--method", "finetune", "--backbone", "ViT-B-16"], "needs weights"),
        (["run", "--method", "finetune", "--set", "learning_rate"], "NAME=VALUE"),
        (
            ["run", "--method", "finetune", "--set", "rate=1"],
            "settings of finetune: unknown setting 'rate'",
        ),
        (["run", "--method", "finetune", "--set", "iterations=many"], "iterations.*'many'"),
        (["run", "--method", "finetune", "--set", "warmup=1", "warmup=2"], "warmup is set twice"),
        (["run", "--method", "finetune", "--set", "warmup={[]: 1}"], "warmup must be a whole"),
        (["run", "--method", "finetune", "--set", "eval_scale=1e999"], "eval_scale.*found inf"),
        (
            ["run", "--method", "finetune", "--few-shot", "0"],
            "must be a whole number of at least 1; found 0",
        ),
        (["run", "--method", "finetune", "--checkpoint", "no.pt"], r"no\.pt"),
        (["compare", "--methods", "zero_shot", "nothing"], "method 'nothing'"),
        (["compare", "--methods", "zero_shot", "--orders", "backwards"], "task 'backwards'"),
        (["search", "--method", "finetune", "--setting", "rate", "--values", "1"], "'rate'"),
        (["show", "nowhere"], "no run in nowhere"),
    ],
)
def test_mistakes_get_one_clear_line(arguments, named, capsys):
    assert re.search(named, mistake(capsys, *arguments))


def test_a_folder_of_another_run_is_left_alone(tmp_path, capsys):
    assert main(["run", "--method", "finetune", *QUICK, "--out", "one"]) == 0
    before = {path: path.read_bytes() for path in tmp_path.glob("one/*.json")}
    capsys.readouterr()
    error = mistake(capsys, "run", "--method", "finetune", *QUICK, "--seed", "5", "--out", "one")
    assert "another seed: 0 there, 5 here" in error
    assert before == {path: path.read_bytes() for path in tmp_path.glob("one/*.json")}


def test_an_output_that_cannot_be_written_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert "file" in mistake(capsys, "run", "--method", "zero_shot", "--out", "file/run")


def test_a_bug_keeps_its_traceback():
    code = (
        "import sys; import vlcl_toolkit.cli.commands as commands; from vlcl_toolkit.cli import main\n"
        "def broken() -> None:\n    1 / 0\n"
        "commands.COMMANDS['broken'] = broken\n"
        "sys.exit(main(['broken']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["recipe", "--list"]])
def test_nobody_reads_on(arguments):
    """`vlcl ... | head` ends without a word."""
    code = f"import sys; from vlcl_toolkit.cli import main; sys.exit(main({arguments}))"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], text=True, **pipes) as command:
        command.stdout.close()
        assert command.stderr.read() == ""
    assert command.returncode not in (0, 2)


def test_another_broken_pipe_is_a_bug(monkeypatch):
    def broken(*arguments, **options):
        raise BrokenPipeError("to a worker")

    monkeypatch.setattr("tyro.extras.subcommand_cli_from_dict", broken)
    with pytest.raises(BrokenPipeError, match="to a worker"):
        main(["--help"])
