"""JSON that is right, and JSON that is wrong somewhere: trees, and bytes."""

from __future__ import annotations

import random
import string
from typing import Any

import numpy as np

from ..servers import MIXED

__all__ = ["Raw", "corrupt", "dump", "mutate", "valid_v1", "valid_v2"]

Rng = random.Random


class Raw(bytes):
    """Bytes to put into JSON as they are."""


def dump(value: Any) -> bytes:
    """JSON, with objects that may be lists of pairs (a key twice) and raw bytes anywhere."""
    if isinstance(value, Raw):
        return value
    if isinstance(value, dict):
        value = Pairs(value.items())
    if isinstance(value, Pairs):
        return b"{" + b",".join(dump(k) + b":" + dump(v) for k, v in value) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(map(dump, value)) + b"]"
    if isinstance(value, str):
        return (
            b'"' + value.replace("\\", "\\\\").replace('"', '\\"').encode("utf-8", "replace") + b'"'
        )
    if value is None or isinstance(value, bool):
        return {None: b"null", True: b"true", False: b"false"}[value]
    return repr(value).encode()


class Pairs(list[Any]):
    """An object whose keys may come twice."""


def values(rng: Rng, datatype: str, count: int) -> list[Any]:
    if datatype == "BYTES":
        return [
            "".join(rng.choices(string.ascii_letters, k=rng.randrange(6))) for _ in range(count)
        ]
    if datatype == "BOOL":
        return [rng.random() < 0.5 for _ in range(count)]
    if datatype.startswith("FP"):
        return [round(rng.uniform(-9, 9), 3) for _ in range(count)]
    return [rng.randrange(100) for _ in range(count)]


def valid_v2(rng: Rng) -> dict[str, Any]:
    """A request that the model takes."""
    rows = rng.randrange(1, 4)
    inputs = []
    for name, datatype, (_, *rest) in MIXED:
        shape = [rows, *rest]
        data = values(rng, datatype, int(np.prod(shape)))
        inputs.append({"name": name, "datatype": datatype, "shape": shape, "data": data})
    rng.shuffle(inputs)
    content: dict[str, Any] = {"inputs": inputs}
    if rng.random() < 0.5:
        content["id"] = f"request-{rng.randrange(1000)}"
    if rng.random() < 0.3:
        names = rng.sample([name for name, _, _ in MIXED], rng.randrange(1, 5))
        content["outputs"] = [
            {"name": f"{name}_out", "parameters": {"binary_data": rng.random() < 0.3}}
            for name in names
        ]
    if rng.random() < 0.2:
        content["parameters"] = {"anything": 1, "binary_data_output": rng.random() < 0.5}
    return content


def valid_v1(rng: Rng) -> dict[str, Any]:
    """The same in V1, by rows or by columns."""
    rows = rng.randrange(1, 4)
    columns: dict[str, list[Any]] = {}
    for name, datatype, (_, *rest) in MIXED:
        width = int(np.prod(rest)) if rest else 0
        columns[name] = [
            values(rng, datatype, width) if width else values(rng, datatype, 1)[0]
            for _ in range(rows)
        ]
    if rng.random() < 0.3:
        return {"inputs": columns}
    return {"instances": [{k: column[i] for k, column in columns.items()} for i in range(rows)]}


