"""Every answer leaves its record before it leaves the server."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc

from coalmine.records import spool_stats

ROWS = [[0.1, -0.2, 0.3, 0.4], [1.0, 2.0, -3.0, 0.0]]


def rows_of(log: Any, count: int, timeout: float = 15.0) -> list[dict[str, Any]]:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        batches = [batch for _, batch in log.read(0, limit_rows=100_000)]
        rows: list[dict[str, Any]] = [row for batch in batches for row in batch.to_pylist()]
        if len(rows) >= count:
            return rows
        time.sleep(0.05)
    raise AssertionError(f"{len(rows)} rows, not {count}")


@pytest.mark.parametrize("kind", ["native", "uvicorn"])
def test_one_row_per_instance_whatever_the_protocol(
    start: Any, model_dir: Path, tmp_path: Path, collector: Any, truth: Any, kind: str
) -> None:
    url, log = collector
    served = start(
        model_dir,
        *("--version", "3", "--arm", "canary", "--transformer", "moody:Moody"),
        *("--records", url, "--spool", str(tmp_path / "spool")),
        kind=kind,
    )
    waits = [0.001, 0.001]
    instances = [{"raw": row, "wait": 0.001} for row in ROWS]
    v1 = httpx.post(
        f"{served.url}/v1/models/toy:predict",
        json={"instances": instances},
        headers={"x-request-id": "one"},
    )
    inputs = [
        {"name": "raw", "datatype": "FP32", "shape": [2, 4], "data": ROWS},
        {"name": "wait", "datatype": "FP32", "shape": [2], "data": waits},
    ]
    v2 = httpx.post(f"{served.url}/v2/models/toy/infer", json={"inputs": inputs, "id": "two"})
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{served.grpc_port}") as triton:
        raw = triton_grpc.InferInput("raw", [2, 4], "FP32")
        raw.set_data_from_numpy(np.array(ROWS, np.float32))
        wait = triton_grpc.InferInput("wait", [2], "FP32")
        wait.set_data_from_numpy(np.array(waits, np.float32))
        triton.infer("toy", [raw, wait], headers={"x-request-id": "three"})
    broken = httpx.post(
        f"{served.url}/v1/models/toy:predict",
        json={"instances": [{"raw": [666, 0, 0, 0], "wait": 0}]},
        headers={"x-request-id": "four"},
    )
    refused = httpx.post(f"{served.url}/v1/models/toy:predict", json={"instances": [3]})
    assert [a.status_code for a in (v1, v2, broken, refused)] == [200, 200, 500, 400]

    rows = rows_of(log, 7)
    assert len(rows) == 7, "a request that never reached the model leaves no record"
    labels, shares = truth(np.array(ROWS) * 2)
    for request_id, protocol in (("one", "v1"), ("two", "v2"), ("three", "grpc")):
        mine = [row for row in rows if row["request_id"] == request_id]
        assert [row["row"] for row in mine] == [0, 1]
        for index, row in enumerate(mine):
            assert row["protocol"] == protocol
            assert (row["model_name"], row["model_version"], row["arm"]) == ("toy", "3", "canary")
            assert row["status"] == 200
            assert 0 <= row["queue_us"] <= row["latency_us"] < 5_000_000
            assert row["batch_rows"] == 2
            assert row["f0"] == pytest.approx(ROWS[index][0] * 2), "what the network was given"
            assert row["label"] == labels[index]
            assert row["p_fault"] == pytest.approx(shares[index][1], rel=1e-4)
    (failed,) = [row for row in rows if row["request_id"] == "four"]
    assert (failed["status"], failed["f0"], failed["label"]) == (500, None, None)
    assert failed["error"]

    assert served.stop() == 0
    stats = spool_stats(tmp_path / "spool")
    assert (stats.emitted_rows, stats.pending_rows, stats.dropped_rows) == (7, 0, 0)


@pytest.mark.parametrize("kind", ["native", "uvicorn"])
def test_a_record_says_which_block_of_callers_asked_and_never_who(
    start: Any, model_dir: Path, tmp_path: Path, collector: Any, kind: str
) -> None:
    url, log = collector
    spool = ("--records", url, "--spool", str(tmp_path / "spool"))
    served = start(model_dir, *spool, "--caller-header", "X-User-Id", kind=kind)
    address = f"{served.url}/v1/models/toy:predict"
    for name, headers in (
        ("ada", {"x-user-id": "ada@example.org"}),
        ("bob", {"x-user-id": "bob@example.org"}),
        ("nobody", {}),
    ):
        body = {"instances": [ROWS[0]]}
        answer = httpx.post(address, json=body, headers={"x-request-id": name, **headers})
        assert answer.status_code == 200
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{served.grpc_port}") as triton:
        tensor = triton_grpc.InferInput("features", [1, 4], "FP32")
        tensor.set_data_from_numpy(np.array(ROWS[:1], np.float32))
        headers = {"x-request-id": "ada-by-gRPC", "x-user-id": "ada@example.org"}
        triton.infer("toy", [tensor], headers=headers)
    rows = {row["request_id"]: row for row in rows_of(log, 4)}
    blocks = {name: row["caller_block"] for name, row in rows.items()}
    assert blocks["ada"] == blocks["ada-by-gRPC"] != blocks["bob"]
    assert all(0 <= blocks[name] < 4096 for name in ("ada", "bob"))
    assert blocks["nobody"] == -1
    assert "example" not in str(rows)


@pytest.mark.parametrize(
    ("bound", "status"), [(("--max-concurrency", "3"), 429), (("--max-queue-rows", "2"), 503)]
)
async def test_what_is_shed_is_recorded_and_counted_in_few_records(
    start: Any,
    model_dir: Path,
    tmp_path: Path,
    collector: Any,
    bound: tuple[str, str],
    status: int,
) -> None:
    url, log = collector
    served = start(
        model_dir,
        *("--transformer", "moody:Moody", *bound),
        *("--records", url, "--spool", str(tmp_path / "spool")),
    )
    slow = {"instances": [{"raw": [1, 2, 3, 4], "wait": 1.5}]}
    limits = httpx.Limits(max_connections=60)
    async with httpx.AsyncClient(limits=limits, timeout=60) as client:
        address = f"{served.url}/v1/models/toy:predict"
        answers = await asyncio.gather(*(client.post(address, json=slow) for _ in range(60)))
    shed = sum(answer.status_code == status for answer in answers)
    assert shed > 40
    assert served.stop() == 0, "what waits is written at the end"
    rows = [row for _, batch in log.read(0, limit_rows=1000) for row in batch.to_pylist()]
    answered = [row for row in rows if row["status"] == 200]
    refused = [row for row in rows if row["status"] == status]
    assert len(answered) == 60 - shed
    assert sum(row["batch_rows"] for row in refused) == shed
    assert len(refused) < shed
    assert all(row["error"] and row["label"] is None for row in refused)


@pytest.mark.slow
def test_a_killed_server_loses_no_record_of_an_answer(
    start: Any, model_dir: Path, tmp_path: Path, collector: Any
) -> None:
    url, log = collector
    spool = tmp_path / "spool"
    # The collector is away at first: the records can only be on disk.
    arguments = ("--records", "http://127.0.0.1:9", "--spool", str(spool))
    served = start(model_dir, *arguments)
    answered = asyncio.run(_load_until_killed(served))
    assert answered > 20
    before = spool_stats(spool)
    assert answered <= before.emitted_rows <= answered + 8, "8 may have been on their way"
    again = start(
        model_dir, "--version", "2", "--records", url, "--spool", str(spool), port=served.port
    )
    rows = rows_of(log, before.emitted_rows)
    assert {row["model_version"] for row in rows} == {"1"}, "the dead server's, by the next one"
    assert len({row["request_id"] for row in rows}) == before.emitted_rows == len(rows)
    text = httpx.get(f"{again.url}/metrics").text
    assert "coalmine_records_pending" in text
    assert f'revision="2"}} {float(before.emitted_rows)}' in text


async def _load_until_killed(served: Any) -> int:
    answered = 0

    async def ask(client: httpx.AsyncClient) -> None:
        nonlocal answered
        while True:
            answer = await client.post(
                f"{served.url}/v1/models/toy:predict", json={"instances": [[1, 2, 3, 4]]}
            )
            assert answer.status_code == 200
            answered += 1

    async with httpx.AsyncClient(timeout=10) as client:
        tasks = [asyncio.create_task(ask(client)) for _ in range(8)]
        await asyncio.sleep(0.5)
        os.kill(served.process.pid, signal.SIGKILL)
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, httpx.TransportError) for result in results)
    return answered
