"""The machine that the tests run on."""

import os

import psutil

from gtapp.console import machine
from gtapp.console.machine import Machine


def test_what_there_is(tmp_path):
    found = machine.look(tmp_path / "not" / "there" / "yet")
    assert found.cores == os.cpu_count()
    assert 0 <= found.cpu <= 1
    assert 0 < found.memory < 1
    assert found.memory_total == psutil.virtual_memory().total
    assert 0 < found.disk <= 1
    assert found.disk_total == psutil.disk_usage(str(tmp_path)).total


def test_nothing_is_known():
    assert Machine().memory == Machine().disk == 0


def test_a_disk_is_full_when_others_than_root_can_write_no_more():
    assert Machine(disk_used=90, disk_free=0, disk_total=100).disk == 1


def test_this_process_is_among_them_once():
    own = os.getpid()
    found = machine.processes([{"pid": 1 << 30, "kind": "worker 1", "fds": 3}])
    assert [each["kind"] for each in found] == ["worker 1", "console"]
    worker, console = found
    assert worker["fds_limit"] == 0, "a process that is not there any more"
    assert console["pid"] == own
    assert console["rss"] > 1_000_000
    assert console["fds_limit"] >= console["fds"] > 0
    told = machine.processes([{"pid": own, "kind": "console", "rss": 1, "cpu_s": 1.0, "fds": 1}])
    assert [each["rss"] for each in told] == [1]
