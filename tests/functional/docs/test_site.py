"""The documentation becomes a site without a warning, whole, and asks nothing of a network."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
_FETCHED = re.compile(r'<(?:script|img|iframe|link)[^>]*(?:src|href)="(https?:)?//')


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site."""
    folder = tmp_path_factory.mktemp("site")
    subprocess.run(
        [
            *(sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"),
            *("-d", folder / "doctrees", ROOT / "docs", folder / "html"),
        ],
        check=True,
    )
    return folder / "html"


@pytest.mark.parametrize("kind", ["modules", "states", "runners"])
def test_every_function_that_a_person_calls_has_its_place(site, kind):
    page = (site / "reference" / f"{kind}.html").read_text("utf-8")
    files = [path.stem for path in ROOT.glob(f"_{kind}/*.py") if path.stem != "__init__"]
    assert files
    for name in files:
        source = (ROOT / f"_{kind}" / f"{name}.py").read_text("utf-8")
        for function in re.findall(r"^def ([a-z]\w*)\(", source, re.MULTILINE):
            assert f'id="saltext.openhim.{kind}.{name}.{function}"' in page


def test_reading_it_asks_nothing_of_a_network(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        assert not _FETCHED.search(page.read_text("utf-8")), page
