"""What a model server is told when it starts."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from coalmine.arms import Arm
from coalmine.serving._transformer_options import PredictorOptions

__all__ = [
    "HTTP1_VARIABLE",
    "OPTIONS_VARIABLE",
    "InlineKindName",
    "NonFiniteKind",
    "ProviderName",
    "ServeOptions",
    "ServerKind",
    "where",
]

#: Environment variable that hands the options to a process.
OPTIONS_VARIABLE = "COALMINE_SERVE_OPTIONS"
#: ... and one that names the abstract socket (of Linux; it goes with its process) where a process
#: that is Envoy is to answer HTTP/1.1 itself.
HTTP1_VARIABLE = "COALMINE_SERVE_HTTP1"

ServerKind = Literal["native", "pyvoy", "uvicorn"]
InlineKindName = Literal["auto", "always", "never"]
ProviderName = Literal["tensorrt", "cuda", "cpu"]
#: `coalmine.protocol.NonFinite`, whose import costs numpy.
NonFiniteKind = Literal["missing", "allow", "reject"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """The settings of one model server: one arm, one model version, one port."""

    model: str
    """A path, a URI (docs/serving.md lists them), a directory of numbered versions or of models, or
    `package.module:Class` of a Predictor; `NAME=` before it gives the model its name."""

    also: tuple[str, ...] = ()
    """More models of the same server, each as `NAME=URI`."""

    name: str | None = None
    """Name in URLs and records; None: the model card's, or the file's stem."""

    host: str = "127.0.0.1"
    port: int = 8080
    """0: any free port, printed once the server is ready."""

    grpc_port: int | None = None
    """With `server="uvicorn"` only, which has no HTTP/2; None: no gRPC there."""

    arm: Arm = Arm.STABLE
    version: str | None = None
    """Version of the models; None: what their source calls it, or else 1, and 2, 3, ... for other
    content that a reload finds."""

    model_cache: Path | None = None
    """Directory of what is fetched from elsewhere; None: below the user's cache directory."""

    transformer: str | None = None
    """`package.module:Class` of a transformer, run in this process."""

    artefact: Path | None = None
    """What the transformer was fitted with; None: `transformer.json` of the model directory, if
    there is one."""

    predictor: PredictorOptions | None = None
    """Of a transformer that runs alone, by `coalmine transform`: where its predictor is. `model`
    is then that predictor's URL, for messages."""

    records: str | None = None
    """`sqlite:///FILE` or a collector's base URL; None or `off`: no records."""

    spool: Path | None = None
    """Directory where records wait; of this server alone. None: next to the SQLite file, or in the
    user's state directory, by the model's name."""

    caller_header: str | None = None
    """Header that says who calls, as a gateway sticks callers to arms: records say which block of
    callers a request is of, 12 bits of a salted hash, and never the header. None: nobody looks."""

    server: ServerKind = "native"
    processes: int = 1
    """Server processes that share the port."""

    hang_timeout: float = 30.0
    """Seconds after which one of several processes that answers nothing is killed and replaced."""

    threads: int = 1
    """ONNX Runtime's threads for one batch on the CPU. One is fastest for a small network; 0: all
    the CPUs that the affinity mask and the container's quota leave."""

    providers: tuple[str, ...] = ("cpu",)
    """Execution providers in the order to try: tensorrt, cuda, cpu."""

    require_gpu: bool = False
    """Refuse to start on the CPU instead of falling back to it."""

    device: int = 0
    """Number of the GPU, as CUDA counts them."""

    gpu_memory_limit: int = 0
    """Bytes of GPU memory for the network's tensors; 0: all there is."""

    gpu_batch_rows: int = 32
    """Largest batch on a GPU; smaller ones are padded to a power of two."""

    cuda_graphs: bool = False
    """Record each batch size once and replay it, which saves launching every kernel."""

    tensorrt_cache: Path | None = None
    """Directory where TensorRT keeps its engines; None: they are built at each start."""

    fp16: bool = False
    """Let TensorRT compute in half precision."""

    non_finite: NonFiniteKind = "missing"
    """What FP inputs may hold beside numbers: "missing": NaN (null in JSON), which the model takes
    for a missing value; "allow": infinity too; "reject": neither. What may not is answered 400."""

    max_body: int = 16 * 1024**2
    """Bytes of one request; more is answered 413."""

    max_connections: int = 10_000
    """Connections of clients at once, of each process; more are closed at once."""

    receive_timeout: float = 60.0
    """Seconds in which a request must have come as a whole; then 408. Its head has 10 at most."""

    max_concurrency: int = 1024
    """Requests at once; more are answered 429."""

    inline: InlineKindName = "auto"
    """Whether the event loop runs batches itself: "auto": if that is cheaper than to hand them to
    another thread, as measured at warm-up and corrected later; "always"; "never"."""

    max_batch_rows: int = 4096
    """Rows that are run at once. A larger request is run whole, and alone."""

    max_batch_bytes: int = 64 * 1024**2
    """Bytes of requests that are run at once."""

    max_queue_rows: int = 16384
    """Rows waiting for the model; more are answered 503."""

    max_queue_bytes: int = 256 * 1024**2
    """Bytes of requests waiting for the model; more are answered 503."""

    request_timeout: float | None = None
    """Seconds that a request may take; one that waits longer for the model is answered 504. None:
    as long as the client says, or for ever."""

    max_spool: int = 256 * 1024**2
    """Bytes of records kept while the collector is away; more are dropped and counted."""

    watch: float = 0.0
    """Seconds between two looks for new versions and new models; 0: load only when asked to."""

    drain: float = 3.5
    """Seconds that requests in flight have to finish after SIGTERM."""

    def to_json(self) -> str:
        """The options as text, for a process that is started with them."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> ServeOptions:
        """The options written by `to_json`."""
        fields: dict[str, Any] = json.loads(text)
        fields["arm"] = Arm(fields["arm"])
        for name in ("also", "providers"):
            fields[name] = tuple(fields[name])
        for name in ("artefact", "model_cache", "spool", "tensorrt_cache"):
            fields[name] = None if fields[name] is None else Path(fields[name])
        if fields["predictor"] is not None:
            fields["predictor"] = PredictorOptions(**fields["predictor"])
        return cls(**fields)


def where(options: ServeOptions) -> str:
    """The address of a server, and what it speaks there."""
    host = f"[{options.host}]" if ":" in options.host else options.host
    address = f"http://{host}:{options.port}"
    if options.server != "uvicorn":
        return f"{address} (V1 and V2 over HTTP/1.1 and HTTP/2, gRPC V2)"
    grpc = f", gRPC V2 on port {options.grpc_port}" if options.grpc_port is not None else ""
    return f"{address} (V1 and V2 over HTTP/1.1{grpc})"
