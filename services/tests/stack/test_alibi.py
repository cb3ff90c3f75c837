"""The monitors of alibi-detect are a part of the stack where the service file asks for them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from coalmine.spec import ServiceFileError, ServiceSpec, load_service
from coalmine.stack import Ports, StackError, StateDirectory
from coalmine.stack._alibi import alibi_python
from coalmine.stack._parts import Parts

BASE = {"name": "tiny", "model": {"uri": "file:/nowhere"}}


def service(*alibi: dict[str, Any]) -> ServiceSpec:
    return ServiceSpec.model_validate({**BASE, "monitors": {"alibi": list(alibi)}})


def test_nobody_who_does_not_ask_for_it_needs_it() -> None:
    assert alibi_python(service(), {}) is None


@pytest.mark.parametrize("environ", [{}, {"COALMINE_ALIBI_PYTHON": "/nowhere/python"}])
def test_without_its_environment_the_fix_is_told(environ: dict[str, str]) -> None:
    asked = service({"name": "ks", "detector": "KSDrift"})
    with pytest.raises(StackError, match=r"monitors\.alibi: .*make alibi.*COALMINE_ALIBI_PYTHON="):
        alibi_python(asked, environ)


def test_it_is_one_more_process_that_prometheus_scrapes(tmp_path: Path) -> None:
    asked = service({"name": "ks", "detector": "KSDrift"})
    state = StateDirectory(tmp_path)
    state.create()
    parts = Parts(
        service=asked,
        service_file=tmp_path / "coalmine.yaml",
        state=state,
        ports=Ports(9000),
        alerting=("prometheus", "alertmanager"),
        alibi=alibi_python(asked, {"COALMINE_ALIBI_PYTHON": sys.executable}),
    )
    (part,) = parts.monitors()
    assert part.command[:3] == (sys.executable, "-m", "coalmine_alibi")
    assert part.url == "http://127.0.0.1:9009"
    parts.alerts()
    assert "127.0.0.1:9009" in (tmp_path / "prometheus.yaml").read_text("utf-8")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("{name: x}", "give either `detector`, a class, or `saved`"),
        ("{name: x, detector: KsDrift}", "'KSDrift'"),
        ("{name: x, saved: d, features: [a]}", "`trusted: true`"),
        ("{name: x, saved: d, trusted: true}", "`features`"),
        ("{name: x, detector: KSDrift}, {name: x, detector: CVMDrift}", "more than one is named x"),
    ],
)
def test_mistakes_of_the_file_are_told(tmp_path: Path, entry: str, said: str) -> None:
    file = tmp_path / "coalmine.yaml"
    file.write_text(
        f"name: tiny\nmodel: {{uri: 'file:/nowhere'}}\nmonitors: {{alibi: [{entry}]}}\n", "utf-8"
    )
    with pytest.raises(ServiceFileError) as caught:
        load_service(file)
    assert said in str(caught.value)
    assert "monitors" in str(caught.value)
