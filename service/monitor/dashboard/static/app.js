// The connection: log in with a link, listen to events, draw, and say aloud what has changed.

import { listenForActions } from "./actions.js";
import { h, morph } from "./dom.js";
import { plural } from "./format.js";
import { view } from "./view.js";

const TOKEN = /[0-9]{10,}\.[0-9a-f]{16}\.[0-9a-f]{64}/;
const element = (id) => document.getElementById(id);
// Why somebody was not let in, by the reason in the address to which the aggregator sends the browser back.
const REFUSED = {
  provider: "The identity provider does not answer as it should. Try again; the aggregator's log says more.",
  denied: "The identity provider did not let you in, or you cancelled.",
  state: "This sign-in was begun elsewhere, used before, or took too long. Begin again.",
  "no-role": "You are signed in at the identity provider, but in none of the groups that may look here. Ask whoever runs the aggregator.",
  other: "The identity provider's answer was refused: it is not for this page, too old, or not signed by it.",
};
let snapshot = null;
let me = null; // who looks, as the aggregator has it
let ahead = 0; // of the aggregator's clock before this machine's, in seconds
let events = null;
let heardAt = 0;
let silent = false;

const SILENT_S = 5; // two pulses of the aggregator, and a bit

function now() {
  return Date.now() / 1000 + ahead;
}

function draw() {
  if (!snapshot) return;
  const root = element("view");
  const silent_s = (Date.now() - heardAt) / 1000;
  if (silent !== silent_s > SILENT_S) {
    silent = !silent;
    element("announcer").textContent = silent ? "The aggregator does not answer." : "The aggregator answers again.";
  }
  if (silent) connection("lost", "No answer, trying again");
  morph(root, view(snapshot, now(), silent ? silent_s : 0, me?.may_act));
  const open = snapshot.federations.find((each) => each.round?.phase === "open");
  document.title = silent ? "No answer · he-agg aggregator" : open ? `${open.round.complete}/${open.round.sites.length} ${open.federation} · he-agg` : "he-agg aggregator";
  element("about").textContent = snapshot.process ? `he-agg ${snapshot.process.version}` : "";
}

function connection(state, text) {
  element("connection").dataset.state = state;
  if (element("connection-text").textContent !== text) element("connection-text").textContent = text;
}

// What somebody who does not see the page would want to be told. Not every second, and not every byte.
function news(before, after) {
  const said = [];
  for (const each of after.federations) {
    const old = before.federations.find((one) => one.federation === each.federation);
    const [was, is] = [old?.round, each.round];
    if (!is) continue;
    const name = `${each.federation}, round ${is.number}`;
    if (was?.id !== is.id) {
      const ended = each.history.find((one) => one.id === was?.id);
      if (ended) said.push(`${each.federation}, round ${ended.number}: ${ended.outcome}.`);
      said.push(`${name} is ${is.phase}.`);
    } else if (was.phase !== is.phase) said.push(`${name} is ${is.phase}.`);
    else if (was.complete !== is.complete) said.push(`${name}: ${is.complete} of ${plural(is.sites.length, "site")} complete.`);
  }
  return said.join(" ");
}

function take(next) {
  const said = snapshot ? news(snapshot, next) : "";
  snapshot = next;
  ahead = next.now - Date.now() / 1000;
  heardAt = Date.now();
  connection("live", "Live");
  draw();
  element("view").removeAttribute("aria-busy");
  element("login").hidden = element("sign-in").hidden = true;
  element("logout").hidden = false;
  if (said) element("announcer").textContent = said;
}

function listen() {
  events?.close();
  events = new EventSource("events");
  events.addEventListener("snapshot", (event) => take(JSON.parse(event.data)));
  events.addEventListener("pulse", () => {
    heardAt = Date.now();
    connection("live", "Live");
  });
  events.addEventListener("error", lost);
}

async function lost() {
  connection("lost", "Connection lost, trying again");
  if (events.readyState !== EventSource.CLOSED) return;
  try {
    if (!(await findMe())) return;
  } catch {
    // It is away altogether: go on trying.
  }
  setTimeout(listen, 3000);
}

// Find out who looks; false if nobody may yet, and the page asks.
async function findMe() {
  const answer = await fetch("session.json");
  const said = await answer.json();
  if (answer.status === 401) {
    if (said.entrance === "oidc") askToSignIn();
    else askToLogIn();
    return false;
  }
  me = said;
  element("who").textContent = me.by ? `${me.by}, ${me.may_act ? "operator" : "viewer"}` : "";
  element("who").hidden = !me.by;
  return true;
}

function forget() {
  events?.close();
  snapshot = me = null;
  morph(element("view"), h("div", { id: "view" }));
  connection("waiting", "Not logged in");
  element("logout").hidden = element("who").hidden = true;
}

function askToSignIn() {
  forget();
  element("sign-in").hidden = false;
  const reason = location.hash.match(/^#refused=([a-z-]+)$/)?.[1];
  element("sign-in-error").textContent = reason ? REFUSED[reason] ?? REFUSED.other : "";
  history.replaceState(null, "", location.pathname);
}

function askToLogIn(error = "") {
  forget();
  element("login").hidden = false;
  element("login-error").textContent = error;
  element("token").value = "";
  element("token").focus();
}

async function logIn(text) {
  const token = text.match(TOKEN)?.[0];
  if (!token) return askToLogIn("That is no link of he-agg operator link.");
  const answer = await fetch("login", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ token }) });
  if (!answer.ok) return askToLogIn("This link is too old or was used before. Make a new one: he-agg operator link.");
  await findMe();
  element("login").hidden = true;
  element("main").focus({ preventScroll: true });
  return listen();
}

// A link that was opened, here or in the tab that asks for one: there only the fragment changes, and nothing is loaded.
function linkInAddress() {
  const hash = location.hash;
  if (!TOKEN.test(hash)) return "";
  history.replaceState(null, "", location.pathname); // it is of no more use, and need not stay in the address
  return hash;
}

async function begin() {
  const link = linkInAddress();
  if (link) return logIn(link);
  if (!(await findMe())) return;
  return listen();
}

element("login-form").addEventListener("submit", (event) => {
  event.preventDefault();
  logIn(element("token").value);
});
element("logout").addEventListener("click", async () => {
  events?.close();
  await fetch("logout", { method: "POST" });
  await findMe();
});
addEventListener("hashchange", () => {
  const link = linkInAddress();
  if (link) logIn(link);
});
listenForActions(element("main"), (said) => {
  element("announcer").textContent = said;
});
setInterval(draw, 1000);
begin().catch(() => connection("lost", "The aggregator does not answer"));
