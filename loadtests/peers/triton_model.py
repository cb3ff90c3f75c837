"""The model in Triton's Python backend: the requests of one call share one run of the network."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as backend
from session import INPUT, OUTPUT, open_session


class TritonPythonModel:
    """What the backend looks for."""

    def initialize(self, arguments: dict[str, str]) -> None:
        """Open the file that the configuration names."""
        parameters = json.loads(arguments["model_config"])["parameters"]
        self._session = open_session(parameters["model"]["string_value"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response a request, in order."""
        inputs = [backend.get_input_tensor_by_name(each, INPUT).as_numpy() for each in requests]
        rows = inputs[0] if len(inputs) == 1 else np.concatenate(inputs)
        (result,) = self._session.run(None, {INPUT: rows})
        parts, start = [], 0
        for each in inputs:
            parts.append(result[start : start + len(each)])
            start += len(each)
        return [
            backend.InferenceResponse(output_tensors=[backend.Tensor(OUTPUT, part)])
            for part in parts
        ]
