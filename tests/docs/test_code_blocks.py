"""What README.md and the pages of docs/ show: Python is compiled and its imports are resolved, commands are parsed."""

import ast
import importlib
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from any2point_hf.cli import make_parser

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^( *)```([a-z]*)[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
SHELLS = ("", "bash", "sh", "console", "shell", "text")
# What stands for a number in a command.
PLACEHOLDERS = {"N": "1", "SEEDS": "0,1", "PORT": "8000"}
LEFT_OUT = ("...", "…", "[", "{")


def page_name(page):
    return page.relative_to(ROOT).as_posix()


def blocks(page, *languages):
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [
        re.sub(f"^{indent}", "", text, flags=re.MULTILINE) for indent, language, text in found if language in languages
    ]


def commands(page):
    """The arguments of every `any2point …`: whole lines of blocks, and what paragraphs quote."""
    text = page.read_text(encoding="utf-8")
    lines = [line for block in blocks(page, *SHELLS) for line in re.sub(r"\\\n", " ", block).splitlines()]
    lines += [f"{quoted} …" for quoted in re.findall(r"`(any2point [^`\n]+)`", BLOCK.sub("", text))]  # often in part
    for line in lines:
        match = re.match(r"(?:\$ )?(?:\w+=\S+ )*(?:any2point|\S.* -m any2point_hf) (.*)", line)
        if match:
            yield shlex.split(match[1], comments=True)


def pages_with(find):
    return [pytest.param(page, id=page_name(page)) for page in PAGES if find(page)]


def parse(arguments):
    """What the real parser says to these arguments; None if it takes them."""
    parsers = make_parser()._subparsers._group_actions[0].choices
    if arguments[0].startswith("-") or arguments[0] == "COMMAND":
        return None
    if arguments[0] not in parsers:
        return f"no command {arguments[0]!r}"
    if any(word.startswith(LEFT_OUT) for word in arguments) or len(arguments) == 1:
        options = {word.partition("=")[0] for word in arguments if re.match(r"--\w", word)}
        unknown = sorted(options - set(parsers[arguments[0]]._option_string_actions))
        return f"{arguments[0]} has no {', '.join(unknown)}" if unknown else None
    try:
        make_parser().parse_args([PLACEHOLDERS.get(word, word) for word in arguments])
    except SystemExit:
        return "refused by the parser, which says why on standard error"
    return None


@pytest.mark.parametrize("page", pages_with(lambda page: blocks(page, "python")))
def test_python_compiles_and_its_imports_resolve(page):
    checked = 0
    for code in blocks(page, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Import):
                ours = [name.name for name in node.names if name.name.split(".")[0] == "any2point_hf"]
                checked += len([importlib.import_module(name) for name in ours])
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "any2point_hf":
                module = importlib.import_module(node.module)
                assert [name.name for name in node.names if not hasattr(module, name.name)] == []
                checked += 1
    if "any2point_hf" in "".join(blocks(page, "python")):
        assert checked


@pytest.mark.parametrize("page", pages_with(lambda page: list(commands(page))))
def test_commands_are_understood(page):
    refused = {" ".join(arguments): parse(arguments) for arguments in commands(page)}
    assert {command: reason for command, reason in refused.items() if reason} == {}


def test_wrong_commands_would_be_seen():
    assert parse(["train", "--no-such-option", "…"]) == "train has no --no-such-option"
    assert parse(["no-such-command"]) == "no command 'no-such-command'"
    assert "refused" in parse(["evaluate", "--model", "a"])  # without --data
    assert "refused" in parse(["train", "--data", "a", "--backbone", "b", "--output", "c", "--epochs", "many"])
    assert len([c for page in PAGES for c in commands(page)]) > 40


def test_files_that_commands_name_are_there():
    named = {
        found
        for page in PAGES
        for block in blocks(page, *SHELLS)
        for found in re.findall(r"(?:benchmarks|docs|tests|conversion_scripts)/[\w./]+\.\w+", block)
    }
    named |= {
        f"{module.replace('.', '/')}.py"
        for page in PAGES
        for module in re.findall(r"-m any2point_hf\.(conversion_scripts\.\w+)", page.read_text("utf-8"))
    }
    assert len(named) > 5
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


@pytest.fixture
def small_world(tmp_path, monkeypatch, bert, two_classes):
    """An empty folder with the files that examples name, and few built-in shapes; gives example code the tiny BERT."""
    from any2point_hf import data

    monkeypatch.chdir(tmp_path)
    np.savetxt("chair.xyz", two_classes.cloud(0, np.random.default_rng(0), 200))
    np.save("scan.npy", two_classes.cloud(1, np.random.default_rng(0), 200))
    whole = data.make_shapes
    monkeypatch.setattr(data, "make_shapes", lambda seed=0: whole(20, 10, num_points=128, seed=seed))
    names = {"chair.ply": "chair.xyz", "scan.pcd": "scan.npy", "epochs=10": "epochs=1", "epochs=6": "epochs=1"}
    names |= dict.fromkeys(("sentence-transformers/all-MiniLM-L6-v2", "google-bert/bert-base-uncased"), bert.as_posix())
    names["(enumerate(names)))"] = (
        "(enumerate(names)), num_points=64, num_neighbors=8)"  # where an example leaves both out
    )

    def run(code, namespace):
        for name, stand_in in names.items():
            code = code.replace(name, stand_in)
        exec(compile(code, "example", "exec"), namespace)  # our own pages

    return run


def test_the_examples_of_home_and_quick_start_run(small_world, one_thread, capsys):
    """One after the other, as a reader would: the first trains the adapter that the second uses."""
    namespace = {}
    examples = blocks(ROOT / "docs" / "index.md", "python") + blocks(ROOT / "docs" / "quick_start.md", "python")
    for code in examples:
        small_world(code, namespace)
    assert 0 <= float(capsys.readouterr().out.splitlines()[-3]) <= 1  # the accuracy, before two predictions
    files = {path.name for path in Path("my-adapter").iterdir()}
    assert {"config.json", "model.safetensors", "preprocessor_config.json"} <= files
    assert namespace["features"].shape == (1, 2 * 48)


def test_the_example_of_the_readme_runs(small_world, one_thread, monkeypatch):
    from any2point_hf import Any2PointForPointCloudClassification

    pushed = []  # where tests have no network; pushing has tests of its own
    monkeypatch.setattr(
        Any2PointForPointCloudClassification, "push_to_hub", lambda _, name, **both: pushed.append((name, both))
    )
    namespace = {}
    small_world(blocks(ROOT / "README.md", "python")[0], namespace)
    assert namespace["logits"].shape == (2, 10)
    assert pushed == [("my-adapter", {"processor": namespace["processor"]})]


def test_the_example_of_a_family_of_ones_own_is_a_specification():
    from any2point_hf.modeling.backbones.table import BACKBONES

    try:
        for code in blocks(ROOT / "docs" / "backbones.md", "python")[:1]:
            exec(compile(code, "example", "exec"), {})
        assert BACKBONES["my_type"].feed_forward == ("intermediate", "output.dense")
    finally:
        BACKBONES.pop("my_type", None)
