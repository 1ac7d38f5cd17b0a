"""Three texts beside each other: who has changed what, and what becomes of both together."""

import random

import pytest

from gtapp.console.merge import compare, fits, merge, together

WAS = "a\nb\nc\nd\ne\n"


def changes(mine: str, theirs: str, was: str = WAS) -> list[tuple[str, str, str, str]]:
    return [
        (block.change, " ".join(block.was), " ".join(block.mine), " ".join(block.theirs))
        for block in merge(was, mine, theirs)
        if block.change
    ]


@pytest.mark.parametrize(
    ("mine", "theirs", "expected"),
    [
        (WAS, WAS, []),
        ("a\nB\nc\nd\ne\n", WAS, [("mine", "b", "B", "b")]),
        (WAS, "a\nb\nc\nD\ne\n", [("theirs", "d", "d", "D")]),
        ("a\nX\nc\nd\ne\n", "a\nX\nc\nd\ne\n", [("alike", "b", "X", "X")]),
        ("a\nX\nc\nd\ne\n", "a\nY\nc\nd\ne\n", [("both", "b", "X", "Y")]),
        ("a\nB\nc\nd\ne\n", "a\nb\nc\nd\ne\nf\n", [("mine", "b", "B", "b"), ("theirs", "", "", "f")]),
        ("a\nc\nd\ne\n", "a\nb\nc\ne\n", [("mine", "b", "", "b"), ("theirs", "d", "d", "")]),
        ("0\na\nb\nc\nd\ne\n", "1\na\nb\nc\nd\ne\n", [("both", "", "0", "1")]),
        ("", WAS, [("mine", "a b c d e", "", "a b c d e")]),
    ],
)
def test_who_has_changed_what(mine, theirs, expected):
    assert changes(mine, theirs) == expected


def test_a_block_says_where_it_is_in_the_file():
    blocks = merge(WAS, "a\nb\nc\nd\nE\n", "0\na\nb\nc\nd\ne\n")
    assert [(block.change, block.line) for block in blocks] == [("theirs", 1), ("", 2), ("mine", 6)]


def test_both_changes_are_kept():
    blocks = merge(WAS, "a\nB\nc\nd\ne\n", "a\nb\nc\nd\ne\nf\n")
    assert fits(blocks)
    assert together(blocks) == "a\nB\nc\nd\ne\nf\n"


def test_where_both_changed_the_same_theirs_becomes_a_comment():
    blocks = merge("port: 1\nx: 1\n", "port: 2\nx: 1\n", "port: 3\nx: 1\n")
    assert not fits(blocks)
    assert together(blocks) == "port: 2\n# in the file: port: 3\nx: 1\n"


@pytest.mark.parametrize("seed", range(50))
def test_every_line_of_all_three_is_there_and_one_sided_changes_come_through(seed):
    chance = random.Random(seed)

    def changed(lines: list[str]) -> list[str]:
        out = []
        for line in lines:
            what = chance.random()
            out += [] if what < 0.1 else [chance.choice("xyz")] if what < 0.2 else [line]
            out += [chance.choice("abc")] if what > 0.9 else []
        return out

    def text(lines: list[str]) -> str:
        return "".join(f"{line}\n" for line in lines)

    was = [chance.choice("abcdef") for _ in range(chance.randrange(30))]
    mine, theirs = changed(was), changed(was)
    blocks = merge(text(was), text(mine), text(theirs))
    assert [line for block in blocks for line in block.was] == was
    assert [line for block in blocks for line in block.mine] == mine
    assert [line for block in blocks for line in block.theirs] == theirs
    assert together(merge(text(was), text(mine), text(was))) == text(mine)
    assert together(merge(text(was), text(was), text(theirs))) == text(theirs)
    assert together(merge(text(was), text(mine), text(mine))) == text(mine)


def test_a_long_file_takes_no_time():
    was = "".join(f"user{number}:\n  speed: 1MiB\n" for number in range(20_000))
    mine, theirs = was.replace("user7:", "user-7:"), was + "last: 1\n"
    assert together(merge(was, mine, theirs)) == was.replace("user7:", "user-7:") + "last: 1\n"


def shown(before: str, after: str, context: int = 1) -> list[str]:
    return [f"{line.kind}{line.text or line.count}" for line in compare(before, after, context)]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("a\nb\nc\n", "a\nB\nc\n", [" a", "-b", "+B", " c"]),
        ("", "a\nb\n", ["+a", "+b"]),
        ("a\n", "", ["-a"]),
        ("a\n", "a\n", []),
        ("1\n2\n3\n4\n", "1\n2\n3\n4\n5\n", ["…3", " 4", "+5"]),
        ("1\n2\n3\n4\n", "0\n1\n2\n3\n4\n", ["+0", " 1", "…3"]),
        ("1\n2\n3\n4\n5\n6\n", "0\n2\n3\n4\n5\n7\n", ["-1", "+0", " 2", "…2", " 5", "-6", "+7"]),
        ("1\n2\n3\n4\n", "0\n2\n3\n5\n", ["-1", "+0", " 2", " 3", "-4", "+5"]),
        ("a\r\nb\r\n", "a\r\nc\r\n", [" a", "-b", "+c"]),
        ("a\n\nb\n", "a\nb\n", [" a", "-0", " b"]),
    ],
)
def test_lines_of_a_difference(before, after, expected):
    assert shown(before, after) == expected


@pytest.mark.parametrize("seed", range(30))
def test_a_difference_leads_from_one_text_to_the_other(seed):
    chance = random.Random(seed)
    before, after = ([chance.choice("abcd") for _ in range(chance.randrange(25))] for _ in range(2))
    lines = compare(
        "".join(f"{each}\n" for each in before), "".join(f"{each}\n" for each in after), context=100
    )
    if before != after:
        assert [line.text for line in lines if line.kind in " -"] == before
        assert [line.text for line in lines if line.kind in " +"] == after
