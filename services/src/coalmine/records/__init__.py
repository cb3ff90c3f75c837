"""Inference records: what was asked, what was answered, and later what was true.

A model server gives each request to a `RecordEmitter`, which keeps it on disk before the response
is sent and ships it, as Arrow batches, to the collector (`create_collector`). The collector appends
to a `RecordLog`, where monitors and retraining read with cursors of their own, and where labels,
which come late, are joined by request id. `spool_stats` is an emitter's account, read from outside.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from coalmine.clock import SYSTEM_CLOCK, Clock
from coalmine.records._archive import archive
from coalmine.records._archived import archived_labels, archived_rows, label_archived
from coalmine.records._consumer import Consumer, Entry, monitor_consumer, read_all
from coalmine.records._decode import record_batch
from coalmine.records._emitter import RecordEmitter, drain_spool
from coalmine.records._errors import (
    LogError,
    LogFullError,
    LogUnavailableError,
    MalformedBatchError,
    MalformedEventError,
    MalformedLabelsError,
    RecordsError,
    SchemaError,
    SpoolInUseError,
)
from coalmine.records._event_window import WindowLimits
from coalmine.records._housekeeping import Retention
from coalmine.records._label_check import check_labels
from coalmine.records._label_files import label_format, read_labels
from coalmine.records._log import RecordLog, archive_of, open_log
from coalmine.records._schema import (
    class_name,
    is_reserved,
    label_categories,
    record_schema,
)
from coalmine.records._spool import spool_stats
from coalmine.records._types import (
    CALLER_BLOCKS,
    CALLER_NONE,
    CALLER_UNKNOWN,
    AnsweredRequest,
    AnsweredTuple,
    BatchId,
    EmitterState,
    InferenceRecord,
    Label,
    LabelCounts,
    LogStats,
    NewBatch,
    Protocol,
    SpoolStats,
)

if TYPE_CHECKING:
    from fastapi import FastAPI
    from prometheus_client import CollectorRegistry

__all__ = [
    "CALLER_BLOCKS",
    "CALLER_NONE",
    "CALLER_UNKNOWN",
    "AnsweredRequest",
    "AnsweredTuple",
    "BatchId",
    "Consumer",
    "EmitterState",
    "Entry",
    "InferenceRecord",
    "Label",
    "LabelCounts",
    "LogError",
    "LogFullError",
    "LogStats",
    "LogUnavailableError",
    "MalformedBatchError",
    "MalformedEventError",
    "MalformedLabelsError",
    "NewBatch",
    "Protocol",
    "RecordEmitter",
    "RecordLog",
    "RecordsError",
    "Retention",
    "SchemaError",
    "SpoolInUseError",
    "SpoolStats",
    "WindowLimits",
    "archive",
    "archive_of",
    "archived_labels",
    "archived_rows",
    "check_labels",
    "class_name",
    "create_collector",
    "drain_spool",
    "is_reserved",
    "label_archived",
    "label_categories",
    "label_format",
    "monitor_consumer",
    "open_log",
    "read_all",
    "read_labels",
    "record_batch",
    "record_schema",
    "spool_stats",
]


def create_collector(
    log: RecordLog,
    *,
    clock: Clock = SYSTEM_CLOCK,
    retention: Retention | None = None,
    registry: CollectorRegistry | None = None,
    models: Path | None = None,
    event_window: WindowLimits | None = None,
) -> FastAPI:
    """The collector: `POST /v1/records`, `/v1/events` and `/v1/labels`, `GET /v1/records/stats`.

    The caller opens and closes the log. `retention` runs beside the app; `registry` receives its
    metrics (a new one by default). `models` is a directory of model directories by version, from
    which events of KServe's logger are understood; without it their models are learned from them.
    `event_window` bounds how long the two events of a call wait for each other.
    """
    from coalmine.records import _collector  # FastAPI is only for those who run a collector

    return _collector.create_collector(
        log,
        clock=clock,
        retention=retention,
        registry=registry,
        models=models,
        event_window=event_window,
    )
