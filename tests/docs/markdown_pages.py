"""README and docs as data: blocks of code, tables, links, headings.

What a page may say to the tests, as a comment in the line above a block:

    <!-- needs the real weights -->   not run (likewise `the network`, `a GPU`, `hours`, …); in Chinese <!-- 需要… -->
    <!-- continues -->                Python that goes on with the names of the block before it; 接上文 in Chinese
    <!-- keeps running -->            a server that the rest of the page talks to; 保持运行 in Chinese

What a block prints stands in a ```text block right after it, or, for Python, in `# → …` comments, one for each line
that is printed. `…` there stands for anything within a line, and for any lines where it is alone in one.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
READMES = ("README.md", "README_zh.md")


@dataclass
class Block:
    language: str  # the word after the fence
    text: str
    line: int  # of the page, from 1
    mark: str = ""  # the comment above it
    expected: str | None = None  # what it prints

    @property
    def is_run(self) -> bool:
        return not re.match(r"needs |需要", self.mark)

    @property
    def continues(self) -> bool:
        return self.mark in ("continues", "接上文")

    @property
    def keeps_running(self) -> bool:
        return self.mark in ("keeps running", "保持运行")


@dataclass
class Page:
    name: str  # relative to the root
    blocks: list[Block] = field(default_factory=list)
    tables: list[list[list[str]]] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    headings: list[str] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)  # `inline`

    @property
    def path(self) -> Path:
        return ROOT / self.name

    @property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @property
    def is_chinese(self) -> bool:
        return self.name.startswith("docs/zh/") or self.name == READMES[1]


def page_names() -> list[str]:
    return [*READMES, *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]


def translation(name: str) -> str:
    """Of an English page its Chinese one, and back."""
    if name in READMES:
        return READMES[1 - READMES.index(name)]
    folder = "docs/" if name.startswith("docs/zh/") else "docs/zh/"
    return folder + Path(name).name


def read_page(name: str) -> Page:
    page = Page(name)
    tokens = MarkdownIt("commonmark").enable("table").parse(page.text)
    for i, token in enumerate(tokens):
        if token.type == "fence":
            mark = re.fullmatch(r"<!-- (.*?) -->", tokens[i - 1].content.strip()) if i else None
            block = Block(token.info.strip(), token.content, token.map[0] + 1, mark.group(1) if mark else "")
            arrows = re.findall(r"# → ?(.*)$", token.content, re.M)
            if arrows and block.language == "python":
                block.expected = "\n".join(arrows)
            elif i + 1 < len(tokens) and tokens[i + 1].type == "fence" and tokens[i + 1].info.strip() == "text":
                block.expected = tokens[i + 1].content
            page.blocks.append(block)
        elif token.type == "heading_open":
            page.headings.append(tokens[i + 1].content)
        elif token.type == "table_open":
            page.tables.append([])
        elif token.type == "tr_open":
            page.tables[-1].append([])
        elif token.type == "inline":
            if tokens[i - 1].type in ("td_open", "th_open"):
                page.tables[-1][-1].append(token.content)
            for child in token.children:
                if child.type == "link_open":
                    page.links.append(child.attrs["href"])
                elif child.type == "image":
                    page.links.append(child.attrs["src"])
                elif child.type == "code_inline":
                    page.codes.append(child.content)
    return page


def anchors(headings: list[str]) -> set[str]:
    """What GitHub makes of headings: lower case, no punctuation, a hyphen for each space, numbered when repeated."""
    found: dict[str, int] = {}
    result = set()
    for heading in headings:
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        result.add(f"{slug}-{found[slug]}" if slug in found else slug)
        found[slug] = found.get(slug, 0) + 1
    return result


@dataclass
class Command:
    line: str
    given: str = ""  # what is typed into it
    printed: str = ""  # what the page shows of it


def commands(block: Block) -> list[Command]:
    """Of a shell block, without remarks; in a `console` each begins with `$`, and what is typed into it with `>`."""
    text = re.sub(r"\\\n\s*", " ", block.text)
    found = []
    for line in text.splitlines():
        if block.language == "console" and not line.startswith("$ "):
            if line.startswith("> "):
                found[-1].given += line[2:] + "\n"
            else:
                found[-1].printed += line + "\n"
        elif line := re.sub(r"(^|\s+)# .*$", "", line.removeprefix("$ ")).strip():
            found.append(Command(line))
    return found


def same_output(printed: str, expected: str) -> bool:
    """Whether this was printed; `…` in what is expected stands for anything in a line, alone for any lines."""
    pattern = ""
    for line in expected.strip().splitlines():
        if line.strip() == "…":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += ".*?".join(re.escape(part) for part in line.rstrip().split("…")) + r"\n"
    lines = "".join(line.rstrip() + "\n" for line in printed.strip().splitlines())
    return re.fullmatch(pattern, lines) is not None
