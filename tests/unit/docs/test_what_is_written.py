"""What the documentation tells its readers to do can be done: functions, arguments, files, links."""

import importlib
import inspect
import re
from pathlib import Path

import pytest
import yaml
from saltext.openhim.schema.table import OPENHIM

from tests.unit.docs import written

COMMANDS = written.commands()
OURS = {program: written.functions(program) for program in written.KINDS}
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)


def test_commands_are_found_at_all():
    assert {"salt", "salt-run", "salt-call"} == {command.program for command in COMMANDS}
    assert len(COMMANDS) > 60


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_command_names_a_function_and_arguments_that_there_are(command):
    ours = OURS[command.program].get(command.function)
    if ours is None:
        _accept_salts_own(command)
        return
    _accept_ours(command, ours)


def _accept_ours(command, parameters):
    names = [one.arg for one in (*parameters.args, *parameters.kwonlyargs)]
    named = [word.split("=", 1)[0] for word in command.arguments if _is_named(word)]
    plain = [word for word in command.arguments if not _is_named(word)]
    # What every call takes; Salt keeps it to itself.
    unknown = set(named) - set(names) - {"test", "saltenv", "pillarenv"}
    assert parameters.kwarg or not unknown, f"{command}: no parameter {unknown}; has {names}"
    assert parameters.vararg or len(plain) <= len(parameters.args), f"{command}: too many arguments"
    required = names[: len(parameters.args) - len(parameters.defaults)]
    missing = [name for name in required[len(plain) :] if name not in named]
    assert not missing, f"{command}: lacks {missing}"


def _is_named(word):
    return re.match(r"[A-Za-z_]\w*=", word) is not None


def _accept_salts_own(command):
    module, name = command.function.split(".")
    kind = written.KINDS[command.program].strip("_")
    found = importlib.import_module(f"salt.{kind}.{_FILES.get(module, module)}")
    function = getattr(found, f"{name}_", None) or getattr(found, name, None)
    assert inspect.isfunction(function), f"{command}: there is no such function"
    if command.function in ("state.orchestrate", "state.apply", "state.sls"):
        for sls in command.arguments[:1]:
            if not _is_named(sls) and "<" not in sls:
                assert _state_files(sls), f"{command}: there is no {sls} in salt/"


#: Where a module of Salt's is in a file of another name.
_FILES = {"pkg": "aptpkg", "service": "systemd_service"}


def _state_files(sls):
    base = written.ROOT / "salt" / sls.replace(".", "/")
    return [path for path in (base.with_suffix(".sls"), base / "init.sls") if path.exists()]


@pytest.mark.parametrize("page", written.PAGES, ids=lambda p: str(p.relative_to(written.ROOT)))
def test_a_link_leads_somewhere(page):
    text = _CODE.sub("", page.read_text("utf-8"))
    for link in _LINK.findall(text):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{link}: there is no {target}"
        if anchor and target.suffix == ".md":
            assert anchor in _anchors(target), f"{link}: {target.name} has no such heading"


def _anchors(page: Path):
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    cleaned = (re.sub(r"[^\w\- ]", "", heading.replace("`", "")).lower() for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in cleaned}


def _snippets():
    for page in written.PAGES:
        for block in written.blocks(page.read_text("utf-8"), "yaml"):
            if block.startswith("openhim:"):
                yield pytest.param(block, id=f"{page.relative_to(written.ROOT)}")


@pytest.mark.parametrize("block", list(_snippets()))
def test_a_piece_of_a_pillar_says_only_what_a_pillar_may_say(block):
    problems = []
    OPENHIM.check(yaml.safe_load(block)["openhim"], "openhim", problems)
    # It is a piece: what it leaves out is elsewhere.
    assert [text for text in problems if "(required)" not in text] == []
