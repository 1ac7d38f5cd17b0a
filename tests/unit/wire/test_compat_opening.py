import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gtapp.errors import WireError
from gtapp.wire.compat_opening import CompatService, Opening, OpeningReader, TooManyOptions, opening

from . import corpus
from .test_frames import marks, split


def read(reader: OpeningReader, pieces: list[bytes]) -> tuple[Opening | None, bytes]:
    """The opening and the bytes after it."""
    for i, piece in enumerate(pieces):
        found = reader.receive(piece)
        if found is not None:
            return found, reader.rest + b"".join(pieces[i + 1 :])
    return None, b""


@pytest.mark.parametrize("case", corpus.cases("openings/*.yaml"))
def test_corpus(case: corpus.Case) -> None:
    data = corpus.data_of(case)
    rest = corpus.octets(case.get("rest", ""))
    for pieces in corpus.cuts(data):
        reader = OpeningReader(case.get("max_options", 600))
        if "error" in case:
            with pytest.raises(WireError) as error:
                read(reader, pieces)
            name, _, text = case["error"].rpartition("TooManyOptions ")
            assert text in str(error.value)
            assert isinstance(error.value, TooManyOptions) == bool(name or text != case["error"])
        elif "opening" in case:
            found, after = read(reader, pieces)
            assert found is not None
            assert corpus.plain_opening(found) == case["opening"]
            assert after == rest
            if case.get("encode", True):
                assert opening(found) + rest == b"\xf0\x01" + data
        else:
            assert read(reader, pieces) == (None, b"")


@pytest.mark.parametrize(
    "value",
    [
        Opening("", "s", (CompatService("http"),)),
        Opening("i", "s" * 201, (CompatService("http"),)),
        Opening("é" * 101, "s", (CompatService("http"),)),
        Opening("i", "s", ()),
        Opening("i", "s", (CompatService("http", ""),)),
        Opening("i", "s", (CompatService("tls", "p" * 256),)),
    ],
)
def test_what_no_opening_can_carry(value: Opening) -> None:
    with pytest.raises(ValueError, match="protocol 1"):
        opening(value)


def test_a_long_opening_byte_by_byte_takes_linear_time() -> None:
    services = tuple(CompatService("http", f"{i:0>255}") for i in range(300))
    data = opening(Opening("i", "s", services))[2:]
    found, _ = read(OpeningReader(), [data[i : i + 1] for i in range(len(data))])
    assert found is not None
    assert found.services == services


names = st.text(min_size=1, max_size=60).filter(lambda text: len(text.encode()) <= 200)
host_services = st.builds(CompatService, st.sampled_from(("http", "tls")), st.none() | names)
tcp_services = st.builds(CompatService, st.just("tcp"), st.none(), st.integers(0, 0xFFFF), st.booleans())
openings = st.builds(
    Opening, names, names, st.lists(host_services | tcp_services, min_size=1, max_size=8).map(tuple)
).map(
    lambda value: dataclasses.replace(  # one spelling of "under the id"
        value,
        services=tuple(
            dataclasses.replace(service, prefix=None) if service.prefix == value.id else service
            for service in value.services
        ),
    )
)


@given(openings, st.binary(max_size=20), marks)
def test_what_was_written_is_read(value: Opening, rest: bytes, at: list[int]) -> None:
    data = opening(value).removeprefix(b"\xf0\x01") + rest
    assert read(OpeningReader(), split(data, at)) == (value, rest)


@given(
    st.lists(st.binary(max_size=8) | st.sampled_from((b"\x01a\x01b", b"\x02", b"\x00")), max_size=20), marks
)
def test_any_bytes_give_an_opening_or_the_error(parts: list[bytes], at: list[int]) -> None:
    """And the cuts change nothing."""
    data = b"".join(parts)
    outcomes = []
    for pieces in ([data], split(data, at)):
        try:
            outcomes.append(repr(read(OpeningReader(5), pieces)))
        except WireError as error:
            outcomes.append(str(error))
    assert outcomes[0] == outcomes[1]
