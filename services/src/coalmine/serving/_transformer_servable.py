"""A servable whose network is a predictor elsewhere."""

from __future__ import annotations

import asyncio

from coalmine.clock import SYSTEM_CLOCK, Clock
from coalmine.modeldir import ModelCard
from coalmine.protocol import InferenceCall, Tensors
from coalmine.serving._batch import Computed, Outcome
from coalmine.serving._delivery import Request
from coalmine.serving._errors import DeadlineError
from coalmine.serving._servable import Servable
from coalmine.serving._source import made_up_card
from coalmine.serving._transformer_chain import Chain, Chained, forwarded
from coalmine.serving._transformer_exchange import Exchange

__all__ = ["RemoteServable"]


class RemoteServable(Servable):
    """A transformer in front of its predictor, answering calls as any servable does.

    It has neither queue nor batches of its own, so that as many requests are on their way as the
    server admits: putting them together is the predictor's business, which knows what that costs.
    """

    queued_rows = 0

    def __init__(
        self, chain: Chain, *, name: str, version: str, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        # Not the base's: that would make a batcher, and warm up a network that is not here.
        self.name = name
        self.version = version
        self.platform = "coalmine_transformer"
        self.providers: list[str] = []
        self.chain = chain
        self.signature = chain.signature
        self.card: ModelCard = made_up_card(chain.signature, name=name)
        self._clock = clock
        self._empty: Tensors = chain.nothing

    async def infer(self, call: InferenceCall) -> Outcome:
        """Answer a call; what the predictor refuses, or cannot do, is raised as it is here."""
        identifier = Exchange.current().request_id(call.id, self._clock)
        chained = await self._ask(call.tensors, call.rows, identifier)
        computed = Computed(chained.features, chained.predictions, chained.outputs)
        return Outcome(computed, 0.0, call.rows)

    async def answer(self, request: Request) -> None:
        """Answer a request of the server that is host, within its deadline."""
        if request.rows == 0:
            self._answer_nothing(request)
            return
        left = request.deadline - self._clock.monotonic()
        if left <= 0:
            raise DeadlineError("the request's time was over before it could begin")
        asking = self._ask(request.tensors, request.rows, request.request_id, timeout=left)
        request.future = future = asyncio.ensure_future(asking)  # so that it can be abandoned
        chained = await future
        request.reply = request.encode(chained.outputs)
        took = self._clock.monotonic() - request.arrived
        self.metrics.answered(request.protocol, 200, took)
        self.metrics.stepped(chained.steps, running=took, requests=1)

    async def _ask(
        self, tensors: Tensors, rows: int, identifier: str, *, timeout: float | None = None
    ) -> Chained:
        exchange = Exchange.current()
        headers = forwarded(exchange.texts(), request_id=identifier)
        chained = await self.chain.run(tensors, rows=rows, headers=headers, timeout=timeout)
        exchange.answered.update(chained.headers)
        return chained

    @property
    def is_idle(self) -> bool:
        """Whether it may be closed: no call is on its way."""
        return self.calls == 0

    def close(self) -> None:
        """End the transformer's threads."""
        self.chain.close()
