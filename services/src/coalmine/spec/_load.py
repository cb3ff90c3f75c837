"""Reading a service file, and telling every mistake in it by line and key.

ServiceFileError          the file cannot be used; `problems` lists every mistake
  one Problem per mistake: line, key path, what was found, what is allowed
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from coalmine.spec._models import ServiceSpec


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a service file."""

    line: int | None
    key: str
    message: str
    found: str | None

    def __str__(self) -> str:
        found = "" if self.found is None else f" (found: {self.found})"
        return f"{self.key or 'file'}: {self.message}{found}"


class ServiceFileError(ValueError):
    """A service file that cannot be used."""

    def __init__(self, path: Path, problems: tuple[Problem, ...]) -> None:
        self.path = path
        self.problems = problems
        lines = [f"{path}:{p.line}: {p}" if p.line else f"{path}: {p}" for p in problems]
        super().__init__("\n".join(lines))


def load_service(path: Path) -> ServiceSpec:
    """Read and validate a service file; `ServiceFileError` lists every mistake in it."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        problem = Problem(None, "", f"cannot be read: {reason}", None)
        raise ServiceFileError(path, (problem,)) from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else None
        message = f"not YAML: {getattr(error, 'problem', None) or error}"
        raise ServiceFileError(path, (Problem(line, "", message, None),)) from error
    if not isinstance(content, dict):
        message = "a service file is a mapping with at least `name` and `model`"
        raise ServiceFileError(path, (Problem(1, "", message, type(content).__name__),))
    twice = tuple(_given_twice(root, (), set()))
    if twice:
        raise ServiceFileError(path, twice)
    try:
        return ServiceSpec.model_validate(content)
    except ValidationError as error:
        problems = tuple(_problem(root, detail) for detail in error.errors())
        raise ServiceFileError(path, problems) from error


def service_schema() -> dict[str, Any]:
    """The JSON schema of the service file, for editors."""
    return {
        **ServiceSpec.model_json_schema(),
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Coalmine model service",
    }


_MAX_FOUND = 80


def _problem(root: yaml.Node | None, detail: Any) -> Problem:
    location: tuple[str | int, ...] = detail["loc"]
    key = ".".join(str(part) for part in location)
    message = str(detail["msg"]).removeprefix("Value error, ")
    kind = detail["type"]
    if kind == "missing":
        message = "is required"
    elif kind == "extra_forbidden":
        message = f"is not a known key; allowed here: {', '.join(_allowed_keys(location))}"
    show = kind not in ("missing", "extra_forbidden") and not isinstance(
        detail["input"], dict | list
    )
    found = repr(detail["input"])[:_MAX_FOUND] if show else None
    return Problem(_line_of(root, location), key, message, found)


def _given_twice(
    node: yaml.Node | None, location: tuple[str, ...], seen: set[int]
) -> Iterator[Problem]:
    """Keys that a mapping has twice, of which YAML's loader takes the last without a word."""
    if node is None or id(node) in seen:  # an alias, of itself perhaps
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            here = (*location, name)
            if name in lines and name != "<<":
                message = f"is there twice, first in line {lines[name]}"
                yield Problem(line, ".".join(here), message, None)
            lines.setdefault(name, line)
            yield from _given_twice(value, here, seen)
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            yield from _given_twice(item, (*location, str(number)), seen)


def _line_of(node: yaml.Node | None, location: tuple[str | int, ...]) -> int | None:
    """The line of the deepest part of a key path that stands in the file."""
    if node is None:
        return None
    line: int = node.start_mark.line + 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            pairs = {key.value: (key, value) for key, value in node.value}
            if part not in pairs:
                break
            key_node, node = pairs[part]
            line = key_node.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            if part >= len(node.value):
                break
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line


def _allowed_keys(location: tuple[str | int, ...]) -> list[str]:
    """The keys a mapping of the file may have, found by walking the schema."""
    schema = ServiceSpec.model_json_schema()
    node: Any = schema
    for part in location[:-1]:
        node = _resolve(schema, node)
        node = node.get("items", {}) if isinstance(part, int) else node["properties"].get(part, {})
    return sorted(_resolve(schema, node).get("properties", {}))


def _resolve(schema: dict[str, Any], node: Any) -> Any:
    for option in node.get("anyOf", ()):
        if "$ref" in option:
            node = option
    if "$ref" in node:
        return schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
    return node
