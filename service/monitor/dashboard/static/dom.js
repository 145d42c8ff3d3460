// Elements out of data. Text is only ever set as text, so nothing in it can become markup.

const SVG = "http://www.w3.org/2000/svg";
const SVG_TAGS = new Set(["svg", "rect", "line", "title", "g"]);

// On a phone rows are laid out as cards, and a table that is not laid out as one is none to a screen reader.
const ROLES = { table: "table", thead: "rowgroup", tbody: "rowgroup", tr: "row", td: "cell" };

export function h(tag, attributes, ...children) {
  const element = SVG_TAGS.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  if (tag in ROLES) element.setAttribute("role", ROLES[tag]);
  if (tag === "th") element.setAttribute("role", attributes.scope === "row" ? "rowheader" : "columnheader");
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === false || value === null || value === undefined) continue;
    element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== false && child !== undefined));
  return element;
}

// Make `old` look like `wanted` and change as little as possible: focus, selection and scrolling stay where they are.
export function morph(old, wanted) {
  // Whether a part is unfolded is the reader's to decide.
  const readers = (name) => old.tagName === "DETAILS" && name === "open";
  for (const name of old.getAttributeNames()) {
    if (!wanted.hasAttribute(name) && !readers(name)) old.removeAttribute(name);
  }
  for (const name of wanted.getAttributeNames()) {
    if (!readers(name) && old.getAttribute(name) !== wanted.getAttribute(name)) old.setAttribute(name, wanted.getAttribute(name));
  }
  const byKey = new Map();
  for (const child of old.children) if (child.dataset?.key) byKey.set(child.dataset.key, child);
  let at = old.firstChild;
  for (const next of [...wanted.childNodes]) {
    const keyed = next.dataset?.key ? byKey.get(next.dataset.key) : null;
    if (keyed && keyed !== at) old.insertBefore(keyed, at);
    const here = keyed ?? at;
    if (here && isSame(here, next)) {
      at = here.nextSibling;
      if (next.nodeType === Node.TEXT_NODE) {
        if (here.data !== next.data) here.data = next.data;
      } else morph(here, next);
    } else old.insertBefore(next, at);
  }
  while (at) {
    const gone = at;
    at = at.nextSibling;
    gone.remove();
  }
}

function isSame(a, b) {
  return a.nodeType === b.nodeType && a.nodeName === b.nodeName && a.dataset?.key === b.dataset?.key;
}
