"""A transformer under KServe's own server: `kserve.Model` around the class that runs in ours.

KServe 0.21 keeps the predictor's address in a context variable, which the processes of `--workers`
do not have: there every call of a stock transformer is answered 501. This model takes the address
when the server starts, carries it along when it is pickled, and connects in whichever process it
finds itself. Importing KServe takes seconds of CPU; only users of this class do.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

from kserve import InferRequest, InferResponse, Model

from coalmine.clock import SYSTEM_CLOCK, Clock
from coalmine.serving._deadline import header_timeout
from coalmine.serving._errors import ModelLoadError, ServingError
from coalmine.serving._ids import request_id
from coalmine.serving._kserve_bytes import keep_bytes
from coalmine.serving._kserve_payload import answer_of, as_kserve, call_of, described, not_ready
from coalmine.serving._kserve_workers import let_workers_start
from coalmine.serving._transform import Transforming, load_transformer
from coalmine.serving._transformer_chain import Chain, connect, forwarded
from coalmine.serving._transformer_options import PredictorOptions

__all__ = ["KServeTransformer"]

_log = logging.getLogger("coalmine.serving")


class KServeTransformer(Model):  # type: ignore[misc] # KServe has no type information
    """A transformer as its own KServe service.

    ::

        battery = "coalmine_transformers.battery:BatteryTransformer"
        transformer = KServeTransformer("ev-battery", battery)
        transformer.load()
        kserve.ModelServer().start([transformer])

    The predictor is the one that the server is told (`--predictor_host`, `--predictor_protocol v1`,
    `v2` or `grpc-v2`, and so on), or `predictor`. Works with any number of `--workers`.
    """

    def __init__(
        self,
        name: str,
        transformer: str | Transforming,
        *,
        artefact: str | Path | None = None,
        predictor: PredictorOptions | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        super().__init__(name, return_response_headers=True)
        keep_bytes()
        self._transformer = transformer
        self._artefact = None if artefact is None else Path(artefact)
        self._predictor = predictor
        self._clock = clock
        self._made: Transforming | None = None
        self._chain: Chain | None = None
        self._opening: asyncio.Lock | None = None
        self._learning: asyncio.Future[bool] | None = None

    def load(self) -> bool:
        """Make the transformer; ModelLoadError says why it cannot be. The predictor may be away."""
        self._made = self._make()
        self.ready = True
        return True

    def start(self) -> None:
        """Take the predictor's address from the server; ModelLoadError if it has none."""
        super().start()
        let_workers_start()
        if self._predictor is None:
            self._predictor = _of_server(self.predictor_config)

    async def healthy(self) -> bool:
        """Whether the predictor has said what it takes and gives; asks if it has not yet."""
        if not self.ready:
            return False
        try:
            await self._open()
        except ServingError as error:
            _log.warning("%s is not ready: %s", self.name, error)
            return False
        return True

    def get_input_types(self) -> list[dict[str, Any]]:
        """What clients send."""
        return [] if self._made is None else described(self._made.inputs)

    def get_output_types(self) -> list[dict[str, Any]]:
        """What clients get; ModelNotReady until the predictor has said what it gives."""
        if self._chain is None:
            # KServe asks for this without awaiting it: learn, and know it the next time.
            self._learning = asyncio.ensure_future(self.healthy())
            raise not_ready(self.name, "the predictor is being asked for its metadata")
        return described(self._chain.signature.outputs)

    async def predict(
        self,
        payload: dict[str, Any] | InferRequest,
        headers: dict[str, str] | None = None,
        response_headers: dict[str, str] | None = None,
    ) -> dict[str, Any] | InferResponse:
        """Answer a V1 (dict) or V2 (InferRequest) request."""
        found = headers or {}
        grpc = isinstance(payload, InferRequest) and payload.from_grpc
        try:
            chain = await self._open()
            call = call_of(payload, chain.signature)
            raw = {name.lower().encode(): value.encode() for name, value in found.items()}
            identifier = request_id(raw, call.id, self._clock)
            chained = await chain.run(
                call.tensors,
                rows=call.rows,
                headers=forwarded(found, request_id=identifier),
                timeout=min(call.timeout, header_timeout(raw)),
            )
            answer = answer_of(
                payload,
                call,
                chained.outputs,
                name=self.name,
                version=chained.headers.get("x-coalmine-version", chain.version),
            )
        except Exception as error:
            raise as_kserve(error, name=self.name, grpc=grpc) from error
        if response_headers is not None:
            response_headers.update(chained.headers, **{"x-request-id": identifier})
        return answer

    async def close(self) -> None:
        """Close the connections to the predictor; KServe's server does not, it just ends."""
        if self._chain is not None:
            await self._chain.disconnect()
            self._chain = None

    def __getstate__(self) -> dict[str, Any]:
        # Connections, locks and threads belong to one process and one event loop.
        ours = dict.fromkeys(("_made", "_chain", "_opening", "_learning"))
        return {**self.__dict__, **ours}

    def __setstate__(self, state: dict[str, Any]) -> None:
        keep_bytes()
        self.__dict__.update(state)
        self._made = self._make()

    def _make(self) -> Transforming:
        if isinstance(self._transformer, str):
            return load_transformer(self._transformer, artefact=self._artefact)
        return self._transformer

    async def _open(self) -> Chain:
        if self._chain is not None:
            return self._chain
        if self._made is None:
            raise not_ready(self.name)
        if self._predictor is None:
            self._predictor = _of_server(self.predictor_config)
        if self._opening is None:
            self._opening = asyncio.Lock()
        async with self._opening:
            if self._chain is None:
                client = connect(self._predictor, name=self.name)
                try:
                    self._chain = await Chain.open(self._made, client, self._predictor)
                except BaseException:
                    await client.close()
                    raise
        return self._chain


def _of_server(config: Any) -> PredictorOptions:
    """The predictor that KServe's server was told of."""
    if config is None or not config.predictor_host:
        raise ModelLoadError("no predictor: start the server with --predictor_host HOST:PORT")
    return PredictorOptions(
        host=config.predictor_host,
        protocol=config.predictor_protocol,
        ssl=config.predictor_use_ssl,
        timeout=config.predictor_request_timeout_seconds,
        retries=config.predictor_request_retries,
    )
