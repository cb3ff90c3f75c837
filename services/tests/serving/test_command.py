"""The command line: every option is there, in a group, with a text; mistakes are one line."""

from __future__ import annotations

import dataclasses
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from coalmine.serving import ServeOptions, StartupError, serve
from coalmine.serving.__main__ import _GROUPS, _parser, main
from coalmine.serving._records_to import settle_records
from coalmine.serving._transformer_main import options_of


def test_every_option_has_its_place() -> None:
    given = [name for options in _GROUPS.values() for name in options]
    fields = {field.name for field in dataclasses.fields(ServeOptions)}
    assert sorted(given) == sorted(fields - {"model", "also", "predictor"})


def test_the_defaults_are_the_options_own_and_survive_a_process() -> None:
    given = vars(_parser().parse_args(["m.onnx", "--model-cache", "c", "--spool", "s"]))
    (model,) = given.pop("model")
    options = ServeOptions(model=model, **given)
    assert options == ServeOptions(model="m.onnx", model_cache=Path("c"), spool=Path("s"))
    assert ServeOptions.from_json(options.to_json()) == options


def test_help_shows_groups_and_examples() -> None:
    command = (sys.executable, "-m", "coalmine.cli", "serve", "--help")
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for title in (*_GROUPS, "examples"):
        assert f"\n{title}:\n" in done.stdout
    assert "coalmine serve my_model:Mean" in done.stdout


MISTAKES = {
    "": "required: [NAME=]MODEL",
    "m.onnx --port x": "--port: 'x' is not a whole number from 0 to 65535",
    "m.onnx --port 65536": "is not a whole number from 0 to 65535",
    "m.onnx --grpc-port 0": "--grpc-port: '0' is not a whole number from 1 to 65535",
    "m.onnx --max-queue-rows 0": "--max-queue-rows: '0' is not a whole number from 1",
    "m.onnx --processes 1000000": "--processes: '1000000' is not a whole number from 1 to 1024",
    "m.onnx --threads -1": "--threads: '-1' is not a whole number from 0 to 1024",
    "m.onnx --max-body 1e6": "--max-body: '1e6' is not a whole number",
    "m.onnx --request-timeout 0": "--request-timeout: '0' is not a number of seconds above 0",
    "m.onnx --request-timeout -0.5": "--request-timeout: '-0.5' is not a number of seconds above 0",
    "m.onnx --request-timeout nan": "--request-timeout: 'nan' is not a number of seconds above 0",
    "m.onnx --request-timeout 1e300": "--request-timeout: '1e300' is not a number of seconds",
    "m.onnx --receive-timeout inf": "--receive-timeout: 'inf' is not a number of seconds",
    "m.onnx --drain -1": "--drain: '-1' is not a number of seconds",
    "m.onnx --drain nan": "is not a number of seconds",
    "m.onnx --providers cuda,gpu": "--providers: 'cuda,gpu': each once, of: tensorrt, cuda, cpu",
    "m.onnx --providers cpu,cpu": "--providers: 'cpu,cpu': each once",
    "m.onnx --arm blue": "choose from 'stable', 'canary'",
    "m.onnx --rec off": "unrecognized arguments: --rec",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_line_and_a_hint(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["serve", *line.split()])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert said[0].startswith("coalmine serve: ")
    assert MISTAKES[line] in said[0]
    assert said[1] == "coalmine serve --help lists all options"


TRANSFORM = ["a:B", "--name", "m", "--predictor", "http://127.0.0.1:9"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--predictor-timeout", "nan"),
        ("--predictor-retries", "-1"),
        ("--workers", "0"),
        ("--max-body", "0"),
        ("--request-timeout", "-1"),
        ("--drain", "1e12"),
        ("--arm", "blue"),
    ],
)
def test_a_transformers_options_are_checked_alike(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        options_of([*TRANSFORM, option, value])
    assert caught.value.code == 2
    said, hint = capsys.readouterr().err.splitlines()
    assert said.startswith("coalmine transform: ")
    assert option in said
    assert f"'{value}'" in said
    assert hint == "coalmine transform --help lists all options"


def test_a_transformers_limits_are_the_servers() -> None:
    options = options_of([*TRANSFORM, "--max-connections", "7", "--request-timeout", "2.5"])
    assert (options.max_connections, options.request_timeout) == (7, 2.5)
    assert options.receive_timeout == ServeOptions(model="m").receive_timeout


NUMBERS = [
    field.name
    for field in dataclasses.fields(ServeOptions)
    if str(field.type).removesuffix(" | None") in ("int", "float")
]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), 2**70, True])
def test_numbers_given_in_python_are_checked_as_those_of_the_command_line(
    name: str, value: float, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong: dict[str, Any] = {name: value}
    assert serve(ServeOptions(model="m.onnx", **wrong)) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"coalmine serve: --{name.replace('_', '-')}: {value!r} is not a ")


