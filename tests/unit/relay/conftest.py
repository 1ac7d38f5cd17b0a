"""Every test here is searched for leaks after it, and what holds over TCP has to hold over TLS."""

from collections.abc import Iterator

import pytest

from tests.support.certificates import make_pair
from tests.support.encrypted import Contexts, encrypted_pair
from tests.support.relay import make_tunnel, no_leaks

__all__ = ["make_tunnel", "no_leaks"]

BOTH = ("test_link", "test_pump", "test_splice")  # their modules' `tcp_pair` gives what they test


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.module.__name__.rpartition(".")[2] in BOTH:
        metafunc.parametrize("over", ["tcp", "tls"], indirect=True)


@pytest.fixture(scope="session")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    return Contexts(tmp_path_factory.mktemp("tls"), make_pair())


@pytest.fixture(autouse=True)
def over(request: pytest.FixtureRequest, contexts: Contexts, no_leaks: None) -> Iterator[str]:
    """What lies under the test: "tcp" or "tls"."""
    with pytest.MonkeyPatch.context() as patch:
        if getattr(request, "param", "tcp") == "tls":
            patch.setattr(request.module, "tcp_pair", lambda size=0: encrypted_pair(contexts, size))
        yield getattr(request, "param", "tcp")
