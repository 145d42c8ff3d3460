// What an operator may do with a federation: buttons, and a question before anything is done.

import { h } from "./dom.js";

const ACTIONS = {
  pause: ["Pause", "No round opens, and the deadline of an open one stands still. What is under way may be finished."],
  resume: ["Resume", "Its open round has as long as it had left when the federation was paused."],
  skip: ["Skip holders", "The next round opens without the holders of the newest sum. That sum stays unopened unless enough of them answer soon, and its round is not tried again."],
};
const element = (id) => document.getElementById(id);

export function actions(each) {
  const may = { running: ["pause"], paused: ["resume"] }[each.stage] ?? [];
  const offered = each.holding?.awaited ? [...may, "skip"] : may;
  if (offered.length === 0) return null;
  return h("div", { class: "acts", "data-key": "acts" }, offered.map((action) =>
    h("button", { type: "button", class: "quiet", "data-key": action, "data-action": action, "data-federation": each.federation },
      ACTIONS[action][0], h("span", { class: "hidden" }, ` ${each.federation}`))));
}

// Ask, and do it. `done` is called with what has been done, in words.
export function listenForActions(view, done) {
  let asked = null;
  view.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-action]");
    if (!button) return;
    asked = { ...button.dataset };
    const [name, text] = ACTIONS[asked.action];
    element("confirm-title").textContent = `${name}: ${asked.federation}`;
    element("confirm-text").textContent = text;
    element("confirm-yes").textContent = name;
    element("confirm-error").textContent = "";
    element("confirm").showModal();
    element("confirm-no").focus();
  });
  element("confirm-no").addEventListener("click", () => element("confirm").close());
  element("confirm-yes").addEventListener("click", async () => {
    const { federation, action } = asked;
    const address = `federations/${encodeURIComponent(federation)}/${action}`;
    try {
      const answer = await fetch(address, { method: "POST", headers: { "Content-Type": "application/json" }, body: "{}" });
      if (!answer.ok) throw new Error((await answer.json()).detail);
      element("confirm").close();
      done(`${ACTIONS[action][0]}: ${federation}. Done.`);
    } catch (error) {
      element("confirm-error").textContent = `It was not done: ${error.message}`;
    }
  });
}
