"""Reference pages of the public names, made of their docstrings: reference.py DIRECTORY.

Ends with 1 if a public class, method or function has no docstring, or if one of them does
not say what a parameter or field of it means (a class may say it for its methods).
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pdoc
import pdoc.doc
import pdoc.render

MODULES = ("redis_stream_queue", "redis_stream_queue.pool", "redis_stream_queue.popoto")
PARAMETERS = re.compile(r"((?:\w+, )*\w+): ")  # how a line about parameters begins


def as_list(docstring: str) -> str:
    """The same with the lines about parameters as a Markdown list."""
    lines: list[str] = []
    in_list = False
    for line in docstring.splitlines():
        if names := PARAMETERS.match(line):
            if not in_list:
                lines.append("")
            line = f"- `{names[1]}`: {line[names.end() :]}"
            in_list = True
        elif in_list and line and not line[0].isspace():
            lines.append("")
            in_list = False
        lines.append(line)
    return "\n".join(lines)


def faults(module: pdoc.doc.Module) -> Iterator[str]:
    """What is missing in a module's docstrings."""
    for member in module.members.values():
        if not member.docstring and not isinstance(member, pdoc.doc.Variable):
            yield f"{member.fullname} has no docstring"
        if isinstance(member, pdoc.doc.Class):
            yield from _class_faults(member)
        elif isinstance(member, pdoc.doc.Function):
            yield from _parameter_faults(member, member.docstring)


def _class_faults(described: pdoc.doc.Class) -> Iterator[str]:
    made = described.obj
    names = {field.name for field in dataclasses.fields(made)} if _is_dataclass(made) else set()
    for member in described.own_members:
        if member.name[0] == "_" or not member.modulename.startswith(MODULES[0]):
            continue
        if isinstance(member, pdoc.doc.Variable) and not member.docstring:
            names.add(member.name)
        elif not member.docstring:
            yield f"{member.fullname} has no docstring"
        elif isinstance(member, pdoc.doc.Function):
            yield from _parameter_faults(member, f"{described.docstring}\n{member.docstring}")
    with contextlib.suppress(ValueError):  # an exception without a constructor of its own
        names |= set(inspect.signature(made).parameters)
    for name in _missing(described.docstring, names):
        yield f"the docstring of {described.fullname} does not mention {name}"


def _parameter_faults(function: pdoc.doc.Function, text: str) -> Iterator[str]:
    for name in _missing(text, set(function.signature.parameters)):
        yield f"the docstring of {function.fullname} does not mention {name}"


def _missing(text: str, names: set[str]) -> list[str]:
    found = names - {"args", "kwargs", "self", "cls"}
    return sorted(name for name in found if not re.search(rf"\b{name}\b", text))


def _is_dataclass(made: type) -> bool:
    return dataclasses.is_dataclass(made)


def with_lists(member: pdoc.doc.Doc[Any]) -> None:
    """Prepare a name and all in it for the page."""
    member.docstring = as_list(member.docstring)
    if isinstance(member, pdoc.doc.Namespace):
        for inner in member.members.values():
            with_lists(inner)


def main(directory: Path) -> int:
    for name in MODULES:  # the package loads a name when it is asked for; pdoc shows what is loaded
        inspect.getmembers(importlib.import_module(name))
    modules = {name: pdoc.doc.Module.from_name(name) for name in MODULES}
    if missing := [fault for module in modules.values() for fault in faults(module)]:
        print(*missing, sep="\n", file=sys.stderr)
        return 1
    pdoc.render.configure(docformat="markdown", show_source=False, search=False)
    directory.mkdir(parents=True, exist_ok=True)
    for name, module in modules.items():
        with_lists(module)
        page = directory / f"{name.replace('.', '/')}.html"
        page.parent.mkdir(exist_ok=True)
        page.write_text(pdoc.render.html_module(module, modules))
    (directory / "index.html").write_text(pdoc.render.html_index(modules))
    print(f"{len(modules)} pages in {directory}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
