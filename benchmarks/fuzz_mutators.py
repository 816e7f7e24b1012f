"""Mutations that keep the structure of a format: trees of JSON and XML, lines and words of text."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Sequence
from typing import Any
from xml.etree import ElementTree

Mutator = Callable[[bytes, random.Random], bytes | None]  # None: the input has not the structure

ODD: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1.5,
        "",
        "x",
        "0",
        "1e999",
        float("inf"),
        float("nan"),
        10**25,
        -(10**25),
        1e308,
    ),
    *(
        [],
        [1],
        {},
        {"a": 1},
        [[]],
        ["a", "b", "c", "d"],
        [1e308] * 4,
        {"size": "x", "counts": []},
        2**63,
        2**31,
    ),
    *("\ud800", "\0", "a" * 5000, "../../x", "/etc/passwd", "/dev/zero", ".", "%00", "C:\\x\\1.png", "1.png"),
)
WORDS = (
    *(
        "",
        " ",
        "\n",
        "\t",
        ":",
        ",",
        ";",
        "-",
        "+",
        "0",
        "1",
        "-1",
        "0.5",
        "1e308",
        "nan",
        "inf",
        "1e-400",
        "null",
    ),
    *(
        "99999999999999999999",
        "0-7",
        "2,3",
        "*",
        "\0",
        "\u2603",
        "\u0661",
        "a" * 300,
        "../../etc/passwd",
        "~",
        "&a",
    ),
    *(
        "*a",
        "!!python/object:os.system",
        "<<",
        "[",
        "]",
        "{",
        "}",
        "#",
        "'",
        '"',
        "true",
        "no",
        "2024-01-01",
        "0x1f",
    ),
)


def mutate_json(data: bytes, generator: random.Random) -> bytes | None:
    """Change one to three places of a JSON tree."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(tree, dict | list):
        return None
    for _ in range(generator.randint(1, 3)):
        _spoil(tree, generator)
    try:
        return json.dumps(tree, ensure_ascii=generator.random() < 0.8).encode("utf-8", "surrogatepass")
    except RecursionError:
        return None


def mutate_json_lines(data: bytes, generator: random.Random) -> bytes | None:
    """Change one line of JSON, or the order and number of lines."""
    lines = data.split(b"\n")
    index = generator.randrange(len(lines))
    if generator.random() < 0.2:
        lines.insert(index, generator.choice(lines))
    else:
        changed = mutate_json(lines[index], generator)
        if changed is None:
            return None
        lines[index] = changed
    return b"\n".join(lines)


def mutate_xml(data: bytes, generator: random.Random) -> bytes | None:
    """Change one to three elements of an XML tree."""
    try:
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError, LookupError):
        return None
    for _ in range(generator.randint(1, 3)):
        elements = list(root.iter())
        element = generator.choice(elements)
        what = generator.randrange(6)
        if what == 0 and element.attrib:
            element.set(generator.choice(list(element.attrib)), _text(generator))
        elif what == 1:
            element.text = _text(generator)
        elif what == 2 and len(element):
            element.remove(generator.choice(list(element)))
        elif what == 3:
            element.append(copy.deepcopy(generator.choice(elements)))
        elif what == 4:
            element.tag = generator.choice(elements).tag
        elif element.attrib:
            element.attrib.pop(generator.choice(list(element.attrib)))
        if len(elements) > 2000:
            return None
    return ElementTree.tostring(root)


def mutate_text(data: bytes, generator: random.Random) -> bytes | None:
    """Change one to three words of a text."""
    try:
        lines = [line.split(" ") for line in data.decode().split("\n")]
    except UnicodeDecodeError:
        return None
    for _ in range(generator.randint(1, 3)):
        line = generator.choice(lines)
        position = generator.randrange(len(line))
        what = generator.randrange(5)
        if what == 0:
            line[position] = generator.choice(WORDS)
        elif what == 1:
            line.insert(position, generator.choice(WORDS))
        elif what == 2 and len(line) > 1:
            del line[position]
        elif what == 3:
            line[position] += generator.choice(WORDS)
        else:
            lines.insert(generator.randrange(len(lines)), list(generator.choice(lines)))
    return "\n".join(" ".join(line) for line in lines).encode()


def mutate_behind_mode(mutators: Sequence[Mutator]) -> Mutator:
    """Return a mutator of inputs whose first byte says of which of several kinds the rest is."""

    def mutate(data: bytes, generator: random.Random) -> bytes | None:
        if not data:
            return None
        changed = mutators[data[0] % len(mutators)](data[1:], generator)
        return None if changed is None else data[:1] + changed

    return mutate


def mutate_bytes(data: bytes, generator: random.Random) -> bytes:
    """Change, insert, delete or repeat some bytes: where libFuzzer's own mutations are not at hand."""
    changed = bytearray(data or b"\0")
    for _ in range(generator.randint(1, 8)):
        position = generator.randrange(len(changed) or 1)
        what = generator.randrange(4)
        if what == 0 and changed:
            changed[position] = generator.randrange(256)
        elif what == 1:
            changed[position:position] = generator.randbytes(generator.randint(1, 4))
        elif what == 2:
            del changed[position : position + generator.randint(1, 16)]
        else:
            changed[position:position] = changed[position : position + generator.randint(1, 64)]
    return bytes(changed)


def no_structure(data: bytes, generator: random.Random) -> bytes | None:
    """Leave the mutation to libFuzzer."""
    return None


def _text(generator: random.Random) -> str:
    return str(generator.choice((*WORDS, *ODD))).replace("\0", "0").encode("ascii", "replace").decode()


def _spoil(tree: Any, generator: random.Random) -> None:
    """Put an odd value in some place of a tree, or take out, repeat, move or wrap what is there."""
    node, containers = tree, [tree]
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return
        key = generator.choice(keys)
        if isinstance(node[key], dict | list) and node[key] and generator.random() < 0.75:
            node = node[key]
            containers.append(node)
            continue
        break
    what = generator.randrange(8)
    if what == 0:
        del node[key]
    elif what == 1 and isinstance(node, list):
        node.insert(0, copy.deepcopy(node[key]))
    elif what == 2:
        other = generator.choice(containers)
        node[key] = copy.deepcopy(
            generator.choice(list(other.values()) if isinstance(other, dict) else other or [0])
        )
    elif what == 3:
        node[key] = [node[key]] if generator.random() < 0.5 else {"a": node[key]}
    elif what == 4 and isinstance(node[key], int | float):
        node[key] = node[key] * generator.choice((-1, 0, 1e-9, 2, 1e9)) + generator.choice((0, 1, 0.5))
    elif what == 5 and isinstance(node, dict):
        node[generator.choice((*map(str, node), *WORDS))] = node[key]
    else:
        node[key] = copy.deepcopy(generator.choice(ODD))
