from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gtapp.errors import RemoteRefused, WireError
from gtapp.wire.credentials import Verifier, decoy, derive
from gtapp.wire.handshake import (
    PLAIN,
    ClientHandshake,
    HandshakeError,
    Message,
    Ready,
    ServerHandshake,
    ServiceSpec,
    error_message,
)

from . import corpus
from .test_frames import json_values

GOOD = corpus.cases("handshake/conversations.yaml")
RFC_7677: corpus.Case = GOOD[0].values[0]
STEPS = ("hello", "challenge", "auth", "ready")


class Conversation:
    """Both ends and what they say, one message at a time."""

    def __init__(self, case: corpus.Case, secret: str | None = None) -> None:
        binding = corpus.octets(case["binding"]) if "binding" in case else None
        self.services = [ServiceSpec.from_dict(service) for service in case["services"]]
        options = case["client"] | ({} if secret is None else {"secret": secret})
        self.client = ClientHandshake(**options, services=self.services, channel_binding=binding)
        self.server = ServerHandshake(**case["server"], channel_binding=binding)
        self.verifier = verifier_of(case)
        self.enroll = "enroll" in case
        self.answer: Message = {}
        self.proof: Message = {}
        self.results: dict[str, Any] = {}

    def write(self, step: str) -> Message:
        match step:
            case "hello":
                return self.client.hello()
            case "challenge":
                return self.answer
            case "auth":
                return self.proof
            case _:
                return self.server.ready([{} for _ in self.services], 262144, 45, 1)

    def read(self, step: str, message: Message) -> None:
        match step:
            case "hello":
                self.results[step] = self.server.hello(message)
                self.answer = self.server.enroll() if self.enroll else self.server.challenge(self.verifier)
            case "challenge":
                self.proof = self.client.auth(message)
            case "auth":
                self.results[step] = self.server.auth(message)
            case _:
                self.results[step] = self.client.ready(message)

    def run(self, until: str = "") -> None:
        for step in STEPS:
            if step == until:
                break
            self.read(step, self.write(step))


def verifier_of(case: corpus.Case) -> Verifier | None:
    if "verifier" not in case:
        return None
    options = case["verifier"]
    return derive(options["secret"], bytes.fromhex(options["salt"]), options["iterations"])


@pytest.mark.parametrize("case", GOOD)
def test_conversation(case: corpus.Case) -> None:
    conversation = Conversation(case)
    for step in STEPS:
        message = conversation.write(step)
        if step in case:
            assert message == case[step]
        conversation.read(step, message)
    hello, auth = conversation.results["hello"], conversation.results["auth"]
    assert (hello.id, hello.agent) == (case["client"]["id"], "gt/1")
    assert hello.lanes == case["client"].get("lanes", 1)
    assert hello.secret == ("pencil" if hello.mechanism == PLAIN else None)
    assert (auth.instance, auth.services) == ("i1", conversation.services)
    assert (auth.verifier is not None) == conversation.enroll
    assert conversation.client.server_agent == "gt/2"
    assert conversation.results["ready"] == Ready([{} for _ in auth.services], 262144, 45.0, 1)


@pytest.mark.parametrize("case", corpus.cases("handshake/refusals.yaml"))
def test_refusal(case: corpus.Case) -> None:
    conversation = Conversation(RFC_7677)
    conversation.run(until=case["at"])
    message = {**conversation.write(case["at"]), **case.get("set", {})}
    for key in case.get("drop", ()):
        del message[key]
    with pytest.raises((WireError, RemoteRefused)) as error:
        conversation.read(case["at"], message)
    assert case["error"] in str(error.value)
    assert getattr(error.value, "code", None) == case.get("code")


@pytest.mark.parametrize("message", [None, [], "hello", 1])
def test_what_is_no_message(message: Any) -> None:
    with pytest.raises(HandshakeError, match="expected a message"):
        ServerHandshake("gt").hello(message)
    with pytest.raises(WireError, match="expected a message"):
        Conversation(RFC_7677).client.auth(message)


def test_unknown_keys_are_ignored() -> None:
    conversation = Conversation(RFC_7677)
    for step in STEPS:
        conversation.read(step, conversation.write(step) | {"later": [1]})
    assert ServiceSpec.from_dict({"kind": "http", "later": 1}) == ServiceSpec("http")


def test_wrong_secret_and_unknown_id_look_alike() -> None:
    found = []
    for verifier in (verifier_of(RFC_7677), decoy("user", b"k")):
        conversation = Conversation(RFC_7677, secret="wrong")
        conversation.verifier = verifier
        conversation.run(until="auth")
        with pytest.raises(HandshakeError) as error:
            conversation.read("auth", conversation.write("auth"))
        found.append(error_message(error.value.code, str(error.value)))
    assert found[0] == found[1]
    assert found[0] == {
        "type": "error",
        "code": "invalid_credentials",
        "message": "unknown id or wrong secret",
    }


def test_somebody_in_the_middle_of_tls() -> None:
    """Each end sees a certificate, but not the same."""
    client = ClientHandshake("user", "pencil", "gt", "i", [], channel_binding=b"theirs", require_binding=True)
    server = ServerHandshake("gt", b"ours")
    server.hello(client.hello())
    auth = client.auth(server.challenge(verifier_of(RFC_7677)))
    with pytest.raises(HandshakeError, match="different certificates") as error:
        server.auth(auth)
    assert error.value.code == "other_certificate"


