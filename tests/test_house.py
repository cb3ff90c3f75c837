"""The house's own rules, where a tool does not already check them."""

from __future__ import annotations

import importlib
import os
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
MEMBERS = ("services", "transformers", "monitors", "loadtests")
PACKAGES = ("coalmine", "coalmine_transformers", "coalmine_monitors", "coalmine_loadtests")
OURS = {"coalmine", "coalmine-transformers", "coalmine-monitors", "coalmine-loadtests"}


def tracked(pattern: str) -> list[Path]:
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", pattern],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / line for line in listing.stdout.splitlines()]


def locked(name: str) -> dict[str, set[Version]]:
    """The versions a lock pins, by normalised name; one per Python where they differ."""
    pins: dict[str, set[Version]] = {}
    for line in (ROOT / "requirements" / f"{name}.txt").read_text("utf-8").splitlines():
        match = re.match(r"([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?==([^ \\;]+)", line)
        if match:
            pins.setdefault(match[1].lower().replace("_", "-"), set()).add(Version(match[2]))
    return pins


def requirements_of(pyproject: Path, extras: tuple[str, ...] = ()) -> list[Requirement]:
    project = tomllib.loads(pyproject.read_text("utf-8"))["project"]
    lines = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    return [Requirement(line) for line in lines]


@pytest.mark.parametrize(
    ("lock", "member", "extras"),
    [
        (
            "dev",
            "services",
            ("serving", "server", "storage", "mlflow", "tracing", "retraining", "local"),
        ),
        ("dev", "transformers", ("image",)),
        ("dev", "monitors", ()),
        ("dev", "loadtests", ()),
        ("services", "services", ("serving", "server", "tracing")),
        ("monitors", "monitors", ()),
        ("alibi", "monitors/alibi", ("tensorflow",)),
    ],
)
def test_the_lock_satisfies_the_member(lock: str, member: str, extras: tuple[str, ...]) -> None:
    pins = locked(lock)
    for requirement in requirements_of(ROOT / member / "pyproject.toml", extras):
        name = requirement.name.lower().replace("_", "-")
        if name in OURS:
            continue
        assert name in pins, f"requirements/{lock}.txt lacks {name}: run `make lock`"
        wrong = [str(pin) for pin in pins[name] if not requirement.specifier.contains(pin)]
        assert not wrong, (
            f"requirements/{lock}.txt pins {name} {wrong}, not {requirement.specifier}"
        )


PEERS = sorted(path.stem for path in (ROOT / "loadtests" / "peers").glob("*.in"))


@pytest.mark.parametrize("peer", PEERS)
def test_a_peers_lock_is_what_it_asks_for_with_our_onnx_runtime(peer: str) -> None:
    pins = locked(f"bench-{peer}")
    lines = (ROOT / "loadtests" / "peers" / f"{peer}.in").read_text("utf-8").splitlines()
    for requirement in map(Requirement, filter(None, (x.partition("#")[0] for x in lines))):
        found = pins.get(requirement.name.lower(), set())
        assert found, f"requirements/bench-{peer}.txt lacks {requirement}: run `make lock`"
        assert all(requirement.specifier.contains(pin) for pin in found)
    # A server answers with the runtime that we answer with; a monitor has none.
    assert pins.get("onnxruntime") in (None, locked("dev")["onnxruntime"])


@pytest.mark.parametrize(
    "lock", ["dev", "services", "monitors", "alibi", *(f"bench-{peer}" for peer in PEERS)]
)
def test_every_locked_package_has_hashes_and_no_index(lock: str) -> None:
    text = (ROOT / "requirements" / f"{lock}.txt").read_text("utf-8")
    assert "://" not in text
    pins = re.findall(r"^[A-Za-z0-9_.-]+(?:\[[^\]]*\])?==.*?(?=^[A-Za-z0-9]|\Z)", text, re.M | re.S)
    assert pins
    assert all("--hash=sha256:" in pin for pin in pins)


def test_import_transformers_never_finds_our_folder() -> None:
    code = (
        "import importlib.util, sys; spec = importlib.util.find_spec('transformers'); "
        "print(spec.origin if spec else None)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    # Without an `__init__` it can be a namespace at most, which any real package goes before.
    assert found == "None" or not Path(found).is_relative_to(ROOT / "transformers")
    assert not (ROOT / "transformers" / "__init__.py").exists()
    assert not list((ROOT / "transformers").glob("*.py"))


def packages() -> list[str]:
    names = list(PACKAGES)
    for name in PACKAGES:
        module = importlib.import_module(name)
        found = pkgutil.walk_packages(module.__path__, f"{name}.")
        names += [info.name for info in found if info.ispkg and "._" not in info.name]
    return names


DOOR = """
import importlib, sys
module = importlib.import_module(sys.argv[1])
assert module.__doc__, "does not say what it is for"
missing = [name for name in getattr(module, "__all__", ()) if not hasattr(module, name)]
assert not missing, f"__all__ names what is not there: {missing}"
"""


@pytest.mark.parametrize("name", packages())
def test_a_package_shows_its_door(name: str) -> None:
    # In a process of its own: some doors open on libraries that cannot share one (the protobuf
    # messages of KServe and of tritonclient have the same names).
    done = subprocess.run(
        [sys.executable, "-c", DOOR, name], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_no_source_file_is_longer_than_400_lines() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for path in tracked("*/src/*.py")
        if path.exists() and (count := len(path.read_text("utf-8").splitlines())) > 400
    }
    assert long == {}


def test_no_committed_text_names_a_machine_or_an_index() -> None:
    forbidden = re.compile(
        "|".join(["/ro" + "ot/", "/" + "work/", "pypi" + r"\.org", "file" + "s.python"])
    )
    offenders = []
    for path in tracked("."):
        if path.suffix in {".png", ".parquet", ".onnx"} or not path.is_file():
            continue
        if forbidden.search(path.read_text("utf-8", errors="replace")):
            offenders.append(str(path.relative_to(ROOT)))
    assert offenders == []


def test_make_help_lists_every_promised_target() -> None:
    text = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True, env=os.environ
    ).stdout
    targets = {line.split()[0] for line in text.splitlines() if line.strip()}
    assert {"help", "setup", "lock", "check", "test", "demo", "bench", "bench-serving"} <= targets
