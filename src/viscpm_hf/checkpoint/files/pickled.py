"""Pickles as data: what a pickle would build, without calling, hashing or comparing anything it names.

Python's own unpickler runs what a pickle says, and even kept from that needs time and memory without bounds for some
pickles of a hundred bytes. Here every step costs little and the number of steps is bounded.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field

MAX_BYTES = 32 << 20
MAX_STEPS = 1_000_000  # some 40 describe a tensor
DICTS = {("collections", "OrderedDict")}  # classes read as a dict


@dataclass(eq=False, repr=False, slots=True)
class Global:
    """A function or class by name."""

    module: str
    name: str


@dataclass(eq=False, repr=False, slots=True)
class Made:
    """What calling something would give."""

    function: object
    arguments: object


@dataclass(eq=False, repr=False, slots=True)
class Pairs:
    """A dict as it was written: keys of any kind, some of them perhaps twice."""

    pairs: list = field(default_factory=list)


@dataclass(eq=False, repr=False, slots=True)
class Persistent:
    """What the pickle leaves to its reader to find, by an id."""

    id: object


def read_pickle(data: bytes) -> object:
    """The object a pickle describes, made of the classes above, lists, tuples, text, bytes, numbers and None.

    Raises:
        ValueError: it is damaged or has more than `MAX_STEPS`.
    """
    machine = _Machine()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if count == MAX_STEPS:
                raise ValueError(f"it has more than {MAX_STEPS} steps")
            if opcode.name == "STOP":
                return machine.stack.pop()
            if opcode.name in _CONSTANTS:
                machine.stack.append(argument)
            elif opcode.name in _PUSHING:
                machine.stack.append(_PUSHING[opcode.name](machine, argument))
            else:
                _CHANGING[opcode.name](machine, argument)
    except (IndexError, KeyError, TypeError) as error:
        raise ValueError(f"its steps do not fit together ({type(error).__name__})") from error
    raise ValueError("it has no end")


class _Machine:
    """Stack and memo of an unpickler."""

    def __init__(self):
        self.stack, self.marks, self.memo = [], [], {}

    def since_mark(self, _=None) -> list:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def last(self, count: int) -> list:
        if count > len(self.stack):
            raise IndexError
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def pop(self, _) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.stack.pop()

    def remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def extend(self, items: list) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    def set_items(self, items: list) -> None:
        if isinstance(self.stack[-1], Pairs):
            self.stack[-1].pairs.extend(_pairs(items))


def _pairs(items: list) -> list:
    return list(zip(items[::2], items[1::2], strict=True))


def _global(text: str) -> Global:
    module, _, name = text.partition(" ")
    return Global(module, name)


def _call(function, arguments) -> Pairs | Made:
    if isinstance(function, Global) and (function.module, function.name) in DICTS and arguments == ():
        return Pairs()
    return Made(function, arguments)


_Step = Callable[[_Machine, object], object]
_PUSHING: dict[str, _Step] = {
    "NONE": lambda machine, _: None,
    "NEWTRUE": lambda machine, _: True,
    "NEWFALSE": lambda machine, _: False,
    "EMPTY_TUPLE": lambda machine, _: (),
    "EMPTY_LIST": lambda machine, _: [],
    "EMPTY_SET": lambda machine, _: [],
    "EMPTY_DICT": lambda machine, _: Pairs(),
    "TUPLE": lambda machine, _: tuple(machine.since_mark()),
    "TUPLE1": lambda machine, _: tuple(machine.last(1)),
    "TUPLE2": lambda machine, _: tuple(machine.last(2)),
    "TUPLE3": lambda machine, _: tuple(machine.last(3)),
    "LIST": _Machine.since_mark,
    "FROZENSET": _Machine.since_mark,
    "DICT": lambda machine, _: Pairs(_pairs(machine.since_mark())),
    "DUP": lambda machine, _: machine.stack[-1],
    "GLOBAL": lambda machine, text: _global(text),
    "STACK_GLOBAL": lambda machine, _: _global(" ".join(machine.last(2))),  # fails if it is not text
    "PERSID": lambda machine, saved_id: Persistent(saved_id),
    "BINPERSID": lambda machine, _: Persistent(machine.stack.pop()),
    "REDUCE": lambda machine, _: _call(*machine.last(2)),
    "NEWOBJ": lambda machine, _: _call(*machine.last(2)),
    "NEWOBJ_EX": lambda machine, _: Made(machine.last(3)[0], None),
    "INST": lambda machine, text: Made(_global(text), machine.since_mark()),
    "OBJ": lambda machine, _: Made(machine.since_mark()[0], None),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda machine, index: machine.memo[index]),
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), lambda machine, number: Global("copyreg", f"extension {number}")),
}
_CHANGING: dict[str, _Step] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "POP": _Machine.pop,
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "POP_MARK": _Machine.since_mark,
    "MEMOIZE": lambda machine, _: machine.remember(len(machine.memo)),
    "BUILD": lambda machine, _: machine.last(1),  # what it adds to an object, such as `_metadata`
    "APPEND": lambda machine, _: machine.extend(machine.last(1)),
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark()),
    "ADDITEMS": lambda machine, _: machine.extend(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.set_items(machine.last(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.remember),
}
# the others that take nothing from the stack stand for their argument: numbers, text and bytes
_CONSTANTS = {
    opcode.name
    for opcode in pickletools.opcodes
    if opcode.arg and not opcode.stack_before and opcode.stack_after and opcode.name not in _PUSHING
}
