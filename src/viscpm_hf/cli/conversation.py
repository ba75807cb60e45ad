"""A conversation about a picture: lines from a terminal or a pipe, answers piece by piece."""

import json
import locale
import os
import re
import shlex
import signal
import sys
from contextlib import closing, suppress
from pathlib import Path

import torch
from PIL import Image, ImageOps

from ..checkpoint.errors import first_line
from ..checkpoint.files.disk import open_regular
from ..checkpoint.files.json_file import quoted
from ..checkpoint.files.staging import staged
from ..language import say
from ..safety import UnsafeContentError
from .examples import chat_examples
from .remarks import is_terminal, tell

try:
    import readline
except ImportError:  # as on Windows
    readline = None

PROMPT = "> "
_LINES = 1000  # that the history keeps
# what a turn may end with that says nothing against the next
_OF_A_TURN = (ValueError, OSError, MemoryError, RecursionError, torch.OutOfMemoryError)


def open_picture(path: str | os.PathLike) -> Image.Image:
    """A picture from a file, turned as its camera was held.

    Raises:
        ValueError: it is none.
    """
    if re.match(r"(https?|ftp|file|data):", str(path), re.I) and not os.path.lexists(path):
        raise ValueError(
            say(
                "Addresses are not read: save the picture to a file first and give its name.",
                "不读取网址：请先把图片存为文件，再给出文件名。",
            )
        )
    try:
        with open_regular(path) as file:
            picture = Image.open(file)
            with suppress(Exception):  # odd EXIF data is no reason to refuse a picture
                ImageOps.exif_transpose(picture, in_place=True)
            picture.load()
    except ValueError:
        raise
    except Exception as error:  # each format fails in its own way
        raise ValueError(
            f"{quoted(str(path))} is not a picture that can be read ({first_line(error)}): give a PNG or JPEG file."
        ) from error
    return picture


def of_the_class(error: BaseException) -> str:
    """What an error says, without the advice to change arguments of the class, which the command line lacks."""
    text = " ".join(str(error).split()) or type(error).__name__
    shorter, advice, _ = text.partition(", or raise max_length")
    return f"{shorter}." if advice else text


def states_of(chat, image, picture):
    """What a `VisCPMChat` sees of a picture; ValueError if the safety checker refuses it."""
    try:
        return chat.encode_image(picture)
    except UnsafeContentError as error:  # which names an argument of the class
        raise ValueError(f"The image safety checker refused {quoted(str(image))}: use another picture.") from error


