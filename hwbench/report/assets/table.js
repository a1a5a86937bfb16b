// Tables that sort by their headings, are filtered by words, and are walked through by arrow keys as one stop of the Tab key
// (the grid pattern of the ARIA Authoring Practices).

const ROWS_SHOWN = 24;
const ROWS_TO_FILTER = 6;
// What a click on a heading leads through: numbers begin with the largest, names with the first.
const ORDERS = { numbers: ["none", "descending", "ascending"], names: ["none", "ascending", "descending"] };

/** The table of a figure with its filter. `sourceOf(cell, row)` tells where a number came from. */
function dataTable(figure, label, sourceOf) {
  const state = { column: -1, order: "none", words: [], all: false };
  const body = el("tbody");
  const heads = figure.columns.map((column, index) => headOf(column, () => sortBy(index)));
  const table = el("table", { role: "grid", "aria-label": label }, el("thead", {}, el("tr", {}, ...heads)), body);
  const told = el("p", { class: "told", role: "status" });
  const more = el("button", { type: "button", class: "more" });
  const wrap = el("div", { class: "scroll" }, table);
  const rows = figure.rows.map((cells, index) => ({ cells, index, text: cells.map(textOf).join(" ").toLowerCase(), made: null }));

  function sortBy(column) {
    const orders = figure.columns[column].numeric ? ORDERS.numbers : ORDERS.names;
    const before = state.column === column ? orders.indexOf(state.order) : 0;
    state.order = orders[(before + 1) % orders.length];
    state.column = column;
    draw();
  }

  function chosen() {
    const found = rows.filter((row) => state.words.every((word) => row.text.includes(word)));
    if (state.order === "none") return found;
    const sign = state.order === "ascending" ? 1 : -1;
    return found.sort((a, b) => compareCells(a.cells[state.column], b.cells[state.column], sign) || a.index - b.index);
  }

  function draw() {
    const found = chosen();
    const shown = state.all ? found : found.slice(0, ROWS_SHOWN);
    body.replaceChildren(...shown.map(rowOf));
    heads.forEach((head, index) => head.setAttribute("aria-sort", index === state.column ? state.order : "none"));
    told.textContent = state.words.length ? `${found.length} of ${rows.length} rows` : "";
    more.hidden = shown.length === found.length;
    more.textContent = `Show all ${found.length} rows`;
    rove(table, null);
  }

  function rowOf(row) {
    row.made ??= el(
      "tr",
      {},
      ...row.cells.map((cell, index) => cellOf(cell, figure.columns[index], index === 0, sourceOf(cell, row.index))),
    );
    return row.made;
  }

  more.addEventListener("click", () => {
    const from = body.rows.length;
    state.all = true;
    draw();
    rove(table, stopsOf(body.rows[from])[0])?.focus();
  });
  table.addEventListener("keydown", (event) => walk(table, event));
  table.addEventListener("focusin", ({ target }) => rove(table, target));
  const filter = rows.length >= ROWS_TO_FILTER ? filterOf(label, (words) => Object.assign(state, { words }) && draw()) : null;
  draw();
  return el("div", { class: "table" }, el("div", { class: "tools" }, ...[filter, told].filter(Boolean)), wrap, more);
}

function headOf(column, sort) {
  const button = el("button", { type: "button", class: "sort" }, column.title || "quantity");
  button.addEventListener("click", sort);
  return el("th", { scope: "col", class: classOf(column) }, button);
}

function classOf(column) {
  return [column.numeric ? "numeric" : "", column.minor ? "minor" : ""].join(" ").trim() || null;
}

function cellOf(cell, column, first, source) {
  const made = el(first ? "th" : "td", { scope: first ? "row" : null, class: classOf(column) }, contentsOf(cell));
  if (/^\d{4}-\d\d-\d\d\b/.test(textOf(cell))) made.classList.add("date");
  return Array.isArray(cell) && cell[0] !== null ? tells(made, cell[2] ?? "", source) : made;
}

function filterOf(label, changed) {
  const input = el("input", {
    type: "search",
    "aria-label": `Filter: ${label}`,
    placeholder: "Filter",
    autocomplete: "off",
    spellcheck: "false",
  });
  input.addEventListener("input", () => changed(input.value.toLowerCase().split(/\s+/).filter(Boolean)));
  return input;
}

/** Order of two cells; what is unknown comes last either way. */
function compareCells(a, b, sign) {
  const [left, right] = [valueOf(a), valueOf(b)];
  if (left === null || right === null) return (left === null) - (right === null);
  if (typeof left === "number" && typeof right === "number") return sign * (left - right);
  return sign * String(left).localeCompare(String(right), "en", { numeric: true });
}

/** What can be reached in a row: the button or link of each visible cell, or the cell itself. */
function stopsOf(row) {
  return [...row.cells].filter((cell) => cell.offsetParent !== null).map((cell) => cell.querySelector("button, a") ?? cell);
}

/** Make `wanted` the one stop of the Tab key in a table; the first heading if there is none. */
function rove(table, wanted) {
  const stops = [...table.rows].flatMap((row) => [...row.cells].map((cell) => cell.querySelector("button, a") ?? cell));
  const stop = stops.includes(wanted) ? wanted : (stops.find((one) => one.tabIndex === 0 && wanted === null) ?? stops[0]);
  for (const one of stops) one.tabIndex = one === stop ? 0 : -1;
  return stop;
}

function walk(table, event) {
  const rows = [...table.rows].map(stopsOf);
  const y = rows.findIndex((stops) => stops.includes(event.target));
  if (y < 0) return;
  const x = rows[y].indexOf(event.target);
  const moves = {
    ArrowUp: [y - 1, x],
    ArrowDown: [y + 1, x],
    ArrowLeft: [y, x - 1],
    ArrowRight: [y, x + 1],
    Home: [y, 0],
    End: [y, rows[y].length - 1],
    PageUp: [0, x],
    PageDown: [rows.length - 1, x],
  };
  const [row, column] = moves[event.key] ?? [-1, -1];
  const next = rows[row]?.[column];
  if (!next) return;
  event.preventDefault();
  next.focus();
}
