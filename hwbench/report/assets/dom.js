// Elements without markup: whatever a name in the store holds, it becomes text.

const PAGE = JSON.parse(document.getElementById("data").textContent);

/** A new element; attributes that are null or false are left out, children are elements or text. */
function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** Words for people, in which a number stays on one line with its unit. */
function prose(text) {
  return text.replace(/(\d) (?=(?:%|s|ms|us|ns)(?![a-z]))/g, "$1\u00a0");
}

/** Text of a cell: a string, [value, text, note, source], or {text, page}. */
function textOf(cell) {
  return Array.isArray(cell) ? cell[1] : typeof cell === "string" ? cell : cell.text;
}

/** What a cell is sorted by: its value, or its text; null where a number is unknown. */
function valueOf(cell) {
  return Array.isArray(cell) ? cell[0] : textOf(cell);
}

/** A cell's contents: text, or a link to another page. */
function contentsOf(cell) {
  return cell.page ? el("a", { href: `#${cell.page}` }, cell.text) : prose(textOf(cell));
}
