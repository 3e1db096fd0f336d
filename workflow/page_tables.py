"""Put a report's tables between their markers in a page, and its picture where the page has it,
exactly as the run gave them.
"""

import re
import sys
from pathlib import Path

TABLES = ("headline", "table", "attacker", "distance", "comparison", "robustness", "privacy")

INK = "#6e7781"
"""Of a picture: grey, to be read on white and on black."""


def insert(page: str, name: str, table: str) -> str:
    """`page` with everything between the markers of `name` replaced by `table`; without markers as
    it is.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    if begin not in page:
        return page
    head, rest = page.split(begin, 1)
    _, tail = rest.split(end, 1)
    return f"{head}{begin}\n\n{table}\n{end}{tail}"


if __name__ == "__main__":
    path, report = map(Path, sys.argv[1:])
    text = path.read_text("utf-8")
    for name in TABLES:
        text = insert(text, name, (report / f"{name}.md").read_text("utf-8"))
    path.write_text(text, "utf-8")
    for name, figure in re.findall(r"!\[[^]]*\]\(([^()]*-(\w+\.svg))\)", text):
        # Alone a figure takes no ink from its page.
        drawn = (report / figure).read_text("utf-8")
        (path.parent / name).write_text(drawn.replace("currentColor", INK), "utf-8")
