"""Lines of TOML places, and the errors of broken files."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featbank import errors
from stage2.specification.toml_file import Place, place_lines, read_toml

EXAMPLE = '''\
# a comment with "quotes" and [brackets]
a = 1
"b # c" = 'x = 2'   # key with a comment sign
d . e = [1,
  # between
  2, [3,
  4], "]",
]
[t]
f = { g = 1, h . i = [5, 6], "j}" = """}
k = 1""" }
m = \'\'\'
n = 1
''\'\'\'
[[u.v]]
w = 1979-05-27 07:32:00
[u.v.x]
y = "\\\\"
[[ u . v ]]
w = """a ""\\""" = 1
b"""""
z = inf
[u]
'''

LINES: dict[Place, int] = {
    ("a",): 2,
    ("b # c",): 3,
    ("d",): 4,
    ("d", "e"): 4,
    ("d", "e", 0): 4,
    ("d", "e", 1): 6,
    ("d", "e", 2): 6,
    ("d", "e", 2, 0): 6,
    ("d", "e", 2, 1): 7,
    ("d", "e", 3): 7,
    ("t",): 9,
    ("t", "f"): 10,
    ("t", "f", "g"): 10,
    ("t", "f", "h"): 10,
    ("t", "f", "h", "i"): 10,
    ("t", "f", "h", "i", 0): 10,
    ("t", "f", "h", "i", 1): 10,
    ("t", "f", "j}"): 10,
    ("t", "m"): 12,
    ("u",): 15,
    ("u", "v"): 15,
    ("u", "v", 0): 15,
    ("u", "v", 0, "w"): 16,
    ("u", "v", 0, "x"): 17,
    ("u", "v", 0, "x", "y"): 18,
    ("u", "v", 1): 19,
    ("u", "v", 1, "w"): 20,
    ("u", "v", 1, "z"): 22,
}


def places_of(value: Any, place: Place = ()) -> set[Place]:
    """Every key and array index of a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    places = set()
    for key, item in inner:
        places.add((*place, key))
        if isinstance(item, dict | list):
            places |= places_of(item, (*place, key))
    return places


def test_the_example() -> None:
    """Reference: lines counted by hand; places are those of tomllib."""
    assert place_lines(EXAMPLE) == LINES
    assert places_of(tomllib.loads(EXAMPLE)) == LINES.keys()


TEXTS = st.text(max_size=8)
SCALARS = st.one_of(
    st.integers(-9, 9), st.booleans(), TEXTS, st.sampled_from(["[", "}", "#", '"""', "a = 1", "\\"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=6,
)


class Writer:
    """Writes values in the styles of TOML, and notes lines on the way."""

    def __init__(self, draw: Any) -> None:
        self.text, self.lines, self.draw = "", {}, draw

    def put(self, text: str) -> None:
        self.text += text

    def note(self, place: Place) -> None:
        self.lines[place] = self.text.count("\n") + 1

    def blank(self) -> None:
        """Between the elements of an array."""
        self.put(self.draw(st.sampled_from(["", " ", "\n", "# a ] comment\n", "\r\n\t"])))

    def key(self, key: str) -> None:
        self.put(quoted(key))

    def value(self, value: Any, place: Place) -> None:
        if isinstance(value, list):
            self.put("[")
            for i, item in enumerate(value):
                self.blank()
                self.note((*place, i))
                self.value(item, (*place, i))
                self.blank()
                self.put(",")
            self.blank()
            self.put("]")
        elif isinstance(value, dict):
            self.put("{ ")
            for i, (key, item) in enumerate(value.items()):
                self.put(", " if i else "")
                self.note((*place, key))
                self.key(key)
                self.put(" = ")
                self.value(item, (*place, key))
            self.put(" }")
        elif isinstance(value, str):
            self.put(self.draw(st.sampled_from([quoted(value), many_quoted(value)])))
        else:
            self.put(json.dumps(value))

    def pairs(self, table: dict[str, Any], place: Place) -> None:
        for key, value in table.items():
            self.put(self.draw(st.sampled_from(["", "\n", "# x = 1 [\n", "  "])))
            self.note((*place, key))
            self.key(key)
            self.put(self.draw(st.sampled_from(["=", " = "])))
            self.value(value, (*place, key))
            self.put(self.draw(st.sampled_from(["\n", " # [\n", "\r\n"])))


def quoted(text: str) -> str:
    """A basic string: control characters escaped."""
    escaped = "".join(
        f"\\u{ord(c):04x}" if ord(c) < 32 or ord(c) == 127 else {'"': '\\"', "\\": "\\\\"}.get(c, c)
        for c in text
    )
    return f'"{escaped}"'


def many_quoted(text: str) -> str:
    """The same between three quotes, with a line break that its first place swallows."""
    return f'"""\n{quoted(text)[1:-1]}"""'


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_any_document(data: st.DataObject) -> None:
    """Reference: lines noted while the document was written; tomllib reads back its values."""
    table = st.dictionaries(TEXTS, VALUES, max_size=3)
    top = data.draw(table)
    headed = data.draw(st.lists(st.tuples(TEXTS, TEXTS, table), max_size=3))
    writer = Writer(data.draw)
    writer.pairs(top, ())
    expected, counts = dict(top), dict[str, int]()
    for outer, inner, pairs in headed:
        name = f"array {outer}"
        if f"{name} {inner}" in top or name in top:
            continue
        index = counts[name] = counts.get(name, -1) + 1
        if not index:
            writer.note((name,))
        writer.note((name, index))
        writer.put(f"[[{quoted(name)}]]\n")
        own = {key: value for key, value in pairs.items() if key != inner}
        writer.pairs(own, (name, index))
        writer.note((name, index, inner))
        writer.put(f"[ {quoted(name)}. {quoted(inner)} ] # header\n")
        writer.pairs(pairs, (name, index, inner))
        expected.setdefault(name, []).append({**own, inner: pairs})
    text = writer.text.replace("\r\n", "\n")
    assert tomllib.loads(text) == expected, text
    assert place_lines(text) == writer.lines, text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a = 1\nb = \n", "s.toml:2: Invalid value. This is not TOML."),
        (b"a = 1\na = 2\n", "s.toml:2: Cannot overwrite a value. This is not TOML."),
        (b"a = [1,\n\n", "s.toml:2: Invalid value. This is not TOML."),
        (b"a = '\n", "s.toml:1: "),
        (b"\n\n]", "s.toml:3: Invalid statement. This is not TOML."),
        (b"a = 2021-02-30", "s.toml:1: Invalid date or datetime. This is not TOML."),
        (b"a = " + b"[" * 5000, "s.toml: nested too deeply, more than 32 deep. Write it flat."),
        (b"a = \xff", "s.toml is not UTF-8 text (byte 4). Save it as UTF-8."),
        (b"\x89HDF\r\n\x1a\n", "s.toml is not UTF-8 text (byte 0). Save it as UTF-8."),
        (b"a = 9223372036854775808", "s.toml has an integer of more than 64 bits."),
        (b"a = [{b = " + b"9" * 5000 + b"}]", "s.toml has an integer of more than 64 bits."),
    ],
)
def test_what_is_no_toml(text: bytes, message: str, tmp_path: Path) -> None:
    """Reference: the lines at which the text breaks, counted by hand."""
    (tmp_path / "s.toml").write_bytes(text)
    with pytest.raises(errors.ConfigError) as error:
        read_toml(tmp_path / "s.toml", "s.toml")
    assert str(error.value).startswith(message), str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_no_file(tmp_path: Path) -> None:
    """Reference: one line with the remedy."""
    with pytest.raises(errors.ConfigError, match="gone.toml: no such file. Name a TOML file."):
        read_toml(tmp_path / "gone.toml", "gone.toml")
    with pytest.raises(errors.ConfigError, match="is a folder, not a file. Name a TOML file"):
        read_toml(tmp_path, "folder.toml")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "linked.toml").symlink_to("pipe")
    (tmp_path / "endless.toml").symlink_to("/dev/zero")
    for name, kind in (("linked.toml", "a named pipe"), ("endless.toml", "a device")):
        with pytest.raises(errors.ConfigError, match=f"{name} is {kind}, not a file. Name"):
            read_toml(tmp_path / name, name)


def test_a_byte_order_mark(tmp_path: Path) -> None:
    """Reference: the same file without the mark that some editors write."""
    file = tmp_path / "s.toml"
    file.write_bytes(b"\xef\xbb\xbf# Marked.\r\nseeds = [4]\r\n")
    toml = read_toml(file, "s")
    assert toml.values == {"seeds": [4]}
    assert toml.opening() == "Marked."
    assert toml.line(("seeds",)) == 2


def test_the_opening_comment(tmp_path: Path) -> None:
    """Reference: the comment up to the first line that is none."""
    file = tmp_path / "s.toml"
    file.write_text("# One thing.\n#  Another.\n\n# not this\na = 1\n")
    assert read_toml(file, "s").opening() == "One thing. Another."
    file.write_text("a = 1\n# late")
    assert read_toml(file, "s").opening() == ""
