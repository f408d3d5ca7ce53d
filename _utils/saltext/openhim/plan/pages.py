"""Shows models as pages: one file each, without a script, a font or an address of anybody else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import jinja2
from markupsafe import Markup
from saltext.openhim import settings
from saltext.openhim.backup.manifest import utc
from saltext.openhim.errors import Refused
from saltext.openhim.plan import plots, style, templates, words
from saltext.openhim.plan.plots import Plot
from saltext.openhim.recovery.figures import moment

#: Where every host holds the runbook.
FOLDER = f"{settings.STATE_DIRECTORY}/runbook"


#: Seconds after which a page may be loaded anew: the least, and a day.
REFRESH = (5, 86400)

#: A page that is older than so many of its refreshes is stale.
MISSED = 3


def report(model: Mapping[str, Any], refresh: int | None = None) -> str:
    """The report as one HTML page. model: of :func:`saltext.openhim.plan.report.build`.

    refresh: seconds after which a browser loads the page anew, where it is served. The page then
    says from when on it is stale, because a browser shows an old file as it shows a new one.
    """
    stale = stale_from(model, refresh) if refresh else None
    plotted = _plots(model)
    return _render("report", report=model, plots=plotted, refresh=refresh, stale=stale)


def stale_from(model: Mapping[str, Any], refresh: int) -> str:
    """When a page should have been renewed several times over (ISO 8601, UTC)."""
    return utc(moment(model["at"], "at") + timedelta(seconds=MISSED * refresh))


def seconds(refresh: Any) -> int | None:
    """How often a page is loaded anew; None for one that is not.

    Raises :class:`~saltext.openhim.errors.Refused` for anything but a number of seconds.
    """
    if refresh is None:
        return None
    least, most = REFRESH
    text = str(refresh).strip()
    if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
        raise Refused(
            f"refresh: found {refresh!r}; allowed a whole number of seconds from {least} to {most}"
        )
    return int(text)


def runbook(model: Mapping[str, Any]) -> str:
    """The runbook as one HTML page. model: of :func:`saltext.openhim.plan.runbook.build`."""
    return _render("runbook", book=model, folder=FOLDER, refresh=None)


def runbook_text(model: Mapping[str, Any]) -> str:
    """The same as Markdown, which is read on a console too."""
    text = _TEXT.get_template("runbook_text").render(book=model, folder=FOLDER)
    return re.sub(r"\n{3,}", "\n\n", text)


def _render(name: str, **values: Any) -> str:
    # A style sheet of ours, and the one text that is not escaped.
    sheet = Markup(style.sheet())  # noqa: S704
    geometry = {
        "width": plots.WIDTH, "height": plots.HEIGHT, "left": plots.LEFT, "right": plots.RIGHT,
        "top": plots.TOP, "bottom": plots.BOTTOM,
    }  # fmt: skip
    return _ENVIRONMENT.get_template(name).render(style=sheet, **geometry, **values)


def _markdown(text: Any) -> str:
    """A text as Markdown shows it, whatever is in it; on one line."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(str(text).split()))


def _environment(**options: Any) -> jinja2.Environment:
    loader = jinja2.DictLoader(
        {
            "base": templates.BASE,
            "macros": templates.MACROS,
            "report": templates.REPORT,
            "runbook": templates.RUNBOOK,
            "runbook_text": templates.RUNBOOK_TEXT,
        }
    )
    made = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, **options)  # noqa: S701
    made.filters["md"] = _markdown
    made.filters["first_upper"] = lambda text: text[:1].upper() + text[1:]
    made.filters["duration"] = words.duration
    made.filters["day"] = lambda at: words.day(moment(at, "at"))
    made.filters["time"] = lambda at: words.time(moment(at, "at"))
    made.filters["second"] = lambda at: words.second(moment(at, "at"))
    return made


_ENVIRONMENT = _environment(autoescape=True)
# Markdown is no HTML: its texts are escaped by the filter `md`.
_TEXT = _environment(autoescape=False, trim_blocks=True, lstrip_blocks=True)


def _plots(model: Mapping[str, Any]) -> dict[str, Any]:
    series, now = model["series"], moment(model["at"], "at")
    strictest = model["targets"][0]
    targets = [
        plots.figures(
            title,
            [(moment(at, "at"), seconds, kind) for at, seconds, kind in series[key]],
            strictest[f"{key}_seconds"],
            now,
        )
        for key, title in (
            ("rto", "RTO: from the disruption to the first transaction"),
            ("rpo", "RPO: what was lost, as time"),
        )
    ]
    courses = [
        (name, [(moment(at, "at"), seconds) for at, seconds in course])
        for name, course in sorted(series["backup_age"].items())
    ]
    limit = series["backup_age_limit"]
    ages: Plot | None = plots.courses("Age of the newest restore point", courses, limit, now)
    return {"targets": [one for one in targets if one], "ages": ages}
