"""Reads the cases of tests/wire, see its README.md. Called by the tests beside it."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gtapp.wire import compat, frames

CORPUS = Path(__file__).parents[2] / "wire"
SEED = 7
KINDS = ("DATA", "OPEN", "EOF", "RESET", "WINDOW", "PING", "PONG", "CONTROL", "CLOSED")

Case = dict[str, Any]


def cases(*names: str) -> list[Any]:
    """The cases of these files or directories, as parameters of a test."""
    files = [file for name in names for file in sorted(CORPUS.glob(name))]
    assert files, names
    return [
        pytest.param(case, id=f"{file.stem}: {case['name']}")
        for file in files
        for case in _expand(yaml.safe_load(file.read_text()))
    ]


def data_of(case: Case) -> bytes:
    if "bytes" in case:
        return octets(case["bytes"])
    text = case["text"]
    return "".join(text if isinstance(text, list) else [text]).encode("latin-1")


def octets(text: str) -> bytes:
    data = bytearray()
    for line in text.splitlines():
        for word in line.split("#")[0].split():
            digits, _, times = word.partition("*")
            data += bytes.fromhex(digits) * int(times or 1)
    return bytes(data)


def _expand(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"repeat", "times"}:
            return value["repeat"] * value["times"]
        return {key: _expand(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item) for item in value]
    return value


def cuts(data: bytes) -> Iterator[list[bytes]]:
    """The data whole, byte by byte, and cut at random (always at the same places)."""
    yield [data]
    # Of what is long, the first and last bytes alone: in between is nothing but payload.
    begin, end = (len(data), len(data)) if len(data) < 2000 else (1000, len(data) - 1000)
    middle = [data[begin:end]] if begin < end else []
    yield [*_single(data[:begin]), *middle, *_single(data[end:])]
    rng = random.Random(SEED)
    for _ in range(10):
        at = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(1, 8)))
        yield [data[begin:end] for begin, end in zip([0, *at], [*at, len(data)], strict=True)]


def _single(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def receive_all(codec: frames.Frames | compat.CompatFrames, pieces: list[bytes]) -> list[frames.Event]:
    """The events of all pieces, DATA joined as long as it is of the same stream.

    Each piece comes in the same buffer, which is overwritten before the next one.
    """
    events: list[frames.Event] = []
    buffer = memoryview(bytearray(max(map(len, pieces), default=0)))
    for piece in pieces:
        buffer[: len(piece)] = piece
        for kind, stream, value in codec.receive(buffer[: len(piece)]):
            if kind == frames.DATA:
                assert len(value)
                value = bytes(value)
                if events and events[-1][:2] == (kind, stream):
                    value = events.pop()[2] + value
            events.append((kind, stream, value))
        buffer[: len(piece)] = bytes(len(piece))
    return events


def plain(event: frames.Event) -> list[Any]:
    """An event as the corpus writes it."""
    kind, stream, value = event
    if kind in (frames.DATA, frames.PING, frames.PONG) and value is not None:
        value = value.decode("latin-1")
    elif isinstance(value, frames.Open):
        value = {**value._asdict(), "data": value.data.decode("latin-1")}
    elif isinstance(value, compat.Services):
        value = {"Services": plain_opening(value.opening)}
    elif kind == frames.CONTROL and not isinstance(value, dict):
        value = {type(value).__name__: {name: getattr(value, name) for name in value.__slots__}}
    return [KINDS[kind], stream, value]


def plain_opening(opening: compat.Opening) -> Case:
    services = []
    for service in opening.services:
        fields = {"prefix": service.prefix, "port": service.port, "random": service.random}
        services.append({"kind": service.kind} | {key: value for key, value in fields.items() if value})
    return {"id": opening.id, "secret": opening.secret, "services": services}


def encode(codec: frames.Frames | compat.CompatFrames, event: frames.Event) -> bytes:
    """The bytes of an event."""
    kind, stream, value = event
    match kind:
        case frames.DATA:
            header = bytearray(codec.data_header_bytes)
            codec.write_data_header(header, stream, len(value))
            return bytes(header + value)
        case frames.OPEN:
            return codec.open(stream, value.service, value.visitor, value.data, value.flags)
        case frames.EOF | frames.CLOSED:
            return codec.eof(stream)
        case frames.RESET:
            return codec.reset(stream, value)
        case frames.WINDOW:
            return codec.window(stream, value)
        case frames.PING:
            return codec.ping(value)
        case frames.PONG:
            return codec.pong(value)
        case _:
            return codec.control(value) if isinstance(codec, frames.Frames) else compat.signal(value)