def test_a_client_on_tls_may_go_without_binding() -> None:
    client, server = ClientHandshake("user", "pencil", "gt", "i", []), ServerHandshake("gt", b"ours")
    assert server.hello(client.hello()).mechanism == "SCRAM-SHA-256"
    server.auth(client.auth(server.challenge(verifier_of(RFC_7677))))
    client.ready(server.ready([], 1, 1, 1))


def test_a_server_that_does_not_know_the_secret() -> None:
    conversation = Conversation(RFC_7677)
    conversation.run(until="ready")
    other = Conversation(RFC_7677, secret="other")
    other.verifier = derive("other", bytes(16), 4096)
    other.run()
    with pytest.raises(WireError, match="does not know the secret"):
        conversation.read("ready", other.write("ready"))


def test_an_enrolled_client_can_log_in() -> None:
    first = Conversation(GOOD[-1].values[0])
    first.run()
    verifier = first.results["auth"].verifier
    assert derive("pencil", verifier.salt, verifier.iterations) == verifier
    again = Conversation(RFC_7677)
    again.verifier = verifier
    again.run()


def test_an_enrolled_client_needs_a_good_verifier() -> None:
    conversation = Conversation(GOOD[-1].values[0])
    conversation.run(until="auth")
    with pytest.raises(HandshakeError, match="a verifier reads") as error:
        conversation.read("auth", conversation.write("auth") | {"verifier": "pencil"})
    assert error.value.code == "protocol_error"


def test_an_error_about_a_service_reaches_the_client() -> None:
    conversation = Conversation(RFC_7677)
    conversation.run(until="ready")
    with pytest.raises(RemoteRefused, match=r"^taken$") as error:
        conversation.read("ready", error_message("host_conflict", "taken", service=2))
    assert (error.value.code, error.value.service) == ("host_conflict", 2)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"require_binding": True}, "must be bound"),
        ({"require_binding": True, "channel_binding": b"x", "plain": True}, "must be bound"),
        ({"require_binding": True, "channel_binding": b"x", "enroll": True}, "must be bound"),
        ({"secret": "a\nb"}, "cannot be used"),
        ({"id": "a\0b"}, "cannot be used"),
        ({"id": ""}, "cannot be used"),
    ],
)
def test_a_client_that_cannot_start(options: dict[str, Any], reason: str) -> None:
    good = {"id": "user", "secret": "pencil", "agent": "gt", "instance": "i", "services": []}
    with pytest.raises(ValueError, match=reason):
        ClientHandshake(**good | options)


def test_lanes_are_the_smaller_number() -> None:
    conversation = Conversation(RFC_7677 | {"client": RFC_7677["client"] | {"lanes": 100}})
    conversation.run(until="ready")
    assert conversation.results["hello"].lanes == 64
    conversation.read("ready", conversation.write("ready") | {"lanes": 32})
    assert conversation.results["ready"].lanes == 32


def test_no_secret_in_a_repr() -> None:
    server = ServerHandshake("gt")
    plain = ClientHandshake("user", "s3cr3t", "gt", "i", [], plain=True)
    assert "s3cr3t" not in repr(server.hello(plain.hello()))


kinds = st.sampled_from(("hello", "challenge", "auth", "ready", "error"))
scram = st.lists(
    st.sampled_from(("n", "y", "p=tls-server-end-point", ",", "n=user", "r=a", "r=rOprNGfwEbeRWgbNEkqO%x"))
    | st.sampled_from(("s=W22ZaJ0SNY7soEsUEjb6gQ==", "i=4096", "c=biws", "p=AAAA", "v=AAAA", "e=other-error"))
    | st.sampled_from(("m=", "x=y", "=", "\ud800", "é", "=2C", "s=AA==", "i=0"))
    | st.text(max_size=3),
    max_size=9,
).map("".join)
values = json_values | scram | kinds | st.integers(-1, 70000) | st.sampled_from(([], {}, True, 0.5))
in_hello = ["protocol", "id", "mechanism", "secret", "agent", "lanes", "type"]
in_others = ["mechanisms", "enroll", "instance", "services", "window", "idleTimeout", "verifier"]
in_errors = ["code", "message", "service"]
known = st.sampled_from(in_hello + in_others + in_errors)
changes = st.dictionaries(known | st.text(max_size=4), values, max_size=3)
services = st.lists(
    st.dictionaries(st.sampled_from(("kind", "hostPrefix", "port", "random")), values) | values, max_size=3
)


@pytest.mark.parametrize("case", GOOD)
@given(step=st.sampled_from(STEPS), change=changes, new_scram=st.none() | scram, offered=st.none() | services)
def test_any_change_gives_a_result_or_the_error(case, step, change, new_scram, offered) -> None:
    conversation = Conversation(case)
    conversation.run(until=step)
    message = conversation.write(step) | change
    if new_scram is not None:
        message["scram"] = new_scram
    if offered is not None:
        message["services"] = offered
    declared = (WireError, RemoteRefused) if step in ("challenge", "ready") else (HandshakeError,)
    error: Exception | None = None
    try:
        conversation.read(step, message)
    except declared as raised:
        error = raised
    assert str(error).isprintable()
    if isinstance(error, HandshakeError):
        assert error.code in ("protocol_error", "invalid_credentials")


@given(
    st.builds(ServiceSpec, st.sampled_from(("http", "tls")), st.none() | st.just("www"))
    | st.builds(ServiceSpec, st.just("tcp"), st.none(), st.integers(0, 0xFFFF), st.booleans())
)
def test_what_was_written_is_read(service: ServiceSpec) -> None:
    assert ServiceSpec.from_dict(service.to_dict()) == service
