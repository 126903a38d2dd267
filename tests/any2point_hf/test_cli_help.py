"""What the command line says of itself: help, completion, JSON, mistakes in one line."""

import argparse
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from any2point_hf import __version__, cli

NAMES = [cli.command_name(command) for command in cli.COMMANDS]
PATHS = {
    "ADAPTER",
    "BACKBONE",
    "CLOUD",
    "DATA",
    "FILE",
    "FILE.index",
    "FILE.parquet",
    "FILE.pth",
    "FOLDER",
    "PATH",
    "SOURCE",
}


def parser_of(name):
    (commands,) = (action for action in cli.make_parser()._actions if isinstance(action, argparse._SubParsersAction))
    return commands.choices[name]


def options_of(name):
    return [action for action in parser_of(name)._actions if not isinstance(action, argparse._HelpAction)]


# Help


@pytest.mark.parametrize(("name", "command"), list(zip(NAMES, cli.COMMANDS, strict=True)))
def test_help_has_a_line_a_paragraph_and_examples_that_can_be_typed(name, command, run_command):
    assert "\n" not in command.HELP
    help_text = run_command(name, "--help").out
    assert " ".join(command.DESCRIPTION.split()) in " ".join(help_text.split())
    examples = [line for line in help_text.partition("\nexamples:\n")[2].splitlines() if line]
    assert examples == command.EXAMPLES.strip("\n").split("\n")
    for line in examples:
        program, *arguments = shlex.split(line)
        assert program == "any2point"
        assert cli.make_parser().parse_args(arguments).run is command.run


@pytest.mark.parametrize("name", NAMES)
def test_options_say_what_they_take_and_their_defaults(name):
    for action in options_of(name):
        what = f"{name} {action.option_strings or action.dest}"
        assert action.help, what
        takes_a_value = action.nargs != 0 and action.choices is None
        assert action.metavar or not takes_a_value, f"{what}: the metavar would be {action.dest.upper()}"
        if action.default not in (None, False, []) and action.option_strings:
            default = action.default[0] if isinstance(action.default, list) else action.default
            assert re.search(rf"\(default:? {re.escape(str(default))}\b", action.help), f"{what}: {action.help}"
        names = action.metavar if isinstance(action.metavar, str) else ""
        assert hasattr(action, "complete") == (names in PATHS or action.dest == "recipe"), what


def test_the_programs_help_lists_commands_and_exit_codes(run_command):
    result = run_command("--help")
    assert result.code == 0
    for name in NAMES:
        assert re.search(rf"^ {{4}}{name} ", result.out, re.MULTILINE)
    assert re.findall(r"^  (\d)  ", result.out.partition("exit codes:\n")[2], re.MULTILINE) == ["0", "1", "2"]
    assert run_command("--version").out == f"any2point {__version__}\n"


# Completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_a_script_of_every_shell_knows_all_commands(run_command, shell):
    result = run_command("--print-completion", shell)
    assert result.code == 0
    for word in (*NAMES, "any2point"):
        assert word in result.out
    assert "validation-share" in result.out


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_commands_options_choices_and_files(run_command, tmp_path):
    (tmp_path / "completion.sh").write_text(run_command("--print-completion", "bash").out, encoding="utf-8")
    (tmp_path / "chair.ply").touch()
    (tmp_path / "my-adapter").mkdir()

    def complete(*words):
        quoted = " ".join(map(shlex.quote, ("any2point", *words)))
        script = f"source completion.sh; COMP_WORDS=({quoted}); COMP_CWORD={len(words)}; COMP_TYPE=9"
        script += f"; COMP_LINE={shlex.quote(quoted)}; COMP_POINT={len(quoted)}; _shtab_any2point"
        script += '; printf "%s\\n" "${COMPREPLY[@]}"'
        process = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True)
        return process.stdout.split()

    assert complete("pre") == ["predict"]
    assert complete("predict", "--mo") == ["--model"]
    assert complete("predict", "a.ply", "--engine", "r") == ["ray"]
    assert complete("predict", "a.ply", "--model", "my") == ["my-adapter"]
    assert "chair.ply" in complete("predict", "ch")


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("trian",),
            f"argument COMMAND: must be one of {', '.join(NAMES)}, got trian. Did you mean train? See any2point",
        ),
        (
            ("evaluate", "--modle", "a"),
            "there is no option --modle. Did you mean --model? See any2point evaluate --help",
        ),
        (
            ("train", "--epoch=3", "--sede=1"),
            "there is no option --sede. Did you mean --seed? See any2point train --help",
        ),
        (("--vresion",), "there is no option --vresion. Did you mean --version? See any2point --help"),
        (("train", "--xyz"), "there is no option --xyz. See any2point train --help"),
        (("train", "--rotate", "Z"), "argument --rotate: must be one of x, y, z, none, got Z. See any2point train"),
        (("visualize", "a.ply", "--kind", "cluster"), "Did you mean clusters? See any2point visualize --help"),
        (("predict", "a.ply"), "the following arguments are required: --model. See any2point predict --help"),
        ((), "the following arguments are required: COMMAND. See any2point --help"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_likely_word(run_command, arguments, message):
    result = run_command(*arguments)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert result.err.startswith("error: ")
    assert message in result.err


# JSON


def only_json(result):
    assert result.code == 0, result.err
    assert result.out.count("\n") == 1
    return json.loads(result.out)


def test_a_trainings_result_is_the_only_output(run_train, tmp_path):
    plain = run_train("--validation-share", "0.25", output=tmp_path / "plain")
    result = run_train("--validation-share", "0.25", "--json", output=tmp_path / "json")
    value = only_json(result)
    metrics = {"accuracy", "mean_class_accuracy", "best_epoch", "validation_accuracy", "best_epoch_accuracy"}
    assert set(value) == {"output", "adapter_megabytes", "linear_probe_accuracy"} | metrics
    assert f"accuracy {value['accuracy']:.4f} (last epoch" in plain.out
    assert value["output"] == str(tmp_path / "json")
    assert plain.out.count("\n") == 1
    assert "epoch 1/1  loss " in plain.err
    assert "epoch 1/1  loss " in result.err


def test_several_seeds(run_train, tmp_path):
    value = only_json(run_train("--seeds", "0,1", "--json"))
    summary = json.loads((tmp_path / "trained" / "seeds.json").read_text(encoding="utf-8"))["summary"]
    assert value == {"output": str(tmp_path / "trained"), "seeds": [0, 1], **summary}


def test_results_of_an_adapter(run_command, adapter, two_classes, tmp_path):
    files = []
    for kind in (0, 1):
        files.append(tmp_path / "clouds" / f"{kind}.npy")
        files[-1].parent.mkdir(exist_ok=True)
        np.save(files[-1], two_classes.cloud(kind, np.random.default_rng(kind)))
    model = ("--model", adapter, "--json")
    predicted = only_json(run_command("predict", *files, *model))
    assert [row["classes"][0]["label"] for row in predicted] == ["ball", "disc"]
    assert only_json(run_command("evaluate", *model, "--data", two_classes.path))["accuracy"] == 1
    assert only_json(run_command("info", *model))["trainable"] > 0
    out = tmp_path / "out.parquet"
    expected = {"out": str(out), "clouds": 2, "skipped": 0, "skipped_listed_in": None}
    assert only_json(run_command("embed", files[0].parent, *model, "--out", out)) == expected
    np.save(files[0].parent / "bad.npy", np.zeros((3, 3)))
    bad = only_json(run_command("predict", files[0].parent, *model, "--out", tmp_path / "b.parquet", "--skip-bad"))
    assert (bad["clouds"], bad["skipped"]) == (2, 1)
    assert Path(bad["skipped_listed_in"]).is_file()


def test_a_conversion_hands_back_its_report(run_command, monkeypatch, tmp_path):
    from any2point_hf.conversion_scripts import convert_any2point_checkpoint as script

    def convert(checkpoint, backbone, output, setting):
        print("what people read")
        output.mkdir()
        (output / script.REPORT_FILE).write_text('{"trained": ["a"]}')

    monkeypatch.setattr(script, "convert", convert)
    (tmp_path / "a.pth").touch()
    arguments = ("convert", "--checkpoint", tmp_path / "a.pth", "--backbone", "b", "--output")
    assert run_command(*arguments, tmp_path / "plain").out == "what people read\n"
    result = run_command(*arguments, tmp_path / "json", "--json")
    assert only_json(result) == {"output": str(tmp_path / "json"), "report": {"trained": ["a"]}}
    assert result.err == "what people read\n"


def test_a_table_hands_back_its_file(run_command, monkeypatch, tmp_path):
    from any2point_hf.paper import reproduce

    monkeypatch.setattr(reproduce, "reproduce", lambda *_, **__: print("table 4, …") or tmp_path / "table-4.md")
    backbones = ("--backbone-1d", "a", "--backbone-2d", "b")
    result = run_command(
        "reproduce", "--table", "4", "--data", "shapes", "--output", tmp_path, *backbones, "--quick", "--json"
    )
    assert only_json(result) == {"table": 4, "file": str(tmp_path / "table-4.md")}


def test_of_a_mistake_nothing_goes_to_standard_output(run_command):
    result = run_command("info", "--json")
    assert (result.code, result.out) == (2, "")
    assert result.err == "error: info needs --model, --preset or --backbone, got none.\n"


def test_every_command_that_ends_has_json():
    without = [name for name in NAMES if "--json" not in parser_of(name)._option_string_actions]
    assert without == ["demo"]  # it serves until it is stopped
