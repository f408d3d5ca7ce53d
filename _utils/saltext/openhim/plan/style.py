"""How the pages look: two palettes and one style sheet, for screens, phones and paper.

The contrast of every pair in :data:`PAIRS` is computed by a test, by the formula of WCAG 2.
https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio
"""

from __future__ import annotations

from collections.abc import Mapping

LIGHT = {
    "paper": "#ffffff",
    "card": "#f3f5f7",
    "ink": "#1a1f24",
    "quiet": "#4d5761",
    "line": "#7b8794",
    "link": "#0b5394",
    "good": "#136029",
    "bad": "#a61b1b",
    "doubt": "#7a4a00",
    "first": "#0b5394",
    "second": "#a8430f",
}

DARK = {
    "paper": "#14181c",
    "card": "#20262c",
    "ink": "#eef1f4",
    "quiet": "#b4bec8",
    "line": "#87929d",
    "link": "#8cc2ff",
    "good": "#7ddc95",
    "bad": "#ff9d94",
    "doubt": "#f5c26b",
    "first": "#8cc2ff",
    "second": "#ffb089",
}

#: WCAG AA: text against what is behind it, and lines of graphics against theirs.
TEXT, GRAPHICS = 4.5, 3.0

PAIRS: tuple[tuple[str, str, float], ...] = (
    *(
        (name, behind, TEXT)
        for name in ("ink", "quiet", "link", "good", "bad", "doubt", "first", "second")
        for behind in ("paper", "card")
    ),
    ("line", "paper", GRAPHICS),
    ("line", "card", GRAPHICS),
)


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours such as ``#1a1f24``: 1 to 21."""
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def sheet() -> str:
    """The style sheet of every page."""
    return (
        f":root{{color-scheme:light dark;{_variables(LIGHT)}}}\n"
        f"@media (prefers-color-scheme:dark){{:root{{{_variables(DARK)}}}}}\n"
        f"{_RULES}\n"
        f"@media print{{:root{{{_variables(LIGHT)}}}{_PRINT}}}\n"
    )


def _variables(palette: Mapping[str, str]) -> str:
    return "".join(f"--{name}:{colour};" for name, colour in palette.items())


_RULES = """\
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:1rem/1.5 system-ui,sans-serif}
main,header,footer{max-width:62rem;margin:0 auto;padding:0 1rem}
h1{font-size:1.6rem;margin:1.5rem 0 .25rem}
h2{font-size:1.25rem;margin:2.5rem 0 .5rem;border-bottom:1px solid var(--line)}
h3{font-size:1.05rem;margin:1.5rem 0 .25rem}
p{margin:.5rem 0}
p,li{overflow-wrap:anywhere}
a{color:var(--link)}
:focus-visible{outline:3px solid var(--link);outline-offset:2px}
.skip{position:absolute;left:-100rem}
.skip:focus{left:1rem;top:1rem;background:var(--paper);padding:.5rem}
.quiet{color:var(--quiet)}
.good{color:var(--good)} .bad{color:var(--bad)} .doubt{color:var(--doubt)}
ul.findings{list-style:none;padding:0;margin:.5rem 0}
ul.findings li{padding:.15rem 0 .15rem 1.75rem;text-indent:-1.75rem;overflow-wrap:anywhere}
.mark{display:inline-block;width:1.75rem;text-indent:0;font-weight:700}
.tag{font-size:.85rem;color:var(--quiet)}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--quiet);padding:.25rem 0}
th,td{text-align:left;vertical-align:top;padding:.3rem .75rem .3rem 0}
th,td{border-bottom:1px solid var(--card)}
thead th{border-bottom-color:var(--line)}
.sites{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(16rem,100%),1fr));gap:1rem}
.site,.host{background:var(--card);border-radius:.4rem;padding:.75rem}
.site{border:2px solid var(--card)} .site.active{border-color:var(--first)}
.site h3{margin:0}
.host{background:var(--paper);margin-top:.5rem;border-left:.4rem solid var(--good)}
.host.attention{border-left-color:var(--bad)}
.host p{margin:.1rem 0}
svg{display:block;width:100%;height:auto;max-width:60rem}
svg text{fill:var(--quiet);font:13px system-ui,sans-serif}
svg .axis{stroke:var(--line);fill:none}
svg .grid{stroke:var(--card)}
svg .limit{stroke:var(--bad);stroke-dasharray:6 4;fill:none}
svg .limit-text{fill:var(--bad)}
svg .s0,svg .s1,svg .s2{fill:none;stroke-width:1.5;stroke:var(--first)}
svg .s1{stroke:var(--second);stroke-dasharray:8 2}
svg .s2{stroke:var(--quiet);stroke-dasharray:2 2}
svg .dot{fill:var(--first)} svg .square{fill:var(--second)}
svg .bar-good{fill:var(--first)} svg .bar-bad{fill:var(--bad)}
pre{background:var(--card);padding:.75rem;overflow-x:auto;white-space:pre-wrap;overflow-wrap:anywhere}
code{font-family:ui-monospace,monospace;font-size:.9em}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1rem;margin:.5rem 0}
dt{color:var(--quiet)} dd{margin:0;overflow-wrap:anywhere}
@media (max-width:30rem){dl{grid-template-columns:1fr} dd{margin-bottom:.5rem}}
"""

_PRINT = """\
body{font-size:10pt} .skip,nav{display:none} main,header,footer{max-width:none;padding:0}
h2,h3{break-after:avoid} .host,tr,li,svg,pre{break-inside:avoid} .wide{overflow:visible}
"""
