"""The service file: what is accepted, and how a mistake is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coalmine.spec import ServiceFileError, load_service, service_schema

MINIMAL = "name: m\nmodel: {uri: 'file:/models/m'}\n"


def write(directory: Path, text: str) -> Path:
    path = directory / "coalmine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def problems_of(directory: Path, text: str) -> list[str]:
    with pytest.raises(ServiceFileError) as caught:
        load_service(write(directory, text))
    return str(caught.value).splitlines()


def test_minimal_file_gets_defaults(tmp_path: Path) -> None:
    service = load_service(write(tmp_path, MINIMAL))
    assert service.name == "m"
    assert [step.weight for step in service.rollout.steps] == [10, 50]
    assert service.retraining is None


def test_a_model_says_what_it_runs_on(tmp_path: Path) -> None:
    text = (
        "name: m\nmodel: {uri: 'file:m', threads: 0, providers: [cuda, cpu], require_gpu: true}\n"
    )
    model = load_service(write(tmp_path, text)).model
    assert (model.threads, model.providers, model.require_gpu) == (0, ("cuda", "cpu"), True)
    plain = load_service(write(tmp_path, MINIMAL)).model
    assert (plain.threads, plain.providers, plain.require_gpu) == (1, ("cpu",), False)


def test_durations_and_sizes_have_units(tmp_path: Path) -> None:
    text = (
        MINIMAL + "routing: {timeout: 1500ms}\nlimits: {max_body: 8MiB}\nrollout: {cooldown: 2h}\n"
    )
    service = load_service(write(tmp_path, text))
    assert service.routing.timeout == 1.5
    assert service.limits.max_body == 8 * 1024**2
    assert service.rollout.cooldown == 7200.0


def test_every_mistake_is_told_with_line_key_found_and_allowed(tmp_path: Path) -> None:
    lines = problems_of(
        tmp_path,
        "name: Bad_Name\n"
        "model: {uri: 'models:/x@champion', thread: 2}\n"
        "routing:\n"
        "  timeout: 8 parsec\n"
        "features:\n"
        "  - name: a\n"
        "  - name: b\n"
        "    role: sensor_check\n",
    )
    path = tmp_path / "coalmine.yaml"
    assert any(line.startswith(f"{path}:1: name:") and "'Bad_Name'" in line for line in lines)
    allowed = "providers, require_gpu, threads, uri"
    assert f"{path}:2: model.thread: is not a known key; allowed here: {allowed}" in lines
    assert any(
        line.startswith(f"{path}:4: routing.timeout:") and "500ms" in line and "8 parsec" in line
        for line in lines
    )
    assert any(line.startswith(f"{path}:7: features.1:") for line in lines)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "a service file is a mapping"),
        ("- a\n", "a service file is a mapping"),
        ("name: m\n", "model: is required"),
        ("name: [\n", "not YAML"),
        (MINIMAL + "name: n\n", "coalmine.yaml:3: name: is there twice, first in line 1"),
        (
            MINIMAL + "rollout: {steps: [{weight: 5, weight: 50}]}\n",
            "rollout.steps.0.weight: is there twice, first in line 3",
        ),
        (MINIMAL + "rollout: {steps: [{weight: 50}, {weight: 10}]}\n", "weights must rise"),
        (
            MINIMAL + "rollout: {baseline: true, steps: [{weight: 50}, {weight: 60}]}\n",
            "steps.1.weight: 60: with `baseline: true` at most 50",
        ),
        (MINIMAL + "features: [{name: a}, {name: a}]\n", "listed more than once: a"),
        (MINIMAL + "features: [{name: a, range: [3, 2]}]\n", "the lower limit comes first"),
        (
            MINIMAL + "monitors: {performance: {maturity: 45d}}\n",
            "monitors.performance.maturity: 45 days: at most 30d",
        ),
        (MINIMAL + "transformer: not-a-path\n", "transformer"),
        ("name: m\nmodel: {uri: 'file:m', threads: -1}\n", "model.threads"),
        ("name: m\nmodel: {uri: 'file:m', providers: [gpu]}\n", "model.providers"),
        ("name: m\nmodel: {uri: 'file:m', providers: []}\n", "model.providers"),
        ("name: m\nmodel: {uri: 'file:m', providers: [cuda, cuda]}\n", "name each only once"),
        ("name: m\nmodel: {uri: 'file:m', require_gpu: true}\n", "needs a GPU among `providers`"),
        (MINIMAL + "routing: {timeout: .inf}\n", "routing.timeout"),
        (MINIMAL + "routing: {timeout: .nan}\n", "routing.timeout"),
        ("name: m\nmodel: {uri: 'http://x'}\n", "model.uri"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in "\n".join(problems_of(tmp_path, text))


def test_an_unreadable_file_is_told_not_raised(tmp_path: Path) -> None:
    with pytest.raises(ServiceFileError, match="cannot be read"):
        load_service(tmp_path / "absent.yaml")
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ServiceFileError, match="not UTF-8"):
        load_service(binary)


def test_the_schema_describes_every_key() -> None:
    schema = service_schema()
    assert schema["required"] == ["name", "model"]
    assert {"features", "routing", "rollout", "monitors", "retraining", "limits"} <= set(
        schema["properties"]
    )
    assert schema["additionalProperties"] is False


def keys_of(schema: dict[str, Any], node: dict[str, Any], prefix: str = "") -> list[str]:
    """Every key path of the schema, lists as `[]`."""
    options = [node, *node.get("anyOf", ())]
    if "items" in node:
        return keys_of(schema, node["items"], f"{prefix}[]")
    for option in options:
        if "$ref" in option:
            target = schema["$defs"][option["$ref"].rsplit("/", 1)[1]]
            return keys_of(schema, target, prefix)
    keys = [prefix] if prefix else []
    for name, child in node.get("properties", {}).items():
        keys += keys_of(schema, child, f"{prefix}.{name}" if prefix else name)
    return keys


def test_the_documentation_has_every_key() -> None:
    text = (Path(__file__).parents[3] / "docs" / "service-file.md").read_text("utf-8")
    schema = service_schema()
    keys = keys_of(schema, {"properties": schema["properties"]})
    assert len(keys) > 40
    leaves = [key for key in keys if not any(other.startswith(f"{key}.") for other in keys)]
    # A step's keys and the members of plain lists are told in the row of their list, those of the
    # pods that train in the rows of the pods of the other steps.
    elsewhere = (
        "rollout.steps[]",
        "retraining.cluster.steps.tolerations[]",
        "retraining.cluster.training.",
    )
    missing = [
        key
        for key in leaves
        if f"`{key}`" not in text
        and f"`{key.removesuffix('[]')}`" not in text
        and not key.startswith(elsewhere)
    ]
    assert missing == []
