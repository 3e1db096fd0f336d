"""Put a report's Markdown table between the markers in README.md, exactly as the run gave it."""

import sys
from pathlib import Path

BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


def insert(readme: str, table: str) -> str:
    """`readme` with everything between the markers replaced by `table`."""
    head, rest = readme.split(BEGIN, 1)
    _, tail = rest.split(END, 1)
    return f"{head}{BEGIN}\n\n{table}\n{END}{tail}"


if __name__ == "__main__":
    page = Path("README.md")
    page.write_text(insert(page.read_text("utf-8"), Path(sys.argv[1]).read_text("utf-8")), "utf-8")
