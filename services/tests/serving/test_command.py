"""The command line: every option is there, in a group, with a text; mistakes are one line."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from coalmine.serving import ServeOptions, StartupError, serve
from coalmine.serving.__main__ import _GROUPS, _parser, main
from coalmine.serving._records_to import settle_records


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
    "m.onnx --port x": "--port: 'x' is not a port, 0 to 65535",
    "m.onnx --port 65536": "is not a port",
    "m.onnx --max-queue-rows 0": "--max-queue-rows: '0' is not a whole number, 1 or more",
    "m.onnx --drain -1": "--drain: '-1' is not a number of seconds",
    "m.onnx --drain nan": "is not a number of seconds",
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
    assert "records: file is not a database" in capsys.readouterr().err
