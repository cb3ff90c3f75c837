"""What the service file says of the log's size reaches the collector, and who reads the archive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coalmine.records import archive_of
from coalmine.spec import ServiceSpec
from coalmine.stack._ports import Ports
from coalmine.stack._services import Surroundings, _retention
from coalmine.stack._state import StateDirectory


def around(tmp_path: Path, **records: Any) -> Surroundings:
    service = ServiceSpec.model_validate(
        {"name": "tiny", "model": {"uri": "file:m"}, "records": records}
    )
    state = StateDirectory(tmp_path / "my state")
    return Surroundings(service=service, state=state, ports=Ports(9080))


def test_without_limits_nothing_leaves_the_log(tmp_path: Path) -> None:
    assert _retention(around(tmp_path)) is None


def test_limits_leave_what_monitors_have_to_judge_and_keep_an_archive(tmp_path: Path) -> None:
    found = around(tmp_path, max_age="7d", max_bytes="2GiB")
    retention = _retention(found)
    assert retention is not None
    assert (retention.max_age, retention.max_bytes) == (7 * 86_400, 2 * 1024**3)
    assert set(retention.consumers) == {"tiny/drift", "tiny/data_quality", "tiny/accuracy"}
    assert retention.archive == archive_of(found.log_url) == tmp_path / "my state" / "archive"


def test_without_an_archive_what_leaves_is_gone(tmp_path: Path) -> None:
    found = around(tmp_path, max_bytes=1, archive=False)
    retention = _retention(found)
    assert retention is not None
    assert retention.archive is archive_of(found.log_url) is None


@pytest.mark.parametrize("records", [{"max_age": 0}, {"max_bytes": 0}, {"keep": "7d"}])
def test_what_makes_no_sense_is_refused(tmp_path: Path, records: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="records"):
        around(tmp_path, **records)
