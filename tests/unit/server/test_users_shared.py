"""Logins in several workers of one server: the same for strangers everywhere, and guests who are in in all of them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest

from gtapp.config.load import User
from gtapp.config.options import ServerOptions
from gtapp.errors import GTError, RemoteRefused
from gtapp.server.siblings import Siblings
from gtapp.server.users import Login, Users
from gtapp.wire import credentials
from gtapp.wire.credentials import MIN_ITERATIONS, Verifier, derive
from tests.support.relay import turn, until
from tests.unit.server.scene import introduce
from tests.unit.server.test_users import ANY, API, ONE, FakeAPI, check, is_right, prove, refused, table

KEY = bytes(32)
OWN = User(id="own", secret="of the server")


class Worker(Users):
    """Users of a worker; `gone` are the ids whose tunnels had to go at once."""

    def __init__(self, siblings: Siblings, users: dict[str, User], options: ServerOptions) -> None:
        super().__init__(users, options, OWN, KEY, siblings)
        self.siblings = siblings
        self.gone: list[str] = []
        self.rivalled = lambda user_id, reason: self.gone.append(user_id)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "DEFAULT_ITERATIONS", MIN_ITERATIONS)
    monkeypatch.setattr(credentials, "derive", lambda secret, salt, _=0: derive(secret, salt, MIN_ITERATIONS))
    monkeypatch.setattr("gtapp.server.users.AuthAPI", FakeAPI)


@pytest.fixture
def new_worker() -> Iterator[Callable[..., Worker]]:
    """new_worker(user, …, options=): the next worker, which knows those before."""
    made: list[Worker] = []

    def make(*users: User, options: ServerOptions = ANY) -> Worker:
        worker = Worker(Siblings(len(made) + 1), table(*users), options)
        worker.siblings.start()
        for each in made:
            introduce(each.siblings, worker.siblings)
        made.append(worker)
        turn(5)
        return worker

    yield make
    turn(5)
    for each in made:
        each.siblings.stop()
        each.stop()


@pytest.fixture
def workers(new_worker: Callable[..., Worker]) -> list[Worker]:
    return [new_worker(ONE) for _ in range(3)]


def enrolment(secret: str) -> Verifier:
    """As a client makes it."""
    return derive(secret, secrets.token_bytes(16), MIN_ITERATIONS)


def enrol(worker: Worker, secret: str) -> Login:
    login = worker.begin("guest")
    assert login.verifier() is None
    login.enrolled(enrolment(secret))
    turn(5)
    return login


def knows_nothing(worker: Worker) -> bool:
    """Of any guest."""
    guests = worker._guests
    elsewhere = [*guests._elsewhere.values(), *guests._enrolling_elsewhere.values()]
    return not any([guests.here, guests._enrolling, worker._logins, *elsewhere])


# strangers


def test_salts_are_the_same_everywhere(workers: list[Worker]) -> None:
    for user_id in ("id1", "unknown", "own"):
        salts = set()
        for worker in workers:
            worker.replace(table(ONE), ServerOptions())
            verifier = worker.begin(user_id).verifier()
            assert verifier is not None
            salts.add(verifier.salt)
        assert len(salts) == 1


def test_the_servers_own_user_is_known_everywhere(workers: list[Worker]) -> None:
    for worker in workers:
        assert worker.is_own("own")
        assert is_right(worker, "own", "of the server")
        assert not is_right(worker, "own", "another")


# guests


@pytest.mark.parametrize("how", ["check", "enrol"])
def test_the_first_secret_counts_in_all_workers(workers: list[Worker], how: str) -> None:
    one, two, three = workers
    first = check(one, "guest", "its secret") if how == "check" else enrol(one, "its secret")
    turn(5)
    assert not is_right(two, "guest", "another")
    assert refused(lambda: prove(two.begin("guest"), "another")) == "invalid_credentials"
    second = check(two, "guest", "its secret")
    third = three.begin("guest")
    prove(third, "its secret")
    assert second.user.id == third.user.id == "guest"
    turn(5)
    first.close()
    second.close()
    turn(5)
    for worker in workers:
        assert not is_right(worker, "guest", "another")
    third.close()
    turn(5)
    assert all(knows_nothing(worker) for worker in workers)
    last = check(one, "guest", "another")
    turn(5)
    assert not is_right(three, "guest", "its secret")
    last.close()


def test_a_secret_that_was_right_is_not_when_another_has_come(workers: list[Worker]) -> None:
    """What has been proved once is remembered, but not beyond the guest."""
    one, two, _ = workers
    check(one, "guest", "its secret").close()
    turn(5)
    other = check(two, "guest", "another")
    turn(5)
    assert not is_right(one, "guest", "its secret")
    assert is_right(one, "guest", "another")
    other.close()


def test_a_newcomer_is_told(workers: list[Worker], new_worker: Callable[..., Worker]) -> None:
    first = enrol(workers[0], "its secret")
    four = new_worker()
    assert not is_right(four, "guest", "another")
    assert is_right(four, "guest", "its secret")
    first.close()


def test_guests_of_a_worker_that_dies_are_forgotten(workers: list[Worker]) -> None:
    one, two, three = workers
    enrol(one, "its secret")
    both = enrol_second(two)
    one.siblings.stop()
    turn(5)
    assert not is_right(three, "guest", "another")
    both.close()
    turn(5)
    assert is_right(three, "guest", "another")
    assert knows_nothing(three)


def enrol_second(worker: Worker) -> Login:
    login = worker.begin("guest")
    prove(login, "its secret")
    turn(5)
    return login


def test_an_id_that_has_become_a_users_is_that_users(workers: list[Worker]) -> None:
    one, two, _ = workers
    guest = enrol(one, "its secret")
    two.replace(table(ONE, User(id="guest", secret="its own")), ANY)
    assert not is_right(two, "guest", "its secret")
    assert is_right(two, "guest", "its own")
    assert one.replace(table(ONE, User(id="guest", secret="its own")), ANY) == {"guest"}
    turn(5)
    guest.close()
    assert all(knows_nothing(worker) for worker in workers)


def test_where_guests_may_not_come_in_any_more(workers: list[Worker]) -> None:
    """Workers read a new configuration one after the other."""
    one, two, _ = workers
    guest = enrol(one, "its secret")
    two.replace(table(ONE), ServerOptions())
    assert not is_right(two, "guest", "its secret")
    two.replace(table(ONE), ANY)
    assert is_right(two, "guest", "its secret")
    guest.close()


# races


def test_others_wait_for_the_one_that_enrols_elsewhere(workers: list[Worker]) -> None:
    """A client opens its tunnels one soon after the other, each with another salt, in whichever worker."""
    one, two, three = workers
    first = three.begin("guest")
    assert first.verifier() is None
    turn(5)
    second, shown = one.begin("guest"), two.begin("guest")
    waiting = gevent.spawn(prove, second, "its secret"), gevent.spawn(shown.check, "its secret", [])
    turn(10)
    assert not any(each.ready() for each in waiting)
    first.enrolled(enrolment("its secret"))
    gevent.joinall(waiting, timeout=10, raise_error=True)
    assert second.user.id == shown.user.id == "guest"
    assert [worker.gone for worker in workers] == [[], [], []]


@pytest.mark.parametrize("how", ["given up", "the worker dies"])
def test_one_that_enrols_elsewhere_and_does_not_come_in(workers: list[Worker], how: str) -> None:
    one, two, _ = workers
    first = one.begin("guest")
    assert first.verifier() is None
    turn(5)
    second = two.begin("guest")
    waiting = gevent.spawn(second.verifier)
    turn(5)
    assert not waiting.ready()
    first.close() if how == "given up" else one.siblings.stop()
    waiting.join(10)
    assert waiting.value is None
    assert waiting.successful(), "it enrols now"
    second.close()


def test_two_that_enrol_in_the_same_moment(workers: list[Worker]) -> None:
    """The higher number gives way, and its client is not told that its secret is wrong."""
    one, two, _ = workers
    lower, higher = one.begin("guest"), two.begin("guest")
    assert lower.verifier() is higher.verifier() is None
    turn(5)
    with pytest.raises(GTError, match="comes in at another worker") as caught:
        higher.enrolled(enrolment("its secret"))
    assert not isinstance(caught.value, RemoteRefused)
    higher.close()
    lower.enrolled(enrolment("its secret"))
    turn(5)
    enrol_second(two).close()
    lower.close()


def test_the_higher_number_enrols_first_in_the_same_moment(workers: list[Worker]) -> None:
    one, two, _ = workers
    lower, higher = one.begin("guest"), two.begin("guest")
    assert lower.verifier() is higher.verifier() is None
    higher.enrolled(enrolment("its secret"))  # before it hears of the other
    turn(5)
    with pytest.raises(GTError, match="comes in at another worker"):
        lower.enrolled(enrolment("another"))
    lower.close()
    assert is_right(one, "guest", "its secret")
    higher.close()


def test_two_secrets_in_the_same_moment(workers: list[Worker]) -> None:
    """Both have come in before either worker hears of it: the tunnels of the higher number go."""
    one, two, three = workers
    tries = gevent.spawn(check, one, "guest", "its secret"), gevent.spawn(check, two, "guest", "another")
    real = [worker.siblings.tell for worker in workers]
    held: list[tuple[Any, ...]] = []
    for worker, tell in zip(workers, real, strict=True):
        worker.siblings.tell = lambda *told, tell=tell: held.append((tell, *told))  # type: ignore[method-assign]
    gevent.joinall(tries, timeout=10, raise_error=True)
    for tell, *told in held:
        tell(*told)
    for worker, tell in zip(workers, real, strict=True):
        worker.siblings.tell = tell  # type: ignore[method-assign]
    until(lambda: two.gone)
    turn(5)
    assert [worker.gone for worker in workers] == [[], ["guest"], []]
    assert refused(lambda: tries[1].get().user) == "invalid_credentials"
    for worker in workers:
        assert is_right(worker, "guest", "its secret")
        assert not is_right(worker, "guest", "another")
    assert three._guests.here == {}
    tries[0].get().close()
    tries[1].get().close()
    turn(5)
    assert all(knows_nothing(worker) for worker in workers)


def test_one_secret_twice_in_the_same_moment(workers: list[Worker]) -> None:
    """Two tunnels of a client of protocol 1: both are right."""
    tries = [gevent.spawn(check, worker, "guest", "its secret") for worker in workers]
    gevent.joinall(tries, timeout=10, raise_error=True)
    turn(5)
    assert [worker.gone for worker in workers] == [[], [], []]
    assert [each.get().user.id for each in tries] == ["guest"] * 3
    for each in tries:
        each.get().close()


# authAPI


def test_guests_of_an_authapi_are_asked_about_in_each_worker(new_worker: Callable[..., Worker]) -> None:
    one, two = new_worker(options=API), new_worker(options=API)
    first = check(one, "apple", "pie", "tart")
    turn(5)
    assert not is_right(two, "apple", "cake")
    second = check(two, "apple", "pie", "tart")
    assert second.hosts == first.hosts
    first.close()
    second.close()
    turn(5)
    assert knows_nothing(one)
    assert knows_nothing(two)
