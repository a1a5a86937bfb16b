// What a number says of itself when it is pointed at, touched or reached by keyboard: its interval and where it came from.
// It stays while it is pointed at itself, and Escape takes it away (WCAG 2.2, 1.4.13).

const TIP = document.getElementById("tip");
const TOLD = new WeakMap();
const LINGER_MS = 150;
let owner = null;
let leaving = 0;

/** Let an element tell a note and a source, either of which may be missing. */
function tells(element, note, source) {
  if (note || source) {
    TOLD.set(element, { note, source });
    element.classList.add("tells");
  }
  return element;
}

/** Names and values of a source. */
function sourceRows(source) {
  const records = source.records.map((id) => id.slice(0, 12)).join(" and ");
  return [
    ["record", records],
    ["device", source.device],
    ["hardware", source.target],
    ["runtime", source.runtime],
    ["date", source.date],
    ["repeat", source.command],
  ];
}

function sourceList(source) {
  const list = el("dl", { class: "source" });
  for (const [name, value] of sourceRows(source))
    list.append(el("dt", {}, name), el("dd", {}, el(name === "repeat" ? "code" : "span", {}, value)));
  return list;
}

function showTip(element) {
  const { note, source } = TOLD.get(element);
  clearTimeout(leaving);
  if (owner && owner !== element) owner.removeAttribute("aria-describedby");
  owner = element;
  TIP.replaceChildren(...(note ? [el("p", {}, note)] : []), ...(source ? [sourceList(source)] : []));
  TIP.hidden = false;
  element.setAttribute("aria-describedby", "tip");
  const at = element.getBoundingClientRect();
  const size = TIP.getBoundingClientRect();
  const room = { x: document.documentElement.clientWidth, y: window.innerHeight };
  const below = at.bottom + 8 + size.height <= room.y || at.top - 8 - size.height < 0;
  TIP.style.left = `${Math.max(8, Math.min(at.left, room.x - size.width - 8)) + window.scrollX}px`;
  TIP.style.top = `${(below ? at.bottom + 8 : at.top - 8 - size.height) + window.scrollY}px`;
}

function hideTip() {
  clearTimeout(leaving);
  TIP.hidden = true;
  owner?.removeAttribute("aria-describedby");
  owner = null;
}

function tellerOf(target) {
  const found = target instanceof Element ? target.closest(".tells") : null;
  return found && TOLD.has(found) ? found : null;
}

for (const event of ["pointerover", "focusin", "click"]) {
  document.addEventListener(event, ({ target }) => {
    const teller = tellerOf(target);
    if (teller) showTip(teller);
    else if (TIP.contains(target)) clearTimeout(leaving);
    else if (event !== "pointerover") hideTip();
  });
}
document.addEventListener("pointerout", ({ target }) => {
  if ((tellerOf(target) || TIP.contains(target)) && document.activeElement !== owner) {
    clearTimeout(leaving);
    leaving = setTimeout(hideTip, LINGER_MS);
  }
});
document.addEventListener("keydown", ({ key }) => {
  if (key === "Escape") hideTip();
});
