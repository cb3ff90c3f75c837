"""Heads of requests: header blocks decoded (HPACK, RFC 7541), checked, and remembered.

A client repeats itself: after its first request the block of every further one is the same few
bytes, as long as it adds nothing to the table that both sides keep. So what a block stood for is
remembered until the table changes.
"""

from __future__ import annotations

from urllib.parse import unquote

from hpack import Decoder, HPACKError, OversizedHeaderListError
from hpack.table import HeaderTable

from coalmine.serving.http2._errors import ConnectionFault, StreamFault, expect
from coalmine.serving.http2._frames import ErrorCode, Flag

__all__ = ["HEAD_BYTES", "Fields", "Head", "HeadDecoder", "block_of", "check_fields", "encode"]

Fields = list[tuple[bytes, bytes]]
#: Bytes of a head, as HPACK counts them: 32 more for each field.
HEAD_BYTES = 64 * 1024
_MOST_FIELDS = 100
#: Heads remembered of a connection, of at most so many bytes each.
_REMEMBERED, _BLOCK = 8, 1024
_TABLE_SIZE_UPDATE = 0x20
_PSEUDO = frozenset((b":method", b":scheme", b":authority", b":path"))
_OF_CONNECTIONS = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)
_NAME = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")
_NOT_IN_VALUES = (b"\0", b"\r", b"\n")
_STATUS_200 = b"\x88"
_DIGITS = 18


class Head:
    """The head of one request, checked. Shared by all requests that have the same: not to change.

    `fields` are as ASGI has them: lower-case names, with `host` for `:authority`; `headers` is the
    same as a mapping. `path` is decoded, `raw_path` and `query` are as they came.
    """

    __slots__ = ("content_length", "fields", "headers", "method", "path", "query", "raw_path")

    def __init__(self, fields: Fields) -> None:
        pseudo: dict[bytes, bytes] = {}
        plain: Fields = []
        for name, value in fields:
            if name[:1] == b":":
                if plain or name in pseudo or name not in _PSEUDO:
                    raise _malformed(f"pseudo-header {name!r:.40}")
                pseudo[name] = value
            else:
                plain.append((name, value))
        check_fields(plain)
        target = pseudo.get(b":path", b"")
        method = pseudo.get(b":method", b"")
        if not method.isalpha() or b":scheme" not in pseudo:
            raise _malformed("a request without :method or :scheme")
        if not target.startswith(b"/") and not (target == b"*" and method == b"OPTIONS"):
            raise _malformed("a request without a :path")
        raw, _, self.query = target.partition(b"?")
        self.method = method.decode("ascii")
        self.raw_path = raw
        # As uvicorn has it for HTTP/1.1: what is not UTF-8 is nobody's path.
        self.path = unquote(raw.decode("latin-1")) if raw.isascii() else "�"
        if b":authority" in pseudo and not any(name == b"host" for name, _ in plain):
            plain.insert(0, (b"host", pseudo[b":authority"]))
        self.fields = _with_one_cookie(plain)
        self.headers = dict(self.fields)
        self.content_length = _content_length(plain)


def check_fields(fields: Fields) -> None:
    """StreamFault for fields that a message of HTTP/2 may not have."""
    for name, value in fields:
        if not name or not _NAME.issuperset(name):
            raise _malformed(f"field name {name!r:.40}")
        if name in _OF_CONNECTIONS or (name == b"te" and value != b"trailers"):
            raise _malformed(f"field {name.decode()} is HTTP/1.1's")
        if value[:1] in (b" ", b"\t") or value[-1:] in (b" ", b"\t"):
            raise _malformed(f"space around the value of {name.decode():.40}")
        if any(byte in value for byte in _NOT_IN_VALUES):
            raise _malformed(f"a control character in {name.decode():.40}")


def _content_length(fields: Fields) -> int | None:
    lengths = {value for name, value in fields if name == b"content-length"}
    if not lengths:
        return None
    value = lengths.pop()
    if lengths or not value.isdigit() or len(value) > _DIGITS:
        raise _malformed("content-length")
    return int(value)


def _with_one_cookie(fields: Fields) -> Fields:
    cookies = [value for name, value in fields if name == b"cookie"]
    if len(cookies) < 2:
        return fields
    others = [field for field in fields if field[0] != b"cookie"]
    return [*others, (b"cookie", b"; ".join(cookies))]


def _malformed(text: str) -> StreamFault:
    return StreamFault(ErrorCode.PROTOCOL_ERROR, text)


def block_of(flags: int, payload: bytes) -> bytes:
    """The header block in a HEADERS frame with padding, a priority, or both."""
    start, end = 0, len(payload)
    if flags & Flag.PADDED:
        expect(end > 0, "padding without its length", ErrorCode.FRAME_SIZE_ERROR)
        end -= payload[0]
        start = 1
    if flags & Flag.PRIORITY:
        start += 5
    expect(start <= end, "more padding than payload")
    return payload[start:end]


class _Table(HeaderTable):
    """The decoder's table; `changed` says that something was added."""

    changed = False

    def add(self, name: bytes, value: bytes) -> None:
        self.changed = True
        super().add(name, value)


class HeadDecoder:
    """Decodes the header blocks of one connection."""

    __slots__ = ("_decoder", "_heads", "_table")

    def __init__(self) -> None:
        self._decoder = Decoder(max_header_list_size=HEAD_BYTES)
        self._table = self._decoder.header_table = _Table()
        self._heads: dict[bytes, Head] = {}

    def head(self, block: bytes) -> Head:
        """The head of a request. StreamFault if it is none, ConnectionFault if it is no block."""
        try:
            return self._heads[block]
        except KeyError:
            pass
        fields = self.fields(block)
        head = Head(fields)
        # `fields` forgets all heads when the table changes.
        if not self._table.changed and len(block) <= _BLOCK:
            if len(self._heads) >= _REMEMBERED:
                self._heads.clear()
            self._heads[block] = head
        return head

    def fields(self, block: bytes) -> Fields:
        """What a block stands for; also of one that nobody wants, as it may change the table."""
        table = self._table
        table.changed = block[:1] != b"" and block[0] & 0xE0 == _TABLE_SIZE_UPDATE
        try:
            decoded = self._decoder.decode(block, raw=True)
        except OversizedHeaderListError:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "the head is too large") from None
        # Its Huffman decoder and its integers raise others where a block ends too early.
        except (HPACKError, IndexError, UnicodeError, ValueError):
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, "not a header block") from None
        if table.changed:
            self._heads.clear()
        fields = [(bytes(name), bytes(value)) for name, value in decoded]
        if len(fields) > _MOST_FIELDS:
            raise StreamFault(ErrorCode.ENHANCE_YOUR_CALM, "too many fields")
        return fields


def encode(fields: Fields, *, status: int | None = None) -> bytes:
    """A header block. It uses no table, so that it stands for the same on every connection.

    >>> encode([(b"a", b"b")], status=200)
    b'\\x88\\x00\\x01a\\x01b'
    """
    parts = []
    if status == 200:
        parts.append(_STATUS_200)
    elif status is not None:
        parts.append(b"\x08\x03%03d" % status)  # the name of :status is entry 8 of the static table
    for name, value in fields:
        parts += (b"\0", _length(len(name)), name, _length(len(value)), value)
    return b"".join(parts)


def _length(size: int) -> bytes:
    """An integer of HPACK with a prefix of 7 bits."""
    if size < 127:
        return bytes((size,))
    parts = bytearray((127,))
    size -= 127
    while size >= 128:
        parts.append(size % 128 + 128)
        size //= 128
    parts.append(size)
    return bytes(parts)
