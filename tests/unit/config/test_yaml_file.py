"""Reading YAML: where things stand, and one clear error for every file that is no use or made to hurt."""

import time
from pathlib import Path

import pytest

from gtapp.config.files import MAX_FILE_BYTES
from gtapp.config.problems import Problems
from gtapp.config.yaml_file import YamlFile
from gtapp.errors import ConfigError

BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(at + 1)}: &{chr(at + 1)} [{','.join(['*' + chr(at)] * 10)}]\n" for at in range(ord("a"), ord("j"))
)
MERGE_CHAIN = "- &a0 {x: 1}\n" + "".join(f"- &a{n} {{<<: *a{n - 1}}}\n" for n in range(1, 1200))

BROKEN = {
    "empty": (b"", "{path}: is empty"),
    "comments only": (b"# nothing\n\n", "{path}: is empty"),
    "null": (b"~", "{path}: is empty"),
    "byte order mark only": (b"\xef\xbb\xbf", "{path}: is empty"),
    "binary": (
        b"\x7fELF\x02\x01\x01\x00",
        "{path}:1: is not a text file (control characters are not allowed)",
    ),
    "a zero byte in line 3": (
        b"a: 1\nb: 2\nc: \0",
        "{path}:3: is not a text file (control characters are not allowed)",
    ),
    "not UTF-8": (b"a: 1\nb: \xff\xfe", "{path}:2: is not UTF-8 text (byte 0xff)"),
    "UTF-16": ("a: 1".encode("utf-16"), "{path}:1: is not UTF-8 text (byte 0xff)"),
    "unclosed list": (
        b"a: 1\nb: [1,\n",
        "{path}:3: is not valid YAML: while parsing a flow node, did not find expected node content",
    ),
    "unclosed quote": (
        b"a: 'x\n\n",
        "{path}:3: is not valid YAML: while scanning a quoted scalar, found unexpected end of stream",
    ),
    "tab": (
        b"a:\n\tb: 1\n",
        "{path}:2: is not valid YAML: while scanning for the next token,"
        " found character that cannot start any token",
    ),
    "colon in a value": (
        b"a: b: c",
        "{path}:1: is not valid YAML: mapping values are not allowed in this context",
    ),
    "unknown alias": (b"a: 1\nb: *c\n", "{path}:2: is not valid YAML: found undefined alias"),
    "two documents": (b"a: 1\n---\nb: 2\n", "{path}:2: begins a second document, one is allowed"),
    "nested too deep": (b"[" * 33, "{path}:1: is nested more than 32 levels deep"),
    "10 MiB of nesting": (b"[" * MAX_FILE_BYTES, "{path}:1: is nested more than 32 levels deep"),
    "10 MiB of nested mappings": (
        b"{a: " * (MAX_FILE_BYTES // 4),
        "{path}:1: is nested more than 32 levels deep",
    ),
    "10 MiB of nested sequences": (
        b"- " * (MAX_FILE_BYTES // 2),
        "{path}:1: is nested more than 32 levels deep",
    ),
    "nested by indentation": (
        "".join(f"{' ' * n}a:\n" for n in range(2000)).encode(),
        "{path}:32: is nested more than 32 levels deep",
    ),
    "larger than 10 MiB": (b"#" * (MAX_FILE_BYTES + 1), "{path}: is larger than 10 MiB"),
    "alias bomb": (BOMB.encode(), "{path}:6: has more than 1,000,000 values, counted with their aliases"),
    "many documents": (
        b"---\n" * (MAX_FILE_BYTES // 4),
        "{path}:2: begins a second document, one is allowed",
    ),
    "an alias of itself": (b"a: &a [*a]", "{path}:1: *a stands inside of what it refers to"),
    "a chain of merges": (MERGE_CHAIN.encode(), "{path}:31: is nested more than 32 levels deep"),
}


def mapping_of(path: Path, text: str, known=None):
    path.write_text(text)
    problems = Problems()
    file = YamlFile(path, problems)
    entries = file.mapping(file.root, "options", known)
    problems.check()
    return {key: node.value for key, (_, node) in entries.items()}


@pytest.fixture
def yml(tmp_path: Path) -> Path:
    return tmp_path / "gt.yml"


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_one_clear_error(yml, name):
    data, expected = BROKEN[name]
    yml.write_bytes(data)
    begun = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        YamlFile(yml, Problems())
    assert str(caught.value) == expected.format(path=yml)
    assert time.monotonic() - begun < 10


def test_a_missing_file(yml):
    with pytest.raises(ConfigError, match="there is no such file"):
        YamlFile(yml, Problems())


def test_a_directory_for_a_file(tmp_path):
    with pytest.raises(ConfigError, match="is a directory, a file is needed here"):
        YamlFile(tmp_path, Problems())


def test_a_file_in_a_file(yml):
    yml.write_text("a: 1")
    with pytest.raises(ConfigError, match="x: cannot be read: Not a directory"):
        YamlFile(yml / "x", Problems())


def test_a_path_with_a_zero_byte():
    with pytest.raises(ConfigError, match="cannot be read: embedded null byte"):
        YamlFile(Path("a\0b"), Problems())


def test_an_unreadable_file():
    with pytest.raises(ConfigError, match="mem: cannot be read: Input/output error"):
        YamlFile(Path("/proc/self/mem"), Problems())  # permissions would not stop root


def test_scalars_stay_as_they_are_written(yml):
    text = "\ufeffa: 0123\nb: 1_000\nc: yes\nd: 2001-01-01\ne: 1.0\nf: !!int '7'\ng: |\n  x\n"
    written = {"a": "0123", "b": "1_000", "c": "yes", "d": "2001-01-01", "e": "1.0", "f": "7", "g": "x\n"}
    assert mapping_of(yml, text) == written


def test_merge_keys_fill_in_what_is_not_there(yml):
    assert mapping_of(yml, "<<: {a: 1, b: 2}\nb: 3\n") == {"a": "1", "b": "3"}
    assert mapping_of(yml, "<<: [{a: 1}, {a: 2, b: 2}]\nc: 3\n") == {"a": "1", "b": "2", "c": "3"}
    assert mapping_of(yml, "<<: &x\n  <<: {a: 1}\n  b: 2\n") == {"a": "1", "b": "2"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2\na: 3\n", '3: options: "a" is there twice, see line 1'),
        ("a: 1\n'a': 3\n", '2: options: "a" is there twice, see line 1'),
        ("a: 1\nzz: 3\n", '2: options: unknown key "zz"'),
        ("a: 1\naddrr: 3\n", '2: options: unknown key "addrr", did you mean "addr"?'),
        ("a: 1\nADDR: 3\n", '2: options: unknown key "ADDR", did you mean "addr"?'),
        ("? [a]\n: 1\n", "1: options: a key: found a list, allowed: a word"),
        ("[a, b]", "1: options: found a list, allowed: a mapping"),
        ("hello", "1: options: found a single value, allowed: a mapping"),
        ("a: 1\n<<: 7\n", "2: options: found a single value, allowed: a mapping"),
        ("<<: {zz: 1}\n", '1: options: unknown key "zz"'),
        ('"a\\nb\\e": 1\n', '1: options: unknown key "a\ufffdb\ufffd"'),
        (f"{'k' * 100}: 1\n", f'1: options: unknown key "{"k" * 60}…"'),
    ],
)
def test_what_is_wrong_with_a_mapping_is_told_with_its_line(yml, text, expected):
    with pytest.raises(ConfigError) as caught:
        mapping_of(yml, text, known=("a", "b", "addr"))
    assert str(caught.value) == f"{yml}:{expected}"


def test_twenty_problems_are_enough(yml):
    with pytest.raises(ConfigError) as caught:
        mapping_of(yml, "".join(f"x{n}: 1\n" for n in range(100_000)), known=())
    lines = str(caught.value).split("\n")
    assert len(lines) == 21
    assert lines[-1] == "and perhaps more: only the first problems are shown"
