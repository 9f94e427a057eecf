// A click on a heading sorts its table by that column, a second click the other way round; empty cells stay last.
"use strict";
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const heading = button.parentElement;
    const body = heading.closest("table").tBodies[0];
    const down = heading.getAttribute("aria-sort") === "ascending";
    for (const other of heading.parentElement.children) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = Array.from(body.rows, (row) => {
      const cell = row.cells[heading.cellIndex];
      const key = "key" in cell.dataset ? cell.dataset.key : cell.textContent.trim();
      return { row, key, number: "key" in cell.dataset };
    });
    rows.sort((a, b) => {
      if ((a.key === "") !== (b.key === "")) return a.key === "" ? 1 : -1;
      const order = a.number ? a.key - b.key : a.key.localeCompare(b.key, undefined, { numeric: true });
      return down ? -order : order;
    });
    body.append(...rows.map((each) => each.row));
  });
}