class Conversation:
    """A picture, what was said about it, and the commands.

    Args:
        chat (`VisCPMChat`): answers.
        model (`str`): its name.
        image (`Path`, *optional*), picture (`PIL.Image.Image`, *optional*): what it is about.

    Raises:
        ValueError: the safety checker refuses the picture.
    """

    def __init__(self, chat, model: str, image=None, picture=None):
        self.chat, self.model = chat, model
        self.show(image, picture)

    def show(self, image=None, picture=None) -> None:
        """Begins anew, about a picture or none."""
        self.states = None if picture is None else states_of(self.chat, image, picture)
        self.image, self.context, self.turns = image, "", []

    def answer(self, question: str) -> None:
        """Prints the answer piece by piece and remembers the turn; one that is stopped is as if never asked."""
        answer = ""
        try:
            with closing(self.chat.stream(None, question, self.context, self.states)) as stream:
                for piece in stream:
                    answer += piece
                    print(piece, end="", flush=True)
        except BaseException:
            if answer:
                print(flush=True)
            raise
        print(flush=True)
        self.context = self.chat.add_turn(self.context, question, answer)
        self.turns.append({"question": question, "answer": answer})

    def command(self, line: str) -> None:
        """Carries out a line that begins with `/`; EOFError for /quit, ValueError for what cannot be done."""
        # at any blank, as the full-width one of Chinese keyboards
        name, rest = [*line[1:].split(None, 1), "", ""][:2]
        name = name.lower()
        takes_file = name in ("image", "save")
        if takes_file and not rest:
            raise ValueError(say(f"/{name} needs the name of a file.", f"/{name} 后面要写文件名。"))
        if rest and not takes_file and name in (*_COMMANDS, "exit"):
            raise ValueError(
                say(f"/{name} takes nothing, got {quoted(rest)}.", f"/{name} 后面不写内容，却得到 {quoted(rest)}。")
            )
        match name:
            case "image":
                path = _path(rest)
                self.show(path, open_picture(path))
                tell(say("A new picture, a new conversation.", "已换新图片，对话重新开始。"))
            case "reset":
                self.context, self.turns = "", []
                tell(say("Begun anew, with the same picture.", "对话已重新开始，图片不变。"))
            case "save":
                self.save(_path(rest))
            case "help":
                tell(help_text())
            case "examples":
                tell(chat_examples())
            case "quit" | "exit":
                raise EOFError
            case _:
                unknown = quoted("/" + name)
                raise ValueError(
                    say(f"There is no {unknown}: /help lists the commands.", f"没有 {unknown}：/help 列出所有命令。")
                )

    def save(self, path: Path) -> None:
        """Writes the conversation to a new file: as JSON if its name ends so, else as text."""
        if not self.turns:
            raise ValueError(
                say("Nothing was said yet, so there is nothing to save.", "还没有对话，没有可保存的内容。")
            )
        if path.suffix.lower() == ".json":
            found = {"model": self.model, "image": None if self.image is None else str(self.image)}
            text = json.dumps({**found, "turns": self.turns, "context": self.context}, ensure_ascii=False, indent=2)
        else:
            lines = [] if self.image is None else [f"Image: {self.image}"]
            lines += [f"User: {turn['question']}\nAI: {turn['answer']}" for turn in self.turns]
            text = "\n".join(lines)
        try:
            with staged(path) as target:
                target.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
        except OSError as error:  # which names a hidden file beside it
            why = error.strerror or error
            raise ValueError(
                say(f"Could not write {quoted(str(path))} ({why}).", f"无法写入 {quoted(str(path))}（{why}）。")
            ) from error
        tell(say(f"Saved to {path}", f"已保存到 {path}"))


_COMMANDS = {
    "image": (" FILE", "another picture; the conversation begins anew", "换一张图片，对话重新开始"),
    "reset": ("", "begin anew with the same picture", "图片不变，对话重新开始"),
    "save": (" FILE", "save the conversation to a new file, .txt or .json", "把对话存入新文件，.txt 或 .json"),
    "examples": ("", "what the tiny model in the package understands", "包内自带的小模型能理解什么"),
    "help": ("", "this list", "本列表"),
    "quit": ("", "leave; so does Ctrl-D. Ctrl-C stops an answer", "退出，同 Ctrl-D；Ctrl-C 停止回答"),
}


def help_text() -> str:
    """The commands, a line each."""
    return "\n".join(f"  /{name + takes:<12} {say(*help)}" for name, (takes, *help) in _COMMANDS.items())


