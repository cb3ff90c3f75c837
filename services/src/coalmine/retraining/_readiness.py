"""Whether a run that was accepted may start now, must wait, or must not start at all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

from coalmine.records import archive_of, open_log
from coalmine.retraining._peers import PeerError, Peers
from coalmine.retraining._recent import Window, count_labelled, count_rows
from coalmine.retraining._registry import MlflowRegistry
from coalmine.retraining._types import Run
from coalmine.retraining.learning import MIN_WINDOWS
from coalmine.spec import RetrainingSpec

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer, and what it waits for or why it is suppressed."""

    answer: Literal["go", "wait", "suppress"]
    reason: str


class Readiness:
    """Asks the registry, the peers and the log."""

    def __init__(
        self,
        *,
        policy: RetrainingSpec,
        window_rows: int,
        log_uri: str,
        peers: Peers,
        registry: MlflowRegistry,
        features: Callable[[str], Collection[str] | None],
    ) -> None:
        self._policy = policy
        self._needed_rows = MIN_WINDOWS * window_rows
        self._log_uri = log_uri
        self._peers = peers
        self._registry = registry
        self._features = features

    @property
    def maturity(self) -> float:
        """Seconds after which the labels of a record count as complete."""
        return self._policy.maturity

    async def of(self, run: Run, *, now: float) -> Verdict:
        """Judge a waiting run.

        The quality monitor is asked before and after the labels are counted: a sensor's fault costs
        accuracy too, and a model must never learn from it.
        """
        try:
            found = await self._judge(run, now)
        except Exception as error:  # a busy database, say: the run can wait, and not for ever
            _log.warning("run %s waits: %s", run.id, error)
            found = Verdict("wait", f"an answer of the registry and the log ({error})")
        if found.answer == "wait" and now > run.created + self._policy.max_wait:
            waited = f"{self._policy.max_wait:g} s"
            return Verdict("suppress", f"waited {waited} in vain for {found.reason}")
        return found

    async def _judge(self, run: Run, now: float) -> Verdict:
        champion = await asyncio.to_thread(self._registry.champion)
        if champion != run.model_version:
            return Verdict("suppress", f"version {run.model_version} no longer serves")
        found = await self._ask_peers(run)
        if found.answer == "go":
            found = await asyncio.to_thread(self._count, run, now)
        if found.answer == "go":
            found = await self._ask_peers(run)
        return found

    async def _ask_peers(self, run: Run) -> Verdict:
        try:
            quality = await self._peers.quality(self._features(run.model_version))
            rollouts = await self._peers.rollouts()
        except PeerError as error:
            return Verdict("wait", f"an answer of {error}")
        if quality.incident is not None:
            return Verdict("suppress", f"data quality: {quality.incident}")
        if quality.evaluated_to < run.alerted:
            return Verdict("wait", "the data-quality monitor to judge up to the alert")
        under_way = [rollout.version for rollout in rollouts if not rollout.over]
        if under_way:
            return Verdict("wait", f"the rollout of version {under_way[0]} to end")
        return Verdict("go", "")

    def _count(self, run: Run, now: float) -> Verdict:
        window = Window(run.model_version, run.since, now - self._policy.maturity)
        log, archive = open_log(self._log_uri), archive_of(self._log_uri)
        try:
            rows = count_rows(log, window, archive=archive)
            if rows < self._needed_rows:  # the new version's monitors need so long a reference
                return Verdict("wait", f"{self._needed_rows} rows since the onset; {rows} so far")
            labels = count_labelled(log, window, archive=archive)
        finally:
            log.close()
        if labels < self._policy.min_labels:
            needed = self._policy.min_labels
            return Verdict("wait", f"{needed} labels since the onset; {labels} so far")
        return Verdict("go", "")
