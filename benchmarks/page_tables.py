"""Tables of pages that are renewed from results: each stands between `<!-- table: NAME -->` and `<!-- end -->`."""

import re
from collections.abc import Mapping, Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]], right: int) -> list[str]:
    """Lines of a table whose last `right` columns are numbers."""
    rule = ["---"] * (len(head) - right) + ["--:"] * right
    return [f"| {' | '.join(row)} |".replace("|  |", "| |") for row in (head, rule, *rows)]


def renewed(page: str, tables: Mapping[str, Sequence[str]]) -> str:
    """A page whose tables are the given lines.

    Raises:
      ValueError: If the page lacks the place of a table.
    """
    for name, lines in tables.items():
        begin, end = f"<!-- table: {name} -->", "<!-- end -->"
        place = re.compile(f"({re.escape(begin)}\n).*?({re.escape(end)})", re.DOTALL)
        if not place.search(page):
            raise ValueError(f"the page has no place for the table `{name}`: write {begin} and {end}, each on a line")
        body = "\n".join(["", *lines, "", ""])
        page = place.sub(lambda match, body=body: match[1] + body + match[2], page, count=1)
    return page
