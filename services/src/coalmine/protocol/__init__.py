"""The Open Inference Protocol and KServe's V1, without a transport: bytes in, arrays out, and back.

A request is decoded against the model's `Signature`, and refused with a `ProtocolError` that says
what is wrong with it, before any model sees it. gRPC's messages are in the module
`coalmine.protocol.protobuf`, which needs protobuf installed.
"""

from __future__ import annotations

from coalmine.protocol._errors import (
    InputRefusedError,
    MalformedRequestError,
    ProtocolError,
    SignatureError,
)
from coalmine.protocol._infer_memo import InferMemo
from coalmine.protocol._signature import InferenceCall, NonFinite, Signature, is_finite
from coalmine.protocol._tensors import (
    DATATYPES,
    Array,
    Tensors,
    TensorSpec,
    datatype_of,
    dtype_of,
)
from coalmine.protocol._v1 import (
    call_from_instances,
    decode_v1,
    encode_v1,
    in_columns,
    predictions,
)
from coalmine.protocol._v2 import (
    EncodedReply,
    decode_v2,
    encode_v2,
    parse_shape,
    parse_timeout,
    refuse_unsupported,
)
from coalmine.protocol._v2_memo import V2Memo
from coalmine.protocol._values import from_raw, from_values, to_raw

__all__ = [
    "DATATYPES",
    "Array",
    "EncodedReply",
    "InferMemo",
    "InferenceCall",
    "InputRefusedError",
    "MalformedRequestError",
    "NonFinite",
    "ProtocolError",
    "Signature",
    "SignatureError",
    "TensorSpec",
    "Tensors",
    "V2Memo",
    "call_from_instances",
    "datatype_of",
    "decode_v1",
    "decode_v2",
    "dtype_of",
    "encode_v1",
    "encode_v2",
    "from_raw",
    "from_values",
    "in_columns",
    "is_finite",
    "parse_shape",
    "parse_timeout",
    "predictions",
    "refuse_unsupported",
    "to_raw",
]
