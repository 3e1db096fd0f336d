"use strict";
// Sorts a table by the column whose title is pressed; keeps the lines that hold a text.
const FILTERED = 8; // lines from which on a filter is of use

const keyOf = (cell) => {
  const text = cell.dataset.sort ?? cell.textContent.trim();
  const number = text === "" ? NaN : Number(text);
  return Number.isNaN(number) ? text.toLowerCase() : number;
};

const compare = (a, b) => {
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1; // numbers before words
  return a < b ? -1 : a > b ? 1 : 0;
};

function sortBy(table, header) {
  const up = header.getAttribute("aria-sort") !== "ascending";
  for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", up ? "ascending" : "descending");
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => [keyOf(row.cells[header.cellIndex]), row]);
  rows.sort(([a], [b]) => (up ? compare(a, b) : compare(b, a)));
  body.append(...rows.map(([, row]) => row));
}

function addFilter(table) {
  const label = document.createElement("label");
  const input = document.createElement("input");
  input.type = "search";
  label.className = "filter";
  label.append("Only lines with ", input);
  input.addEventListener("input", () => {
    const wanted = input.value.trim().toLowerCase();
    for (const row of table.tBodies[0].rows) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
    }
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

window.addEventListener("beforeprint", () => {
  for (const fold of document.querySelectorAll("details")) fold.open = true;
});
