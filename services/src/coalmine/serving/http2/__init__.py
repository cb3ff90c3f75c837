"""HTTP/2 without a library around it: what a server of many small gRPC calls needs, and no more.

A `Connection` is an asyncio protocol for one client, after its preface; all of a server share an
`Endpoint`. A request is a `Stream` with a `Head`; its `Sink` answers it: `AsgiSink` by an ASGI
application, a gRPC method's own one without that. Header blocks are decoded by `hpack`, of which a
client that repeats itself needs little.

The bounds: connections, streams, bytes of a head, of a body, of all that has not come as a whole,
seconds for each of them, and frames that bring nothing (`_patience`).
"""

from coalmine.serving.http2._asgi import AsgiSink
from coalmine.serving.http2._connection import Connection
from coalmine.serving.http2._endpoint import Endpoint
from coalmine.serving.http2._frames import PREFACE
from coalmine.serving.http2._heads import Head, encode
from coalmine.serving.http2._stream import Refusal, Sink, Stream

__all__ = [
    "PREFACE",
    "AsgiSink",
    "Connection",
    "Endpoint",
    "Head",
    "Refusal",
    "Sink",
    "Stream",
    "encode",
]