NONSENSE = {
    "m.onnx --grpc-port 9000": "--grpc-port is for uvicorn",
    "m.onnx --server uvicorn --port 9000 --grpc-port 9000": "uvicorn needs two",
    "m.onnx --spool here": "--spool is for records",
    "m.onnx --spool here --records off": "--spool is for records",
    "m.onnx --records records.db": "allowed: sqlite:///FILE",
    "m.onnx --records sqlite:///": "allowed: sqlite:///FILE",
    "m.onnx --records ftp://host": "allowed: sqlite:///FILE",
    "m.onnx --records http://": "allowed: sqlite:///FILE",
    "m.onnx --records http://host:port": "Port could not be cast",
    "m.onnx --artefact transformer.json": "add --transformer",
}


@pytest.mark.parametrize("line", NONSENSE)
def test_options_that_make_no_sense_together(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["serve", *line.split()])
    assert main() == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("coalmine serve: ")
    assert NONSENSE[line] in said


@pytest.mark.parametrize(
    ("options", "spool"),
    [
        ({"model": "models/fraud.onnx"}, "fraud-stable"),
        ({"model": "s3://bucket/models/fraud/"}, "fraud-stable"),
        ({"model": "my_models:Mean"}, "my_models-Mean-stable"),
        ({"model": "x.onnx", "name": "a/b"}, "a-b-stable"),
    ],
)
def test_the_default_spool_is_the_models_own(
    options: dict[str, str], spool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    url = f"sqlite:///{tmp_path}/records.db"
    found = settle_records(ServeOptions(records=url, **options))  # type: ignore[arg-type]
    assert found.spool == tmp_path / "records.db.spool" / spool
    found = settle_records(ServeOptions(records="http://127.0.0.1:9", **options))  # type: ignore[arg-type]
    assert found.spool == tmp_path / "state" / "coalmine" / "spool" / spool
    given = settle_records(ServeOptions(records=url, spool=tmp_path / "own", **options))  # type: ignore[arg-type]
    assert given.spool == tmp_path / "own"


def test_off_is_no_records() -> None:
    assert settle_records(ServeOptions(model="m", records="off")).records is None
    assert settle_records(ServeOptions(model="m")).spool is None
    with pytest.raises(StartupError):
        settle_records(ServeOptions(model="m", records=""))


def test_a_file_that_is_no_log_stops_the_start(
    tmp_path: Path, model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "records.db").write_text("notes, and no database\n" * 100)
    options = ServeOptions(
        model=str(model_dir),
        records=f"sqlite:///{tmp_path}/records.db",
        server="uvicorn",
        port=0,
    )
    assert serve(options) == 1
    assert "records.db: file is not a database" in capsys.readouterr().err


def test_a_file_that_may_not_be_read_stops_the_start_by_its_name(
    tmp_path: Path, model_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = shutil.copytree(model_dir, tmp_path / "model")
    (model / "notes").symlink_to("n" * 300)  # nobody can, not even root, who may all else
    assert serve(ServeOptions(model=str(model), server="uvicorn", port=0)) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said == f"coalmine serve: {model / 'notes'}: File name too long"


def test_a_port_that_is_taken_is_named_with_the_option(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert serve(ServeOptions(model="model.onnx", port=port)) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said == (
        f"coalmine serve: cannot listen on 127.0.0.1:{port}: Address already in use; "
        "--port names another"
    )


def test_without_its_extra_the_server_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # what is not there, to the import
    assert serve(ServeOptions(model="model.onnx", port=0)) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert "pip install 'coalmine[serving]'" in said
