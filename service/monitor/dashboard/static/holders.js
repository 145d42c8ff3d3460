// Holders of shares, where one-time keys are split: who can take part, and whom a published round waits for.

import { duration, plural } from "./format.js";
import { h } from "./dom.js";

const PATIENCE = 600;

// What an operator should see to.
export function holderWorries(each, now) {
  const { holding, federation: name } = each;
  if (!holding || each.end) return [];
  const found = [];
  if (!holding.ready && each.stage !== "created") {
    const without = holding.holders.filter((one) => !one.has_key).map((one) => one.holder);
    found.push(["bad", `${name}: no round opens before ${plural(holding.quorum, "holder")} have a sharing key of epoch ${each.epoch}; without one: ${without.join(", ")}.`]);
  }
  const { awaited } = holding;
  if (!awaited) return found;
  const since = now - awaited.since;
  if (since > PATIENCE) found.push(["warn", `${name}: round ${awaited.id} has waited ${duration(since)} for its holders; not heard of: ${awaited.waits_for.join(", ")}. Call them. If they do not come back, he-agg federation skip ${name} goes on without them.`]);
  for (const one of awaited.complaints) found.push(["bad", `${name}: ${one.holder} complains of the dealing of ${one.dealer} in round ${awaited.id} (${one.fault}). Tell the coordinators.`]);
  return found;
}

export function holders(each) {
  const { holding } = each;
  const { awaited } = holding;
  const id = `holders-${each.federation}`;
  const listed = awaited ? awaited.holders : holding.holders;
  const text = awaited
    ? `Round ${awaited.id} waits for them: ${awaited.quorum} have to see its record, then ${awaited.threshold} to answer.`
    : `${holding.quorum} have to see the record of each sum, then ${holding.threshold} to answer.`;
  const columns = ["Holder", "Sharing key", ...(awaited ? ["Echo", "Answer"] : [])];
  return h("section", { class: "holders", "aria-labelledby": id, "data-key": "holders" },
    h("h3", { id }, "Holders"),
    h("p", { class: "muted" }, text),
    h("table", { class: "stack" },
      h("caption", { class: "hidden" }, `Holders of ${each.federation}`),
      h("thead", {}, h("tr", {}, columns.map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, listed.map((one) => h("tr", { "data-key": one.holder },
        h("th", { scope: "row" }, one.holder),
        told("Sharing key", one.has_key),
        awaited && told("Echo", one.echoed),
        awaited && told("Answer", one.answered))))));
}

function told(label, here) {
  return h("td", { "data-label": label },
    h("span", { class: `state ${here ? "complete" : "absent"}` }, h("span", { class: "sign", "aria-hidden": "true" }, here ? "✓" : "–"), here ? "Here" : "Not yet"));
}
