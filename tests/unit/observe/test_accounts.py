"""Accounts: one for each name of a user's, and a bound that loses nothing of what users have had."""

from __future__ import annotations

from gtapp.observe.accounts import Account, Accounts


def used(account: Account, opened: int, ended: int, bytes_in: int, bytes_out: int) -> Account:
    account.opened += opened
    account.ended += ended
    account.bytes_in += bytes_in
    account.bytes_out += bytes_out
    return account


def test_the_same_name_has_the_same_account() -> None:
    accounts = Accounts()
    one = accounts.find("http", "a", "id1")
    assert accounts.find("http", "a", "id1") is one
    assert accounts.find("tls", "a", "id1") is not one
    assert accounts.find("http", "a", "id2") is not one
    assert len(list(accounts.all())) == 3
    assert (one.kind, one.name, one.user) == ("http", "a", "id1")


def test_an_idle_one_makes_room_and_its_user_loses_nothing() -> None:
    accounts = Accounts(most=2)
    busy = used(accounts.find("http", "busy", "id1"), 2, 1, 10, 20)
    for number in range(3):
        used(accounts.find("http", f"idle{number}", "id1"), 5, 5, 100, 200)
    assert [each.name for each in accounts.all()] == ["busy", "idle2"]
    (rest,) = accounts.dropped()
    assert (rest.user, rest.opened, rest.ended, rest.bytes_in, rest.bytes_out) == ("id1", 10, 10, 200, 400)
    assert accounts.find("http", "busy", "id1") is busy
    assert accounts.find("http", "idle0", "id1").opened == 0


def test_where_all_are_busy_none_makes_room() -> None:
    accounts = Accounts(most=2)
    for number in range(4):
        used(accounts.find("http", str(number), "id1"), 1, 0, 0, 0)
    assert len(list(accounts.all())) == 4
    assert list(accounts.dropped()) == []


def test_users_whose_accounts_made_room_are_no_more_than_accounts() -> None:
    accounts = Accounts(most=3)
    for number in range(20):
        accounts.find("http", "a", f"id{number}")
    assert len(list(accounts.all())) == 3
    assert [each.user for each in accounts.dropped()] == ["id14", "id15", "id16"]


def test_repr() -> None:
    assert repr(used(Account("tcp", "22", "id1"), 3, 1, 0, 0)) == "<Account tcp 22: 2 of 3 run>"