def _odd(rng: Rng) -> Any:
    """A value that is rarely right."""
    depth = rng.choice([3, 40, 1100, 5000])
    return rng.choice(
        (
            lambda: None,
            lambda: rng.choice([True, False]),
            lambda: rng.choice([0, -1, 1, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63) - 1, 10**40]),
            lambda: rng.choice([0.5, -0.0, 1e-320, 3.4e38, 1e39, 1.7e308, 65520.0, 1.0]),
            lambda: Raw(
                rng.choice(
                    [
                        b"NaN",
                        b"-Infinity",
                        b"Infinity",
                        b"1e999",
                        b"-",
                        b"01",
                        b"0x1f",
                        b"1.",
                        b"'a'",
                        b"1" * 5000,
                        b"0." + b"3" * 3000,
                        b"tru",
                        b"nulll",
                        b"//",
                        b"",
                        b"1e-9999",
                    ]
                )
            ),
            lambda: Raw(
                rng.choice(
                    [
                        b'"\\ud800"',
                        b'"\\udc00\\ud800"',
                        b'"\xff\xfe"',
                        b'"\x00"',
                        b'"\\u0000"',
                        b'"\xed\xa0\x80"',
                        b'"\xc0\xaf"',
                        b'"\\x"',
                        b'"unended',
                        b'"\xf0\x9f\x98\x80"',
                    ]
                )
            ),
            lambda: rng.choice(["", "1", "NaN", "x" * rng.choice([10, 10_000]), "ä", "features"]),
            lambda: rng.choice(
                [[], {}, [[]], [{}], [None], {"b64": "!!"}, {"b64": "AAAA"}, {"b64": 3}]
            ),
            lambda: Raw(b"[" * depth + b"]" * depth),
            lambda: Raw(b'{"a":' * depth + b"1" + b"}" * depth),
            lambda: [rng.choice([0, 1.5, "a", None, True])] * rng.choice([2, 1000, 20_000]),
            lambda: [0, 2**32, 2**32, 2**32],
            lambda: rng.sample([0, rng.choice([2**20, 2**40, 2**62, 2**63])], 2),
            lambda: [1] * rng.choice([5, 33, 70]),
        )
    )()


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a tree."""
    found: list[tuple[Any, Any]] = []
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in entries:
        found.append((value, key))
        if isinstance(inner, dict | list) and not isinstance(inner, Pairs):
            found += _places(inner)
    return found


_KEYS = (
    "name",
    "datatype",
    "shape",
    "data",
    "inputs",
    "outputs",
    "id",
    "parameters",
    "instances",
    "binary_data_size",
    "binary_data",
    "classification",
    "shared_memory_region",
    "\u0000",
)


def mutate(rng: Rng, tree: dict[str, Any]) -> Any:
    """The tree with a few things wrong."""
    for _ in range(rng.choice([1, 1, 1, 2, 3, 6])):
        places = _places(tree)
        if not places:
            break
        container, key = rng.choice(places)
        what = rng.randrange(9)
        if what <= 3:
            container[key] = _odd(rng)
        elif what == 4:
            del container[key]
        elif what == 5 and isinstance(container, dict):
            container[rng.choice(_KEYS)] = container.pop(key)
        elif what == 6 and isinstance(container, list):
            container.insert(rng.randrange(len(container) + 1), container[key])
        elif what == 7:
            container[key] = rng.choice(
                [[container[key]], {"x": container[key]}, str(container[key])]
            )
        elif isinstance(container, dict) and isinstance(container[key], dict):
            inner = container[key]
            container[key] = Pairs([*inner.items(), *inner.items(), (rng.choice(_KEYS), _odd(rng))])
        elif isinstance(container, list):
            other = rng.randrange(len(container))
            container[key], container[other] = container[other], container[key]
    return tree if rng.random() > 0.03 else _odd(rng)


def corrupt(rng: Rng, body: bytes) -> bytes:
    """The bytes with a few of them changed, lost or doubled."""
    broken = bytearray(body)
    for _ in range(rng.choice([1, 1, 2, 5])):
        at = rng.randrange(len(broken) + 1)
        what = rng.randrange(5)
        if what == 0 and broken:
            broken[at % len(broken)] = rng.randrange(256)
        elif what == 1:
            broken[at:at] = rng.randbytes(rng.choice([1, 4, 50]))
        elif what == 2:
            del broken[at : at + rng.choice([1, 8, 100])]
        elif what == 3:
            del broken[at:]
        else:
            broken[at:at] = broken[at : at + rng.choice([1, 20])]
    return bytes(broken)
