"""What can be wrong with a request.

ProtocolError               the client's mistake; the message says what, never how we found it
├── MalformedRequestError   the bytes are not a request of this protocol
└── SignatureError          a request, but not one that this model takes
    └── InputRefusedError   ... as only the model itself can tell
"""

from __future__ import annotations

__all__ = ["InputRefusedError", "MalformedRequestError", "ProtocolError", "SignatureError"]


class ProtocolError(ValueError):
    """The client's mistake; the message is meant for the client."""


class MalformedRequestError(ProtocolError):
    """The bytes are not a request of this protocol."""


class SignatureError(ProtocolError):
    """A well-formed request that does not fit the model's signature."""


class InputRefusedError(SignatureError):
    """The model says that the input is wrong, in a way that no signature tells."""
