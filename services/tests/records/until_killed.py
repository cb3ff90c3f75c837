"""Run by test_kill.py: children that emit, or append to a log, until they are killed.

Usage: until_killed.py emit SPOOL COLLECTOR ROUNDS
       until_killed.py append LOG ROUNDS

Forks, so that a round costs no imports. A child writes how far it has come into a pipe, after each
call that returned; a line of JSON per round says what was in the pipe when the child was dead.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import select
import signal
import struct
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from coalmine.modeldir import Column, ModelCard, Tensor
from coalmine.records import BatchId, InferenceRecord, RecordEmitter, open_log, record_batch

CARD = ModelCard(
    name="m",
    inputs=(
        Tensor(
            name="x",
            datatype="FP32",
            shape=(-1, 24),
            columns=tuple(Column(name=f"f{i}") for i in range(24)),
        ),
    ),
    outputs=(),
)
ROWS = 4

Tell = Callable[[int], object]


def record(request_id: str) -> InferenceRecord:
    inputs = {"x": np.zeros((ROWS, 24), np.float32)}
    return InferenceRecord(request_id, 1.0, "v2", 1, inputs, {})


def emit_for_ever(spool: Path, url: str, tell: Tell, *, tag: int) -> None:
    async def emit() -> None:
        emitter = RecordEmitter(spool, url, card=CARD, model_version=str(tag), arm="stable")
        await emitter.start()
        count = 0
        while True:
            emitter.emit(record(f"{tag}-{count}"))
            count += 1
            tell(count)
            if count % 50 == 0:
                await asyncio.sleep(0.001)

    asyncio.run(emit())


def append_for_ever(url: str, tell: Tell, *, done: int) -> None:
    """From the last answer on, in batches of any size: what an emitter does after a restart."""
    log = open_log(url)
    while True:
        count = random.randint(1, 5)
        records = [record(str(number)) for number in range(done, done + count)]
        batch = record_batch(records, card=CARD, model_version="1", arm="stable")
        log.append(batch, batch_id=BatchId("e", done * ROWS + 1, (done + count) * ROWS))
        done += count
        tell(done)


def one_round(child: Callable[[Tell], None], *, told: int) -> int:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        child(lambda count: os.write(writing, struct.pack("<I", count)))
    os.close(writing)
    with open(reading, "rb", buffering=0) as pipe:
        data = b""
        first = pipe.read(4) or b""  # it has begun
        deadline = time.monotonic() + random.uniform(0.0, 0.2)
        while (left := deadline - time.monotonic()) > 0 and select.select([pipe], [], [], left)[0]:
            data = pipe.read(65536) or b""
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        rest = b"".join(iter(lambda: pipe.read(65536) or b"", b""))
    last = (first + data + rest)[-4:]
    return int(struct.unpack("<I", last)[0]) if last else told


def main() -> None:
    mode, *arguments, rounds = sys.argv[1:]
    # What is imported lazily is imported before the forks, or most children would die importing.
    record_batch([record("warm")], card=CARD, model_version="1", arm="stable")
    told = 0
    for tag in range(int(rounds)):
        if mode == "emit":
            spool, url = arguments
            child = partial(emit_for_ever, Path(spool), url, tag=tag)
        else:
            child = partial(append_for_ever, arguments[0], done=told)
        told = one_round(child, told=told)
        print(json.dumps({"tag": tag, "told": told}), flush=True)


if __name__ == "__main__":
    main()
