"""Ways in which a JSON file can be odd, one at a time."""

import json
from collections.abc import Iterator

# what a value becomes, as the file has it
VALUES = [
    "null", "true", "0", "-1", "1", "2", "3.5", "1e400", "1e-400", "NaN", "-Infinity", "10000000", "4294967296",
    "9" * 30, "9" * 400, "9" * 5000, '""', '"x"', '"4"', '"../../etc/passwd"', '"/dev/zero"', r'"\ud800"',
    r'"\u001b[31m\n"', "[]", "{}", "[1]", "[null, null]", "[[1]]", "[10000000]", '{"x": null}', "[" * 40 + "]" * 40,
    "[" * 3000 + "]" * 3000, "[" + "1, " * 300 + "1]",
]  # fmt: skip
MARK = "@ here @"


def places(document, path=()) -> Iterator[tuple]:
    """The path of every value in a document, the outermost left out."""
    pairs = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in pairs:
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))


def mutations(document: dict) -> list[tuple]:
    """What `mutated` can do to a document."""
    every = list(places(document))
    changes = [(path, value) for path in every for value in VALUES]
    changes += [(path, word) for path in every for word in ("gone", "twice", "wrapped")]
    return changes + [((), value) for value in VALUES] + [((), "surplus"), ((), "cut"), ((), "bytes")]


def mutated(document: dict, path: tuple, change: str) -> bytes:
    """The document as a file with one change: at a path, or at the whole."""
    document = json.loads(json.dumps(document))
    text = json.dumps(document, indent=2)
    if not path:
        whole = {
            "surplus": text[:-1] + ', "surplus \\u001b[0m": 1}',
            "cut": text[: len(text) // 2],
            "bytes": "\xff" + text,
        }
        return whole.get(change, change).encode("latin-1")
    *above, key = path
    inside = document
    for step in above:
        inside = inside[step]
    old = inside.get(key) if isinstance(inside, dict) else inside[key]
    if change == "gone":
        del inside[key]
        return json.dumps(document, indent=2).encode()
    new = {"wrapped": f"[{json.dumps(old)}]", "twice": json.dumps(old)}.get(change, change)
    if change == "twice" and isinstance(key, str):
        new += f", {json.dumps(key)}: {new}"
    inside[key] = MARK
    return json.dumps(document, indent=2).replace(json.dumps(MARK), new).encode()
