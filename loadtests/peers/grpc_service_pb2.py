"""The messages of Triton's client under the name that they are pickled by."""

from tritonclient.grpc.service_pb2 import *  # noqa: F403
