const found = [];
const shown = (e) => e.getClientRects().length > 0;
const name = (e) => (e.getAttribute("aria-label") || (e.getAttribute("aria-labelledby") || "").split(" ").filter(Boolean)
  .map((id) => document.getElementById(id)?.textContent ?? "").join(" ") || (e.labels && [...e.labels].map((l) => l.textContent).join(" "))
  || e.textContent || e.getAttribute("alt") || "").trim();
if (!document.documentElement.lang) found.push("no language");
if (!document.title.trim()) found.push("no title");
for (const one of ["header", "main", "footer"]) if (document.querySelectorAll(`body > ${one}`).length !== 1) found.push(`landmark ${one}`);
if ([...document.querySelectorAll("h1")].filter(shown).length !== 1) found.push("not one h1");
let level = 0;
for (const e of document.querySelectorAll("h1,h2,h3,h4,h5,h6")) {
  if (!shown(e)) continue;
  const now = Number(e.tagName[1]);
  if (now > level + 1) found.push(`heading skips a level: ${e.textContent}`);
  if (!e.textContent.trim()) found.push("empty heading");
  level = now;
}
for (const e of document.querySelectorAll("a,button,input,select,textarea,summary,progress,svg[role=img],nav,section,table")) {
  if (!shown(e) || e.tagName === "TABLE" && e.caption) continue;
  if (!name(e)) found.push(`no name: ${e.outerHTML.slice(0, 80)}`);
}
for (const e of document.querySelectorAll("img")) if (!e.hasAttribute("alt")) found.push("image without alt");
const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
for (const id of new Set(ids)) if (ids.filter((other) => other === id).length > 1) found.push(`id twice: ${id}`);
for (const e of document.querySelectorAll("[aria-labelledby],[aria-describedby]"))
  for (const id of `${e.getAttribute("aria-labelledby") ?? ""} ${e.getAttribute("aria-describedby") ?? ""}`.split(" ").filter(Boolean))
    if (!document.getElementById(id)) found.push(`refers to nothing: ${id}`);
for (const e of document.querySelectorAll("table")) {
  if (!e.querySelector("th[scope=col]") || !e.querySelector("tbody th[scope=row]")) found.push("table without headers");
}
for (const e of document.querySelectorAll("[tabindex]")) if (e.tabIndex > 0) found.push("positive tabindex");
for (const e of document.querySelectorAll("ul,ol")) for (const child of e.children) if (child.tagName !== "LI") found.push("list with other children");
for (const e of document.querySelectorAll("dl > *")) if (!["DT", "DD", "DIV"].includes(e.tagName)) found.push("dl with other children");
for (const e of document.querySelectorAll("[onclick],[onload],[style]")) found.push(`inline: ${e.outerHTML.slice(0, 60)}`);
if (!document.querySelector("[aria-live=polite]")) found.push("nothing is said aloud");
return found;
