"""Run by test_log.py: appends numbered batches as one emitter, then ends.

Usage: append_and_end.py URL EMITTER COUNT
"""

from __future__ import annotations

import contextlib
import sys

import numpy as np

from coalmine.modeldir import Column, ModelCard, Tensor
from coalmine.records import BatchId, InferenceRecord, open_log, record_batch

CARD = ModelCard(
    name="m",
    inputs=(Tensor(name="x", datatype="FP32", shape=(-1,), columns=(Column(name="c"),)),),
    outputs=(),
)


def main() -> None:
    emitter, count = sys.argv[2], int(sys.argv[3])
    inputs = {"x": np.zeros(1, np.float32)}
    with contextlib.closing(open_log(sys.argv[1])) as log:
        for number in range(1, count + 1):
            record = InferenceRecord(f"{emitter}-{number}", 1.0, "v2", 1, inputs, {})
            batch = record_batch([record], card=CARD, model_version="1", arm="stable")
            log.append(batch, batch_id=BatchId(emitter, number, number))


if __name__ == "__main__":
    main()
