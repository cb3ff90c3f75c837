"""Triton through PyTriton's own interface, as its documents show it: a decorated function."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig
from session import INPUT, OUTPUT, open_session

parser = argparse.ArgumentParser()
parser.add_argument("--model", required=True)
parser.add_argument("--name", required=True)
parser.add_argument("--row", type=json.loads, required=True)
parser.add_argument("--answer", type=json.loads, required=True)
parser.add_argument("--workspace", type=Path, required=True)
parser.add_argument("--http-port", type=int, required=True)
parser.add_argument("--grpc-port", type=int, required=True)
parser.add_argument("--metrics-port", type=int, required=True)
arguments = parser.parse_args()
session = open_session(arguments.model)


@batch
def infer(**inputs: Any) -> list[Any]:
    """Arrays in, arrays out."""
    result: list[Any] = session.run(None, {INPUT: inputs[INPUT]})
    return result


if __name__ == "__main__":
    config = TritonConfig(
        http_address="127.0.0.1",
        http_port=arguments.http_port,
        grpc_port=arguments.grpc_port,
        metrics_port=arguments.metrics_port,
        log_verbose=0,
    )
    config_of_model = ModelConfig(max_batch_size=4096 if len(arguments.row) == 1 else 16)
    with Triton(config=config, workspace=arguments.workspace) as triton:
        triton.bind(
            model_name=arguments.name,
            infer_func=infer,
            inputs=[Tensor(name=INPUT, dtype=np.float32, shape=tuple(arguments.row))],
            outputs=[Tensor(name=OUTPUT, dtype=np.float32, shape=tuple(arguments.answer))],
            config=config_of_model,
            strict=False,
        )
        triton.serve()