def converse(chat, model: str, image, picture, interactive: bool) -> int:
    """Holds a conversation until the input ends.

    Args:
        chat (`VisCPMChat`): answers.
        model: its name.
        image (`Path`, *optional*), picture (`PIL.Image.Image`, *optional*): what it begins with.
        interactive: whether questions are typed.

    Returns:
        The exit code: 130 after Ctrl-C where nothing was asked, 1 if a turn failed and nobody was there to see it.
    """
    talk = Conversation(chat, model, image, picture)
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="surrogateescape")  # a line that cannot be read is not the end
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the program's own is for once only
    history = _begin_history() if interactive else None
    if interactive:
        tell(say("Ask, or /help; Ctrl-D ends.", "请提问，或输入 /help；Ctrl-D 结束。"))
    failed = leaving = False
    try:
        while True:
            try:
                line = _next_line(interactive)
            except KeyboardInterrupt:
                if not interactive or leaving:
                    return 130
                tell("")  # behind the line that was begun
                # one that was meant for an answer may come when it has just ended
                if leaving := not (readline and readline.get_line_buffer()):
                    tell(say("Press Ctrl-C again or Ctrl-D to leave.", "再按一次 Ctrl-C，或按 Ctrl-D 退出。"))
                continue
            leaving = False
            try:
                line = _as_text(line)
                if line.startswith(("/", "／")):
                    talk.command(line)
                elif line:
                    talk.answer(line)
            except _OF_A_TURN as error:
                tell(f"error: {of_the_class(error)}")
                failed = True
            except KeyboardInterrupt:
                tell(say("Stopped; it counts as not asked.", "已停止，这一问不计入对话。"))
    except EOFError:
        if interactive and is_terminal(sys.stdout):
            print()
    finally:
        if history is not None:
            _end_history(*history)
    return int(failed and not interactive)


def _next_line(interactive):
    """The next line as it came; EOFError at the end."""
    if sys.stdin is None:
        raise EOFError
    if interactive and is_terminal(sys.stdout):
        return input(PROMPT)
    if interactive:
        print(PROMPT, end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line


def _as_text(line):
    """A line without white space and marks around it; UTF-8 where it is not of the terminal's encoding."""
    try:
        line.encode()
    except UnicodeEncodeError:  # bytes that the encoding of the input does not have
        try:
            line = line.encode(sys.stdin.encoding, "surrogateescape").decode()
        except UnicodeError:
            raise ValueError(
                say("Got a line that is not a text in UTF-8: it was left out.", "有一行不是 UTF-8 文本，已略过。")
            ) from None
    return line.lstrip("\ufeff").strip()


def _path(text):
    """A file as people type or drop it: with or without quotes, from the home folder."""
    path = Path(text)
    with suppress(ValueError):
        words = shlex.split(text)
        if len(words) == 1 and not path.exists():
            path = Path(words[0])
    with suppress(RuntimeError):  # whose home nobody knows
        path = path.expanduser()
    return path


def _read_utf_8():
    """Readline takes the bytes of UTF-8 for keys with Meta where the locale is C, as when it is not installed."""
    try:
        known = locale.setlocale(locale.LC_CTYPE, "")
    except locale.Error:
        known = "C"
    if known in ("C", "POSIX"):
        with suppress(locale.Error):
            locale.setlocale(locale.LC_CTYPE, "C.UTF-8")
            # readline asks the environment again; a language that is wanted for messages stays as it is
            for name in ("LC_ALL", "LC_CTYPE", "LANG"):
                if os.environ.get(name) in ("C", "POSIX"):
                    os.environ[name] = "C.UTF-8"
    for setting in ("input-meta on", "output-meta on", "convert-meta off"):  # it looked at the locale when imported
        readline.parse_and_bind(f"set {setting}")


def _begin_history():
    """Reads the questions of earlier conversations; returns their file, None where there can be none, and how many."""
    if readline is None:
        return None
    _read_utf_8()
    readline.parse_and_bind("tab: complete")  # names of files, which is what readline does by itself
    readline.set_completer_delims(" \t\n")
    readline.set_history_length(_LINES)
    try:
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        history = Path(state) / "viscpm_hf" / "chat_history"
        history.parent.mkdir(parents=True, exist_ok=True)
        if history.exists():
            open_regular(history).close()  # a pipe would be waited for
            readline.read_history_file(history)
    except (OSError, RuntimeError, ValueError):
        return None
    return history, readline.get_current_history_length()


def _end_history(history, before):
    """Adds the new questions to the file, to which another conversation may have added its own."""
    with suppress(OSError, ValueError):
        history.touch(0o600)
        open_regular(history).close()
        if hasattr(readline, "append_history_file"):  # not with every libedit
            readline.append_history_file(readline.get_current_history_length() - before, history)
        else:
            readline.write_history_file(history)
