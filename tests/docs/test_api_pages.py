"""Every public name stands on a page of docs/api/, and its docstring says its arguments and its errors."""

import ast
import dataclasses
import importlib
import inspect
import re
import textwrap
import typing
from pathlib import Path

import pytest
import yaml

import any2point_hf
from any2point_hf import modeling

griffe = pytest.importorskip("griffe", reason="the API pages need the extra docs")
PAGES = sorted((Path(__file__).parents[2] / "docs" / "api").glob("*.md"))
ENTRY = re.compile(r"^::: (\S+)\n((?:    .*\n)*)", re.MULTILINE)


def entries():
    """Every `::: name` of the pages, with the members that are shown of it: a list, or None for all."""
    for page in PAGES:
        for name, options in ENTRY.findall(page.read_text(encoding="utf-8")):
            members = ((yaml.safe_load(options) or {}).get("options") or {}).get("members")
            yield name, [] if members is False else members


ENTRIES = dict(entries())


def find(path):
    """The object with this dotted path."""
    for cut in range(path.count("."), 0, -1):
        parts = path.split(".")
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return found
    raise AssertionError(f"no module of {path}")


def own(thing):
    return getattr(thing, "__module__", "").startswith("any2point_hf")


def shown():
    """What the pages show: (path, object, the object's own docstring)."""
    for path, members in ENTRIES.items():
        thing = find(path)
        yield path, thing, vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__
        if inspect.isclass(thing):
            public = [name for name in vars(thing) if not name.startswith("_") or name == "__call__"]
            for name in public if members is None else members:
                member = inspect.getattr_static(thing, name)
                member = getattr(member, "__func__", None) or getattr(member, "fget", None) or inspect.unwrap(member)
                if inspect.isfunction(member) and own(member):
                    yield f"{path}.{name}", member, member.__doc__


SHOWN = {path: (thing, doc) for path, thing, doc in shown()}


def sections(doc):
    return {
        section.kind.value: section.value for section in griffe.Docstring(inspect.cleandoc(doc), parser="google").parsed
    }


def functions_of(thing):
    """The code whose arguments and errors a docstring tells: a function, or what makes an object of a class."""
    if inspect.isfunction(thing):
        return [inspect.unwrap(thing)]
    found = [inspect.unwrap(vars(thing).get(name, object)) for name in ("__init__", "__post_init__")]
    return [f for f in found if own(f) and not f.__code__.co_filename.startswith("<")]  # "<string>": dataclass wrote it


def arguments(thing):
    if dataclasses.is_dataclass(thing):
        fields = vars(thing).get("__annotations__", {})
        return {
            name for name, kind in fields.items() if name[0] != "_" and typing.get_origin(kind) is not typing.ClassVar
        }
    code = [function.__code__ for function in functions_of(thing)]
    names = {name for c in code for name in c.co_varnames[: c.co_argcount + c.co_kwonlyargcount]}
    return {name for name in names - {"self", "cls"} if name[0] != "_"}


def raises(thing):
    """Whether an error is raised in its own lines."""
    trees = [ast.parse(textwrap.dedent(inspect.getsource(function))) for function in functions_of(thing)]
    return any(isinstance(node, ast.Raise) and node.exc is not None for tree in trees for node in ast.walk(tree))


def test_every_public_name_is_on_a_page():
    assert set(modeling.__all__) < set(any2point_hf.__all__)
    wanted = {f"any2point_hf.{name}" for name in any2point_hf.__all__} - {"any2point_hf.__version__"}
    assert wanted - set(ENTRIES) == set()


def test_no_name_is_shown_twice():
    names = [name for page in PAGES for name, _ in ENTRY.findall(page.read_text(encoding="utf-8"))]
    assert len(names) == len(set(names)) > 30


@pytest.mark.parametrize("path", SHOWN)
def test_what_is_shown_is_documented(path):
    thing, doc = SHOWN[path]
    assert doc, f"{path} has no docstring of its own"
    assert not doc.startswith(f"{path.rpartition('.')[2]}("), f"{path} has only dataclass' docstring"
    found = sections(doc)
    documented = {parameter.name.lstrip("*") for parameter in found.get("parameters", [])}
    is_output = inspect.isclass(thing) and path.endswith("Output")  # whose one line names its fields
    missing = set() if is_output else arguments(thing) - documented
    assert missing == set(), f"{path}: not under Args"
    if raises(thing):
        assert found.get("raises"), f"{path} raises, and has no Raises section"
