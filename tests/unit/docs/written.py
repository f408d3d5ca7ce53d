"""What the documentation tells its readers to do: the commands of its pages and docstrings.

Read from the text as a reader copies it, so that what is renamed or removed shows up here.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PAGES = sorted(
    path
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md"))
    if path.exists()
)
#: Where functions that a person calls are, by the program that calls them.
KINDS = {"salt": "_modules", "salt-call": "_modules", "salt-run": "_runners"}

#: A block of a list is indented as the list is.
_FENCE = re.compile(r"^ *```(\w*)[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
_EXAMPLE = re.compile(r"^( *)\.\. code-block:: bash\n\n((?:\1    .*\n|\n)+)", re.MULTILINE)
#: Options of the programs that have a value of their own.
_WITH_VALUE = {"-b", "-t", "--timeout", "--out", "--batch", "-c", "--config-dir", "-l"}
_SEPARATORS = {"&&", "||", "|", ";", ">", ">>", "&"}


@dataclass(frozen=True)
class Command:
    """A command of Salt's, as it is written somewhere."""

    where: str
    program: str
    function: str
    arguments: tuple[str, ...]

    def __str__(self) -> str:
        """For a test's name."""
        return f"{self.where}:{self.program} {self.function}"


def blocks(text: str, *languages: str) -> Iterator[str]:
    """The fenced blocks of a page that are in one of these languages."""
    for language, block in _FENCE.findall(text):
        if language in languages:
            yield block


def commands() -> list[Command]:
    """Every command of Salt's in the pages, and in the docstrings of what a person calls."""
    found = []
    for page in PAGES:
        for block in blocks(page.read_text("utf-8"), "console", "bash"):
            found += _commands(str(page.relative_to(ROOT)), block)
    for folder in ("_modules", "_runners", "_states", "salt"):
        for path in sorted((ROOT / folder).glob("**/*")):
            if path.suffix in (".py", ".sls"):
                found += _in_source(path)
    return found


@dataclass(frozen=True)
class Example:
    """A command of Salt's as a page shows it to be typed."""

    page: str
    words: tuple[str, ...]

    @property
    def typed(self) -> str:
        """On one line, with no more quotes than are needed."""
        return shlex.join(self.words)


def examples() -> list[Example]:
    """What the README and the topics tell their readers to type at Salt, each once."""
    found: dict[tuple[str, ...], Example] = {}
    for page in PAGES:
        if page.parent not in (ROOT, ROOT / "docs" / "topics"):
            continue
        for block in blocks(page.read_text("utf-8"), "console", "bash"):
            for words in _typed(block):
                if words[0] in KINDS:
                    found.setdefault(words, Example(str(page.relative_to(ROOT)), words))
    return list(found.values())


def _in_source(path: Path) -> Iterator[Command]:
    text = path.read_text("utf-8")
    where = str(path.relative_to(ROOT))
    if path.suffix == ".sls":
        comment = "\n".join(line[1:] for line in text.splitlines() if line.startswith("#"))
        yield from _commands(where, "\n".join(f"# {line.strip()}" for line in comment.splitlines()))
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.FunctionDef):
            docstring = ast.get_docstring(node, clean=True) or ""
            for _indent, block in _EXAMPLE.findall(docstring + "\n"):
                yield from _commands(where, block)


def _commands(where: str, block: str) -> Iterator[Command]:
    for words in _typed(block):
        command = _command(where, words)
        if command:
            yield command


def _typed(block: str) -> Iterator[tuple[str, ...]]:
    """Each command of a block, as the words that a shell makes of it."""
    for line in _lines(block):
        try:
            words = shlex.split(line)
        except ValueError:
            continue  # an apostrophe of what a program printed
        yield from _parted(words)


def _lines(block: str) -> list[str]:
    """Whole commands: what goes on in the next line is joined."""
    joined: list[str] = []
    for raw in block.replace("\\\n", " ").splitlines():
        line = raw.strip()
        if joined and joined[-1].count("'") % 2 == 1:
            joined[-1] += " " + line.removeprefix("# ")
        else:
            joined.append(line.removeprefix("# ").removeprefix("$ "))
    return joined


def _parted(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The commands of one line, without what follows as a comment."""
    start = 0
    for end, word in enumerate([*words, ";"]):
        if word in _SEPARATORS or word.startswith("#"):
            command = tuple(one for one in words[start:end] if one != "sudo")
            start = end + 1
            if command:
                yield command


def _command(where: str, words: Sequence[str]) -> Command | None:
    if words[0] not in KINDS:
        return None
    program, *rest = words
    plain = list(_without_options(rest))
    if program == "salt":
        plain = plain[1:]  # whom it asks
    if not plain or "." not in plain[0]:
        return None
    return Command(where, program, plain[0], tuple(plain[1:]))


def _without_options(words: Sequence[str]) -> Iterator[str]:
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word.startswith("-"):
            skip = word in _WITH_VALUE
        else:
            yield word


def functions(program: str) -> dict[str, ast.arguments]:
    """The functions of this package that a program calls, with their parameters."""
    found = {}
    for path in sorted((ROOT / KINDS[program]).glob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        module = _virtual_name(tree) or path.stem
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                found[f"{module}.{_loaded_as(tree, node.name)}"] = node.args
    return found


def _assigned(tree: ast.Module, name: str) -> object:
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == name:
            return ast.literal_eval(node.value)
    return None


def _virtual_name(tree: ast.Module) -> str:
    return str(_assigned(tree, "__virtualname__") or "")


def _loaded_as(tree: ast.Module, name: str) -> str:
    aliases = _assigned(tree, "__func_alias__")
    return str(aliases.get(name, name)) if isinstance(aliases, dict) else name
