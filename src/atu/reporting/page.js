"use strict";
// Sorts a table by the column whose title is pressed; keeps the lines that hold a text.
const FILTERED = 8; // lines from which on a filter is of use

const keyOf = (cell) => {
  const text = cell.dataset.sort ?? cell.textContent.trim();
  const number = text === "" ? NaN : Number(text);
  return Number.isNaN(number) ? text.toLowerCase() : number;
};

const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);

function sortBy(table, header) {
  const up = header.getAttribute("aria-sort") !== "ascending";
  for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", up ? "ascending" : "descending");
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => [keyOf(row.cells[header.cellIndex]), row]);
  rows.sort(([a], [b]) => {
    // Numbers before words both ways: what has none is never the best.
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return up ? compare(a, b) : compare(b, a);
  });
  body.append(...rows.map(([, row]) => row));
}

function addFilter(table) {
  const label = document.createElement("label");
  const input = document.createElement("input");
  input.type = "search";
  label.className = "filter";
  const count = document.createElement("span");
  count.setAttribute("role", "status");
  label.append("Only lines with ", input, " ", count);
  input.addEventListener("input", () => {
    const wanted = input.value.trim().toLowerCase();
    const rows = [...table.tBodies[0].rows];
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
    const shown = rows.filter((row) => !row.hidden).length;
    count.textContent = wanted ? `${shown} of ${rows.length}` : "";
  });
  (table.closest(".wide") ?? table).before(label);
}

for (const table of document.querySelectorAll("table.sorted")) {
  for (const header of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    const count = header.querySelector(":scope > .n");
    button.append(...[...header.childNodes].filter((node) => node !== count));
    header.prepend(button);
    button.addEventListener("click", () => sortBy(table, header));
  }
  if (table.tBodies[0].rows.length >= FILTERED) addFilter(table);
}

// On paper nothing is folded; afterwards the page is as it was.
let folded = [];
window.addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  for (const fold of folded) fold.open = true;
});
window.addEventListener("afterprint", () => {
  for (const fold of folded) fold.open = false;
});
