"""Shows griffe, which reads sources without running them, what users import from `any2point_hf`.

mkdocs.yml names this file. The folder `modeling/` is put where setup.cfg installs it, and every lazy name where users
import it from, so that a page can ask for `any2point_hf.Any2PointConfig`.
"""

from typing import Any

import griffe

import any2point_hf
from any2point_hf import modeling


class PublicNames(griffe.Extension):
    """Completes the package when it has been read."""

    def on_class(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        """A config's fields are its arguments: transformers makes a dataclass of every config."""
        if any(decorator.callable_path == "huggingface_hub.dataclasses.strict" for decorator in cls.decorators):
            dataclass = griffe.ExprName("dataclasses.dataclass")
            cls.decorators.append(griffe.Decorator(dataclass, lineno=None, endlineno=None))

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **kwargs: Any) -> None:
        """Adds `modeling` and the aliases of both `__init__` files."""
        if pkg.path != "any2point_hf":
            return
        pkg.set_member("modeling", loader.load("modeling"))
        for package, members in ((any2point_hf, pkg), (modeling, pkg["modeling"])):
            for name, home in package._HOME.items():
                members.set_member(name, griffe.Alias(name, f"{package.__name__}.{home}.{name}"))
