"""Every command that the documents and `--help` show exists, with the options it is shown with."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main

from coalmine.cli._app import app

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *ROOT.glob("*/README.md")],
    key=lambda path: str(path),
)
#: A line of a block, or what is between backticks in a sentence.
_SHOWN = re.compile(r"^(?:\$ |    )?(?:[A-Z_]+=\S+ )*(coalmine [a-z].*)$|`(coalmine [a-z][^`]*)`")


def shown_in_documents() -> Iterator[tuple[str, str]]:
    for document in DOCUMENTS:
        text = document.read_text("utf-8").replace("\\\n", " ")
        in_block = False
        for line in text.splitlines():
            if line.startswith("```"):
                in_block = not in_block
            for match in _SHOWN.finditer(line.replace(".venv/bin/", "")):
                if match[1] is None or in_block or line.startswith("    "):
                    yield document.name, match[1] or match[2]


def shown_in_help() -> Iterator[tuple[str, str]]:
    def walk(command: Any, name: str) -> Iterator[tuple[str, str]]:
        said = (command.epilog or "").partition(":")[2]
        for example in said.split("|"):
            if example.strip():
                yield f"{name} --help", " ".join(example.split())
        for child, below in getattr(command, "commands", {}).items():
            yield from walk(below, f"{name} {child}")

    yield from walk(typer.main.get_command(app), "coalmine")


@cache
def options_of_the_server(command: str) -> str:
    """What `coalmine serve --help` or `coalmine transform --help` prints."""
    call = (sys.executable, "-m", "coalmine.cli", command, "--help")
    return subprocess.run(call, capture_output=True, text=True, check=True).stdout


SHOWN = sorted({*shown_in_documents(), *shown_in_help()})


def test_the_documents_show_commands() -> None:
    assert len(SHOWN) > 80
    assert {"README.md", "serving.md", "retraining.md"} <= {where for where, _ in SHOWN}


@pytest.mark.parametrize(("where", "line"), SHOWN)
def test_what_is_shown_exists(where: str, line: str) -> None:
    words = shlex.split(line.partition("  ")[0].partition(" # ")[0], comments=True)
    command: Any = typer.main.get_command(app)
    arguments = words[1:]
    while hasattr(command, "commands") and arguments and arguments[0] in command.commands:
        command = command.commands[arguments.pop(0)]
    assert command.name != "coalmine" or arguments[0].startswith("-"), "there is no such command"
    if hasattr(command, "commands"):
        assert all(word.startswith("-") for word in arguments[:1]), "there is no such subcommand"
    known = {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
    for option in (word.partition("=")[0] for word in arguments if re.match(r"--?[a-z]", word)):
        if command.name in ("serve", "transform"):
            assert re.search(rf"{option}\b", options_of_the_server(command.name)), option
        else:
            assert option in known | {"--help", "-h"}, option


def test_what_make_is_shown_to_do_it_does() -> None:
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    shown = {
        target
        for document in DOCUMENTS
        for target in re.findall(r"(?:`|\$ |&& )make ([a-z-]+)", document.read_text("utf-8"))
    }
    assert shown <= known
    assert {"demo", "test", "setup"} <= shown
