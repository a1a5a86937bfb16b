// Pages by address, colours, and the frame around them.

const PAGES = new Map(PAGE.pages.map((page) => [page.id, page]));
const MAIN = document.getElementById("main");
const NAV = [
  ["overview", "Overview"],
  ["comparisons", "Comparisons"],
  ["matrices", "Matrices"],
  ["histories", "History"],
  ["tables", "Tables"],
  ["searches", "Searches"],
];
const SECTION = {
  model: "overview",
  compare: "comparisons",
  matrix: "matrices",
  history: "histories",
  table: "tables",
  search: "searches",
  front: "searches",
};
const PREFERENCE = "hwbench-theme";

/** The page that the address asks for; the first one for an address that is unknown. */
function wanted() {
  return PAGES.get(location.hash.slice(1)) ?? PAGES.get("overview");
}

function show(page, focus) {
  hideTip();
  const title = el("h1", { tabindex: "-1" }, page.title);
  const source = PAGE.sources[page.source];
  MAIN.replaceChildren(
    title,
    ...(page.lead ? [el("p", { class: "lead" }, prose(page.lead))] : []),
    ...(page.facts.length ? [factsOf(page, source)] : []),
    ...(page.findings.length ? [findingsOf(page)] : []),
    ...page.figures.map((figure) => figureOf(figure, source)),
    ...(source ? [provenanceOf(page, source)] : []),
  );
  document.title = `${page.title} · hwbench report`;
  const section = SECTION[page.id.split("/")[0]] ?? page.id;
  for (const link of document.querySelectorAll("#nav a")) {
    if (link.hash === `#${section}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  drawCharts();
  if (focus) {
    scrollTo(0, 0);
    title.focus({ preventScroll: true });
  }
}

function factsOf(page, source) {
  const list = el("dl", { class: "facts" });
  for (const [name, cell] of page.facts) {
    const own = Array.isArray(cell) && cell[0] !== null;
    const value = own
      ? tells(el("button", { type: "button" }, textOf(cell)), cell[2] ?? "", PAGE.sources[cell[3]] ?? source)
      : contentsOf(cell);
    list.append(el("div", {}, el("dt", {}, name), el("dd", {}, value)));
  }
  return list;
}

function findingsOf(page) {
  const items = page.findings.map(([code, text]) => el("li", {}, el("code", {}, code), " ", prose(text)));
  return el("section", { class: "findings", "aria-label": "Findings" }, el("h2", {}, "Findings"), el("ul", {}, ...items));
}

function figureOf(figure, source) {
  const own = PAGE.sources[figure.source] ?? source;
  const sourceOf = (cell, row) => PAGE.sources[cell[3]] ?? PAGE.sources[figure.sources[row]] ?? own;
  const pictures = el("div", { class: figure.charts.length > 2 ? "pictures panels" : "pictures" });
  pictures.charts = figure.charts.map((chart) => (width) => CHARTS[chart.kind](chart, figure, width));
  return el(
    "section",
    { class: figure.charts.some((chart) => chart.kind === "validation") ? "beside" : null },
    el("h2", {}, figure.title),
    el("p", { class: "text" }, prose(figure.text)),
    ...(figure.charts.length ? [pictures] : []),
    dataTable(figure, figure.title, sourceOf),
  );
}

function provenanceOf(page, source) {
  return el("section", { class: "provenance" }, el("h2", {}, "Provenance"), el("p", {}, `${page.closing}.`), sourceList(source));
}

/** Draw the pictures of the page as wide as there is room. */
function drawCharts() {
  for (const place of document.querySelectorAll(".pictures")) {
    const width = place.classList.contains("panels") ? panelWidth(place.clientWidth) : place.clientWidth;
    const drawn = place.charts.map((draw) => draw(width)).filter((one) => one !== null);
    place.replaceChildren(...drawn);
    for (const picture of place.querySelectorAll("svg")) {
      picture.setAttribute("role", "img"); // one picture with one name; its numbers are read in the table
      for (const part of picture.querySelectorAll("[aria-label]")) part.removeAttribute("aria-label");
    }
  }
}

function panelWidth(room) {
  const columns = Math.max(1, Math.floor(room / 320));
  return Math.floor((room - (columns - 1) * 24) / columns);
}

function kept(action) {
  try {
    return action(localStorage);
  } catch {
    return null; // a browser may refuse to keep anything for a file
  }
}

function setTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

function start() {
  for (const [id, title] of NAV) if (PAGES.has(id)) document.getElementById("nav").append(el("a", { href: `#${id}` }, title));
  const chosen = kept((store) => store.getItem(PREFERENCE)) ?? "auto";
  for (const input of document.querySelectorAll("#theme input")) {
    input.checked = input.value === chosen;
    input.addEventListener("change", () => {
      setTheme(input.value);
      kept((store) => store.setItem(PREFERENCE, input.value));
    });
  }
  setTheme(chosen);
  const since = PAGE.since ? ` Limited by --since ${PAGE.since}.` : "";
  const footer = [`hwbench ${PAGE.version}; newest record ${PAGE.stamp}.${since}`, ...PAGE.notes];
  document.getElementById("footer").append(...footer.map((text) => el("p", {}, text)));
  document.getElementById("skip").addEventListener("click", (event) => {
    event.preventDefault();
    MAIN.focus();
  });
  addEventListener("hashchange", () => show(wanted(), true));
  let width = document.documentElement.clientWidth;
  addEventListener("resize", () => {
    if (width !== document.documentElement.clientWidth) requestAnimationFrame(drawCharts);
    width = document.documentElement.clientWidth;
  });
  show(wanted(), false);
}

start();
