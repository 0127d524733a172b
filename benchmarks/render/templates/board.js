"use strict";

// Sort a table by the column of a button; rows without a value and controls stay at the end.
function sortBy(button) {
  const head = button.closest("th");
  const heads = [...head.parentElement.children];
  const column = heads.indexOf(head);
  const now = head.getAttribute("aria-sort");
  const turned = now === "ascending" ? "descending" : "ascending";
  const order = now === "none" ? button.dataset.first : turned;
  heads.forEach((other) => other.hasAttribute("aria-sort") && other.setAttribute("aria-sort", "none"));
  head.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  const value = (row) => {
    const cell = row.children[column];
    return "value" in cell.dataset ? cell.dataset.value : cell.textContent.trim();
  };
  const compare = (a, b) => {
    const control = a.classList.contains("control") - b.classList.contains("control");
    if (control) return control;
    const [x, y] = [value(a), value(b)];
    if (x === "" || y === "") return (x === "") - (y === "");
    const [p, q] = [Number(x), Number(y)];
    return sign * (Number.isNaN(p) || Number.isNaN(q) ? x.localeCompare(y) : p - q);
  };
  const body = head.closest("table").tBodies[0];
  body.append(...[...body.rows].sort(compare));
}

// Hide rows without the words of the filter, and tables without rows.
function filterRows(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const region of document.querySelectorAll(".scroll")) {
    const about = region.querySelector("caption").textContent.toLowerCase();
    let here = 0;
    for (const row of region.querySelectorAll("tbody tr")) {
      const found = `${about} ${row.textContent.toLowerCase()}`;
      row.hidden = !words.every((word) => found.includes(word));
      here += !row.hidden;
    }
    region.hidden = here === 0;
    shown += here;
  }
  document.getElementById("filtered").textContent = words.length ? `${shown} rows` : "";
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("thead button");
  if (button) sortBy(button);
});
const field = document.getElementById("filter");
field.addEventListener("input", () => filterRows(field.value));
document.getElementById("search").hidden = false;
