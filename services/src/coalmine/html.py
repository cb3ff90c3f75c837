"""Pages that are one file: nothing is loaded from anywhere, readable without scripts.

Whoever makes a part of a page escapes what is in it; `table` takes ready cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

__all__ = ["page", "table"]

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; margin: 2rem auto;
       max-width: 1080px; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.verdict { display: inline-block; padding: .1rem .6rem; border-radius: 4px; color: #fff; }
.good { background: #00795b; } .bad { background: #b03020; }
p.lead { max-width: 46rem; } figure { margin: 1rem 0 1.6rem; }
img { max-width: 100%; border: 1px solid #e4e4e4; }
figcaption { color: #555; font-size: .88rem; max-width: 50rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th { text-align: left; border-bottom: 2px solid #bbb; padding: .3rem .6rem .3rem 0; }
td { border-bottom: 1px solid #e4e4e4; padding: .3rem .6rem .3rem 0; vertical-align: top; }
td.number, th.number { text-align: right; white-space: nowrap; }
.yes { color: #00795b; } .no { color: #b03020; }
.kind { color: #555; }
table.fit td:last-child { width: 100%; } table.fit td { white-space: nowrap; }
table.fit td:last-child { white-space: normal; }
details { color: #444; } summary { cursor: pointer; color: #0072B2; }
pre { font-size: .78rem; background: #f6f6f6; padding: .5rem; overflow-x: auto; max-width: 40rem;
      max-height: 24rem; }
"""


def page(title: str, parts: Sequence[str], *, style: str = "") -> str:
    """A whole page of ready HTML parts; `style` is added to the style that all pages share."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title><style>{_STYLE}{style}</style></head>\n"
        f"<body>\n{chr(10).join(parts)}\n</body></html>\n"
    )


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: str = "", fit: bool = False
) -> str:
    """A table of ready HTML cells; `numbers` has an `n` for each column aligned to the right.

    With `fit` the last column takes what the others leave.
    """

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=number' if numbers[i : i + 1] == 'n' else ''}>{cell}</{tag}>"
            for i, cell in enumerate(row)
        )

    body = "\n".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    kind = " class=fit" if fit else ""
    return (
        f"<table{kind}><thead><tr>{cells('th', head)}</tr></thead><tbody>\n{body}\n</tbody></table>"
    )
