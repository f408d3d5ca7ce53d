"""What the pillar may say about the provider's power switch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from saltext.openhim import power_off, schema

EXAMPLE = Path(__file__).parents[2] / "pillar" / "openhim" / "production.sls"
SECRET = "s3cr3t-of-the-provider"
RUN, STATE = ["/usr/local/bin/provider", "off", "{host}"], ["/bin/state", "--host={host}"]


def declared(**changes: Any) -> dict[str, Any]:
    """The example with a power switch."""
    openhim = yaml.safe_load(EXAMPLE.read_text())["openhim"]
    entry = {"run": RUN, "state": STATE, "when_off": "off", **changes}
    kept = {key: value for key, value in entry.items() if value is not None}
    return {"openhim": {**openhim, "fencing": {"power_off": kept}}}


def test_it_is_allowed_and_means_two_programs() -> None:
    """Each is given a minute when nothing is said."""
    assert schema.check(declared()) == []
    assert power_off.of(declared()) == power_off.Switch("example", RUN, STATE, "off", 60)
    assert power_off.of({"openhim": {"stack": "example"}}) is None


def test_the_commented_example_is_allowed_too() -> None:
    """Whoever takes the comment signs away has something that works."""
    lines = EXAMPLE.read_text().splitlines()
    begin = lines.index("  # fencing:")
    block = [line.replace("  # ", "  ", 1) for line in lines[begin : begin + 6]]
    openhim = yaml.safe_load(EXAMPLE.read_text())["openhim"]
    told = yaml.safe_load("\n".join(block))
    assert set(told["fencing"]["power_off"]) == {"run", "state", "when_off", "timeout_seconds"}
    assert schema.check({"openhim": {**openhim, **told}}) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"state": None}, "power_off:state: found nothing; allowed a list"),
        ({"when_off": None}, "power_off:when_off: found nothing; allowed"),
        ({"run": ["/bin/off"]}, "power_off:run: found no {host} in any argument; allowed one with"),
        ({"state": ["/bin/state", "host"]}, "power_off:state: found no {host} in any argument"),
        ({"when_off": " off"}, "power_off:when_off: found ' off'; allowed words without blanks"),
        ({"when_off": False}, "power_off:when_off: found"),
        ({"timeout_seconds": 0}, "power_off:timeout_seconds: found the number 0"),
        ({"stat": STATE}, "power_off:stat: found an unknown key"),
    ],
)
def test_what_is_not_allowed_is_told(changes: dict[str, Any], expected: str) -> None:
    """With where it is, what was found and what is allowed."""
    (problem,) = schema.check(declared(**changes))
    assert f"openhim:fencing:{expected}" in problem


@pytest.mark.parametrize("where", ["run", "state"])
def test_a_secret_as_an_argument_is_refused(where: str) -> None:
    """Everybody on the master could read it; and it is not shown here either."""
    pillar = declared(**{where: ["/bin/provider", "{host}", f"--token={SECRET}"]})
    pillar["openhim"]["secrets"] = {"client_registry": SECRET}
    (problem,) = schema.check(pillar)
    assert f"openhim:fencing:power_off:{where}: found an argument that holds a secret" in problem
    assert SECRET not in problem
