"""Who has had how much relayed: an account for each host, port or local service, and one for each user of a server.

Of a stream that is over its account knows the bytes; those of a stream that runs are in the stream itself, so that
the data path counts each byte once. `gtapp.relay.facts` adds up both.
"""

from collections.abc import Iterable

MOST = 10_000  # hosts, and users; beyond that one that is idle makes room: clients choose their hosts' names


class Account:
    """What was relayed for `name`, of this kind, which belongs to `user`; `owner` is the user's own account.

    `bytes_in` came from visitors, `bytes_out` from services.
    """

    __slots__ = ("bytes_in", "bytes_out", "kind", "name", "opened", "owner", "streams", "user")

    def __init__(self, kind: str, name: str, user: str, owner: "Account | None" = None) -> None:
        self.kind = kind
        self.name = name
        self.user = user
        self.owner = owner
        self.streams = 0  # that run
        self.opened = 0  # since the process has started
        self.bytes_in = 0  # of streams that are over
        self.bytes_out = 0

    def __repr__(self) -> str:
        return f"<Account {self.kind} {self.name} of {self.user or 'nobody'}: {self.streams} of {self.opened} run>"

    def begin(self) -> None:
        """There is one more stream."""
        self.streams += 1
        self.opened += 1
        owner = self.owner
        if owner is not None:
            owner.streams += 1
            owner.opened += 1

    def end(self, bytes_in: int, bytes_out: int) -> None:
        """A stream is over that has relayed so much."""
        self.streams -= 1
        self.bytes_in += bytes_in
        self.bytes_out += bytes_out
        owner = self.owner
        if owner is not None:
            owner.streams -= 1
            owner.bytes_in += bytes_in
            owner.bytes_out += bytes_out


class Accounts:
    """Those of a process. A client's services belong to no user."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._users: dict[str, Account] = {}
        self._names: dict[tuple[str, str, str], Account] = {}

    def find(self, kind: str, name: str, user: str = "") -> Account:
        """The account of a host or port of a user's, or of a service."""
        key = (kind, name, user)
        account = self._names.get(key)
        if account is None:
            _make_room(self._names, self._most)
            account = self._names[key] = Account(kind, name, user, self._owner(user) if user else None)
        return account

    def _owner(self, user: str) -> Account:
        owner = self._users.get(user)
        if owner is None:
            _make_room(self._users, self._most)
            owner = self._users[user] = Account("user", user, user)
        return owner

    @property
    def users(self) -> Iterable[Account]:
        return self._users.values()

    @property
    def names(self) -> Iterable[Account]:
        """Hosts and ports, or services."""
        return self._names.values()


def _make_room(accounts: dict, most: int) -> None:  # type: ignore[type-arg]
    if len(accounts) >= most:
        idle = next((key for key, account in accounts.items() if not account.streams), None)
        if idle is not None:
            del accounts[idle]
