"""MLServer: a custom runtime as its documents show it."""

from __future__ import annotations

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse
from session import INPUT, OUTPUT, open_session


class OnnxRuntime(MLModel):
    """One ONNX file."""

    async def load(self) -> bool:
        """Open the file that the settings name."""
        self._session = open_session(self._settings.parameters.uri)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Arrays in, arrays out."""
        rows = NumpyCodec.decode_input(payload.inputs[0])
        (result,) = self._session.run(None, {INPUT: rows})
        output = NumpyCodec.encode_output(OUTPUT, result)
        return InferenceResponse(model_name=self.name, id=payload.id, outputs=[output])
