"""Who has had how much relayed: an account for each host, port or local service.

Of a stream that is over its account knows the bytes; those of a stream that runs are in the stream itself, so that
the data path counts each byte once. `gtapp.relay.facts` adds up both.
"""

from collections.abc import Iterable

MOST = 10_000  # accounts; beyond that one that is idle makes room: clients choose their hosts' names


class Account:
    """What was relayed for `name`, of this kind, which belongs to `user`; a client's services belong to nobody.

    Its numbers are written where a stream begins and ends: every new connection waits for that.
    """

    __slots__ = ("bytes_in", "bytes_out", "ended", "kind", "name", "opened", "user")

    def __init__(self, kind: str, name: str, user: str = "") -> None:
        self.kind = kind
        self.name = name
        self.user = user
        self.opened = 0  # streams, since the process has started
        self.ended = 0  # those that are over
        self.bytes_in = 0  # from visitors, of streams that are over
        self.bytes_out = 0  # from services

    def __repr__(self) -> str:
        return f"<Account {self.kind} {self.name}: {self.opened - self.ended} of {self.opened} run>"


class Accounts:
    """Those of a server's process."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._known: dict[tuple[str, str, str], Account] = {}
        self._dropped: dict[str, Account] = {}  # by user: what those had that had to make room

    def find(self, kind: str, name: str, user: str) -> Account:
        """The account of a host or port of a user's."""
        key = (kind, name, user)
        account = self._known.get(key)
        return self._new(key) if account is None else account

    def _new(self, key: tuple[str, str, str]) -> Account:
        if len(self._known) >= self._most:
            self._make_room()
        account = self._known[key] = Account(*key)
        return account

    def _make_room(self) -> None:
        idle = next((key for key, account in self._known.items() if account.opened == account.ended), None)
        if idle is None:
            return
        account = self._known.pop(idle)
        rest = self._dropped.get(account.user)
        if rest is None:
            if len(self._dropped) >= self._most:
                del self._dropped[next(iter(self._dropped))]
            rest = self._dropped[account.user] = Account("", "", account.user)
        rest.opened += account.opened
        rest.ended += account.ended
        rest.bytes_in += account.bytes_in
        rest.bytes_out += account.bytes_out

    def all(self) -> Iterable[Account]:
        """Those that there are."""
        return self._known.values()

    def dropped(self) -> Iterable[Account]:
        """What the others had, in one account for each user."""
        return self._dropped.values()
