"""Looking at the evidence of a stage, at the right times, and noting what it said."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from coalmine.clock import Clock
from coalmine.rollout._combine import combine
from coalmine.rollout._decide import Policy, Verdict, decide
from coalmine.rollout._errors import EvidenceUnavailable
from coalmine.rollout._evidence import Evidence
from coalmine.rollout._select import select
from coalmine.rollout._source import EvidenceSource
from coalmine.rollout._state import Rollout, policy_of

__all__ = ["Judge", "Judgement"]

#: Looks get rarer as a rollout gets older, since each is at all of its evidence.
_LOOKS_PER_AGE = 60.0
_SHORTEST, _LONGEST = 1.0, 30.0


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict with everything it was made of."""

    evidence: Evidence
    policy: Policy
    verdict: Verdict
    source: str
    """Digest of the answer of each source that was asked, as it came."""

    news: bool
    """Whether it says something that the look before did not."""

    @property
    def body(self) -> dict[str, Any]:
        """For the ledger: from `evidence` and `policy` alone the verdict can be computed again."""
        return {
            "verdict": self.verdict.model_dump(mode="json"),
            "policy": self.policy.model_dump(mode="json"),
            "evidence": self.evidence.model_dump(mode="json"),
            "source": self.source,
            "asked": self.evidence.source,
            "queries": [query.model_dump(mode="json") for query in self.evidence.queries],
        }


class Judge:
    """Fetches evidence and decides. It changes nothing."""

    def __init__(
        self,
        monitor: EvidenceSource,
        *,
        requests: EvidenceSource | None = None,
        clock: Clock,
        sticky: bool = False,
    ) -> None:
        """`requests` counts the requests, where that is not the performance monitor."""
        self._sources = (monitor,) if requests is None else (requests, monitor)
        self._sticky = sticky
        self._clock = clock
        self._next_look: tuple[str, float] = ("", 0.0)
        self._said: tuple[Any, ...] = ()
        self.latest: tuple[str, Verdict] | None = None
        """The last verdict, and the id of the rollout that it is about."""

        self.problem: str | None = None
        """Why the last look saw nothing."""

    async def look(self, rollout: Rollout) -> Judgement | None:
        """Judge the current stage; None if it is not yet time, or there is nothing to look at."""
        now = self._clock.monotonic()
        stage = f"{rollout.id} {rollout.stage}"
        if self._next_look[0] == stage and now < self._next_look[1]:
            return None
        begin = rollout.windows[0].opened_at
        age = self._clock.time() - begin
        pause = min(max(age / _LOOKS_PER_AGE, _SHORTEST), _LONGEST)
        self._next_look = (stage, now + pause)
        try:
            contents = [await source.fetch(begin) for source in self._sources]
            # Parsing an hour of blocks takes longer than the loop may be kept waiting.
            judgement = await asyncio.to_thread(self._judged, contents, rollout, stage)
        except EvidenceUnavailable as error:
            # No evidence decides nothing, and time goes on.
            self.problem = f"no evidence: {error}"
            return None
        self.problem = None
        self.latest = (rollout.id, judgement.verdict)
        return judgement

    def _judged(self, contents: Sequence[bytes], rollout: Rollout, stage: str) -> Judgement:
        found = [
            select(
                source.read(content),
                windows=rollout.windows,
                candidate=rollout.candidate.version,
                stable="" if rollout.stable is None else rollout.stable.version,
                block_s=source.block_s,
                sticky=self._sticky,
            )
            for source, content in zip(self._sources, contents, strict=True)
        ]
        evidence = found[0] if len(found) == 1 else combine(found[0], found[1])
        policy = policy_of(rollout)
        verdict = decide(evidence, policy)
        passed = tuple((g.metric, g.source) for g in verdict.guards if g.non_inferior)
        said = (stage, rollout.held, verdict.kind, passed)
        news, self._said = said != self._said, said
        return Judgement(
            evidence=evidence,
            policy=policy,
            verdict=verdict,
            source=" ".join(
                f"sha256:{hashlib.sha256(content).hexdigest()}" for content in contents
            ),
            news=news,
        )
