// What the page shows, as a function of a snapshot and the time. Keeps nothing.

import { ago, bytes, clock, day, duration, iso, moment, number, plural } from "./format.js";
import { h } from "./dom.js";
import { actions } from "./actions.js";
import { holders, holderWorries } from "./holders.js";

const STAGES = { created: "Not started", running: "Running", paused: "Paused", ended: "Ended" };
const REASONS = { rounds: "after the rounds of its plan", operator: "by its operator" };
const STEPS = [["open", "Open"], ["closed", "Closed"], ["folding", "Adding up"], ["published", "Published"]];
const STATES = {
  absent: ["Waiting", "–"],
  open: ["Uploading", "↑"],
  complete: ["Complete", "✓"],
  excluded: ["Not in the sum", "×"],
};
const WHY = {
  absent: "sent nothing",
  incomplete: "did not finish in time",
  "round-failed": "complete, but the attempt failed",
  "part-corrupt": "a stored part was damaged",
  "federation-ended": "the federation ended",
  "epoch-changed": "a new group key",
  "roster-changed": "a new roster",
};
const DAY = 86400;

export function view(snapshot, now, silent_s = 0, mayAct = false) {
  const federations = [...snapshot.federations].sort((a, b) => rank(a) - rank(b) || (a.federation < b.federation ? -1 : 1));
  return h("div", { id: "view" },
    silent_s ? noAnswer(silent_s) : headline(snapshot, now),
    federations.length > 1 && jump(federations),
    federations.map((each) => federation(each, now, mayAct && !silent_s)),
    federations.length === 0 && nothing(),
    problems(snapshot, now),
    machine(snapshot, now));
}

function rank(each) {
  return { running: 0, paused: 1, created: 2, ended: 3 }[each.stage];
}

// The first thing to read: is there anything to do?
export function worries(snapshot, now) {
  const found = [];
  const { free_bytes: free, reserve_bytes: reserve, size_bytes: size } = snapshot.storage;
  if (free !== null && free < reserve) found.push(["bad", "The disk is full up to its reserve: new submissions are refused."]);
  else if (free !== null && free < reserve + 0.05 * size) found.push(["warn", `The disk is filling up: ${bytes(free - reserve)} above the reserve are left.`]);
  for (const each of snapshot.federations) {
    found.push(...holderWorries(each, now));
    if (each.stage === "ended") continue;
    const name = each.federation;
    const left = each.roster_expires_at - now;
    if (left <= 0) found.push(["bad", `${name}: the roster has expired, and all requests are refused.`]);
    else if (left < 14 * DAY) found.push(["warn", `${name}: the roster expires in ${duration(left)}.`]);
    if (each.disputed) {
      const said = Object.entries(each.disputed.verdicts);
      const by = (word) => said.filter(([, verdict]) => verdict === word).map(([site]) => site);
      found.push(["bad", `${name}: the sum of round ${each.disputed.id} is disputed: rejected by ${by("rejected").join(", ")}; opened by ${by("opened").join(", ") || "nobody"}. Tell the coordinators${each.holding ? "" : `; then he-agg dispute ${name} has it tried again`}.`]);
    }
    const round = each.round;
    if (!round) continue;
    const again = round.sites.filter((site) => site.asked_again.length);
    if (again.length) found.push(["bad", `${name}: stored parts are damaged; waiting for ${again.map((site) => site.site).join(", ")} to send them again.`]);
    if (round.phase === "open" && each.stage !== "paused" && round.complete < round.quorum) {
      const whole = round.deadline_at - round.opened_at;
      if (round.deadline_at - now < 0.15 * whole) found.push(["warn", `${name}: round ${round.number} needs ${plural(round.quorum - round.complete, "more site")} within ${duration(round.deadline_at - now)}.`]);
    }
    if (round.attempt > 2) found.push(["warn", `${name}: round ${round.number} is at attempt ${round.attempt}.`]);
  }
  const failed = (snapshot.process?.problems ?? []).filter((problem) => problem.status >= 500 && now - problem.at < 900);
  if (failed.length) found.push(["warn", `${plural(failed.reduce((sum, problem) => sum + problem.count, 0), "request")} could not be served in the last 15 minutes.`]);
  for (const one of snapshot.process?.problems ?? []) {
    if (one.reason === "secret-refused" && now - one.at < DAY) found.push(["bad", `${one.member} sent something that looks like a key (${ago(one.at, now)}). It was not kept; tell the coordinator.`]);
  }
  return found;
}

// All that is below was true when the aggregator was last heard, and says nothing about now.
function noAnswer(silent_s) {
  return banner("bad", "The aggregator does not answer",
    h("p", {}, `Nothing was heard from it for ${duration(silent_s)}: it was stopped, hangs, or cannot be reached from here. What is below was so then. Look at its process and its log; this page goes on trying.`));
}

function banner(level, title, text) {
  return h("section", { class: `headline ${level}`, "aria-labelledby": "headline", "data-key": "headline" },
    h("span", { class: "sign", "aria-hidden": "true" }, level === "ok" ? "✓" : "!"),
    h("div", {}, h("h2", { id: "headline" }, title), text));
}

function headline(snapshot, now) {
  const found = worries(snapshot, now);
  const running = snapshot.federations.filter((each) => each.stage === "running");
  const open = running.filter((each) => each.round?.phase === "open");
  const level = found.some(([kind]) => kind === "bad") ? "bad" : found.length ? "warn" : "ok";
  const title = { ok: "All is well", warn: "Worth a look", bad: "Needs attention" }[level];
  return banner(level, title,
    found.length
      ? h("ul", {}, found.map(([, text]) => h("li", {}, text)))
      : h("p", {}, `${plural(running.length, "federation")} running, ${plural(open.length, "round")} open for submissions.`));
}

function jump(federations) {
  return h("nav", { "aria-label": "Federations", class: "jump", "data-key": "jump" },
    h("ul", {}, federations.map((each) => h("li", { "data-key": each.federation },
      h("a", { href: `#federation-${each.federation}` }, each.federation, h("span", { class: "muted" }, ` ${brief(each)}`))))));
}

function brief(each) {
  if (each.stage !== "running" || !each.round) return STAGES[each.stage].toLowerCase();
  return each.round.phase === "open" ? `${each.round.complete}/${each.round.sites.length}` : stepName(each.round.phase).toLowerCase();
}

function federation(each, now, mayAct) {
  const id = `federation-${each.federation}`;
  return h("section", { class: "card federation", id, "aria-labelledby": `${id}-title`, "data-key": id },
    h("div", { class: "title" },
      h("h2", { id: `${id}-title` }, each.federation),
      h("span", { class: `badge ${each.stage}` }, STAGES[each.stage]),
      h("p", { class: "muted" }, `${number(each.published)} of ${plural(each.rounds, "round")} published`, each.end && ["; ended ", REASONS[each.end.reason], ", ", h("time", { datetime: iso(each.end.ended_at) }, moment(each.end.ended_at, now))])),
    each.round && each.stage !== "created" ? liveRound(each, each.round, now) : h("p", { class: "muted" }, "No round has opened yet."),
    mayAct && actions(each),
    each.holding && holders(each),
    history(each, id, now),
    facts(each, now));
}

function liveRound(each, round, now) {
  const id = `round-${each.federation}`;
  const over = round.phase === "published" || round.phase === "failed";
  const heading = over ? `Last round: ${round.number}` : `Round ${round.number}`;
  return h("section", { class: "round", "aria-labelledby": id, "data-key": "round" },
    h("div", { class: "round-head" },
      h("h3", { id }, heading, round.attempt > 1 && h("span", { class: "muted" }, `, attempt ${round.attempt}`)),
      steps(round)),
    h("dl", { class: "figures" }, figures(each, round, now)),
    !over && time(round, now),
    round.phase === "folding" && folding(round),
    sites(round, now, over));
}

function stepName(phase) {
  return phase === "failed" ? "Failed" : STEPS.find(([name]) => name === phase)[1];
}

function steps(round) {
  if (round.phase === "failed") return h("p", { class: "badge failed" }, "Failed");
  const at = STEPS.findIndex(([name]) => name === round.phase);
  return h("ol", { class: "steps", "aria-label": "Phase of the round" }, STEPS.map(([name, text], index) =>
    h("li", { class: index < at ? "done" : index === at ? "now" : "next", "aria-current": index === at ? "step" : null }, h("span", {}, text))));
}

function figures(each, round, now) {
  const invited = round.sites.length;
  const reached = round.complete >= round.quorum;
  const held = round.sites.reduce((sum, site) => sum + site.bytes, 0);
  const left = round.deadline_at - now;
  const open = round.phase === "open";
  return [
    figure("Complete", `${round.complete} of ${invited}`, each.sample_percent < 100 ? "drawn sites" : "invited sites"),
    figure("Quorum", String(round.quorum), (reached ? "✓ reached" : `${plural(round.quorum - round.complete, "more site")} needed`) + (each.small_groups ? "; small groups are allowed" : ""), reached ? "good" : ""),
    open
      ? figure("Time left", each.stage === "paused" ? "Paused" : left > 0 ? duration(left) : "0 s", each.stage === "paused" ? "the clock stands still" : `until ${moment(round.deadline_at, now)}`)
      : figure("Took", duration((round.ended_at ?? now) - round.opened_at), round.ended_at ? `until ${moment(round.ended_at, now)}` : "so far"),
    open
      ? figure("Received", bytes(held), `of ${bytes(invited * each.bytes_up)}`)
      : figure("Each submission", bytes(each.bytes_up), plural(round.parts, "part")),
  ];
}

function figure(name, value, note, kind = "") {
  return h("div", { "data-key": name }, h("dt", {}, name), h("dd", {}, h("strong", {}, value), h("span", { class: `note ${kind}` }, note)));
}

function time(round, now) {
  if (round.phase !== "open") return null;
  const whole = Math.max(1, round.deadline_at - round.opened_at);
  const gone = Math.min(whole, Math.max(0, now - round.opened_at));
  return h("progress", { class: "time", max: whole, value: Math.round(gone), "aria-label": "Time of the round that has passed", "data-key": "time" });
}

function folding(round) {
  return h("p", { class: "fold", "data-key": "fold" },
    h("label", {}, "Sum ",
      h("progress", { max: round.parts, value: round.sum_parts, "aria-label": "Parts of the sum that are done" })),
    ` ${round.sum_parts} of ${plural(round.parts, "part")}`);
}

function sites(round, now, over) {
  return h("table", { class: "sites stack", "data-key": "sites" },
    h("caption", { class: "hidden" }, `Sites invited to round ${round.number}`),
    h("thead", {}, h("tr", {}, ["Site", "State", "Uploaded", "When"].map((text) => h("th", { scope: "col" }, text)))),
    h("tbody", {}, round.sites.map((site) => siteRow(site, round, now, over))));
}

function siteRow(site, round, now, over) {
  const [text, sign] = site.asked_again.length ? ["Asked to send again", "↻"] : STATES[site.state];
  const share = site.bytes_total ? Math.floor((100 * site.bytes) / site.bytes_total) : 0;
  return h("tr", { "data-key": site.site, class: site.state },
    h("th", { scope: "row" }, site.site),
    h("td", { "data-label": "State" }, h("span", { class: `state ${site.asked_again.length ? "again" : site.state}` }, h("span", { "aria-hidden": "true", class: "sign" }, sign), text)),
    h("td", { "data-label": "Uploaded", class: "upload" },
      h("progress", { max: site.bytes_total, value: site.bytes, "aria-label": `Uploaded by ${site.site}` }),
      h("span", { class: "amount" }, site.state === "open" ? `${share} %, ${bytes(site.bytes)}` : site.bytes ? bytes(site.bytes) : over ? "nothing" : "nothing yet")),
    h("td", { "data-label": "When" }, site.accepted_at ? h("time", { datetime: iso(site.accepted_at) }, moment(site.accepted_at, now)) : "–"));
}

function history(each, id, now) {
  const ended = each.history;
  if (!ended.length) return null;
  return h("section", { class: "history", "aria-labelledby": `${id}-history`, "data-key": "history" },
    h("h3", { id: `${id}-history` }, "History"),
    chart(ended),
    h("details", { "data-key": "table", open: ended.length <= 5 },
      h("summary", {}, `Last ${plural(ended.length, "attempt")} in a table`),
      h("table", { class: "stack" },
        h("caption", { class: "hidden" }, `Ended rounds of ${each.federation}, newest first`),
        h("thead", {}, h("tr", {}, ["Round", "Outcome", "Sites", "Collecting", "Adding up", "Received", "Ended"].map((text) => h("th", { scope: "col" }, text)))),
        h("tbody", {}, ended.map((one) => endedRow(one, now))))));
}

function endedRow(one, now) {
  const missing = Object.entries(one.excluded).map(([site, reason]) => `${site}: ${WHY[reason] ?? reason}`);
  const closed = one.closed_at ?? one.ended_at;
  return h("tr", { "data-key": one.id },
    h("th", { scope: "row" }, one.attempt > 1 ? `${one.number}, attempt ${one.attempt}` : String(one.number)),
    h("td", { "data-label": "Outcome" }, h("span", { class: `state ${one.outcome}` }, h("span", { class: "sign", "aria-hidden": "true" }, one.outcome === "published" ? "✓" : "×"), one.outcome === "published" ? "Published" : "Failed")),
    h("td", { "data-label": "Sites" }, String(one.members), missing.length > 0 && h("span", { class: "note block" }, missing.join("; "))),
    h("td", { "data-label": "Collecting" }, duration(closed - one.opened_at)),
    h("td", { "data-label": "Adding up" }, one.outcome === "published" ? duration(one.ended_at - closed) : "–"),
    h("td", { "data-label": "Received" }, one.bytes_up ? bytes(one.bytes_up) : "–"),
    h("td", { "data-label": "Ended" }, h("time", { datetime: iso(one.ended_at) }, moment(one.ended_at, now))));
}

// Bars of how long rounds took, oldest at the left; the table below has the figures.
function chart(ended) {
  const rows = [...ended].reverse();
  const longest = Math.max(1, ...rows.map((one) => one.ended_at - one.opened_at));
  const [width, gap, height] = [18, 6, 72];
  const whole = rows.length * (width + gap) - gap;
  const published = rows.filter((one) => one.outcome === "published").length;
  const mean = rows.reduce((sum, one) => sum + one.ended_at - one.opened_at, 0) / rows.length;
  const received = rows.reduce((sum, one) => sum + one.bytes_up, 0);
  const label = `Length of the last ${plural(rows.length, "attempt")}: ${published} published, ${rows.length - published} failed, ${duration(mean)} on average, ${duration(longest)} at most.`;
  return h("figure", { class: "chart", "data-key": "chart" },
    h("p", { class: "muted", "aria-hidden": "true" }, `Length of each attempt, oldest first; the longest took ${duration(longest)}`),
    h("svg", { role: "img", "aria-label": label, viewBox: `0 0 ${whole} ${height}`, width: whole, height },
      rows.map((one, index) => bar(one, index * (width + gap), width, height, longest))),
    h("figcaption", {},
      h("dl", { class: "figures" },
        figure("Round time", duration(mean), `on average, ${duration(longest)} at most`),
        figure("Published", number(published), rows.length > published ? h("span", { class: "key failed" }, `${number(rows.length - published)} failed`) : `of the last ${plural(rows.length, "attempt")}`),
        figure("Received", bytes(received), `in ${plural(published, "round")}`))));
}

function bar(one, x, width, height, longest) {
  const all = Math.max(3, (height * (one.ended_at - one.opened_at)) / longest);
  return h("g", {},
    h("title", {}, `Round ${one.number}${one.attempt > 1 ? `, attempt ${one.attempt}` : ""}: ${one.outcome}, ${duration(one.ended_at - one.opened_at)}`),
    h("rect", { class: one.outcome, x, y: (height - all).toFixed(1), width, height: all.toFixed(1), rx: 3 }));
}

function facts(each, now) {
  const rows = [
    ["Sites", each.sites.join(", ") || "none"],
    ["Model", `${number(each.values)} values, ${bytes(each.bytes_up)} a submission (${each.codec})`],
    ["On the disk", bytes(each.held_bytes)],
    ["Roster", `version ${each.roster_version}, good until ${day(each.roster_expires_at)}`],
    ["Group key", `epoch ${each.epoch}`],
    ["Chain", each.records ? [plural(each.records, "record"), ", newest ", h("code", {}, each.head.slice(0, 12))] : "no record yet"],
  ];
  return h("details", { class: "facts", "data-key": "facts" }, h("summary", {}, `About ${each.federation}`),
    h("dl", {}, rows.map(([name, value]) => h("div", { "data-key": name }, h("dt", {}, name), h("dd", {}, value)))));
}

function nothing() {
  return h("section", { class: "card", "aria-labelledby": "none", "data-key": "none" },
    h("h2", { id: "none" }, "No federations yet"),
    h("p", {}, "Register one: ", h("code", {}, "he-agg federation create federation.json --roster roster.json")));
}

function problems(snapshot, now) {
  const found = snapshot.process?.problems ?? [];
  return h("section", { class: "card problems", "aria-labelledby": "problems", "data-key": "problems" },
    h("h2", { id: "problems" }, "Recent problems"),
    found.length === 0
      ? h("p", { class: "muted" }, "None since the aggregator started.")
      : [h("ul", { class: "problem-list" }, found.slice(0, 12).map((one) => problem(one, now))),
        h("p", { class: "muted" }, "`he-agg explain REASON` says what to do; the id names the line in the log.")]);
}

function problem(one, now) {
  const who = [one.member, one.round_id || one.federation].filter(Boolean).join(" · ");
  return h("li", { "data-key": `${one.id}${one.reason}${one.what}${one.member}` },
    h("div", { class: "problem-what" },
      h("strong", {}, one.title), one.count > 1 && h("span", { class: "count" }, ` ${one.count} times`),
      h("span", { class: "note block" }, h("code", {}, one.reason), one.status ? ` ${one.status}` : "", who && ` · ${who}`)),
    h("div", { class: "problem-when" }, h("time", { datetime: iso(one.at), title: clock(one.at) }, ago(one.at, now)), one.id && h("code", { class: "block" }, one.id)));
}

function machine(snapshot, now) {
  const { storage, process } = snapshot;
  const limited = storage.free_bytes !== null;
  return h("section", { class: "card", "aria-labelledby": "machine", "data-key": "machine" },
    h("h2", { id: "machine" }, "Storage and traffic"),
    limited && h("progress", { class: "disk", max: storage.size_bytes, value: storage.size_bytes - storage.free_bytes, "aria-label": "Disk in use" }),
    h("dl", { class: "figures" },
      limited && figure("Disk free", bytes(storage.free_bytes), `of ${bytes(storage.size_bytes)}`),
      figure("Kept in reserve", bytes(storage.reserve_bytes), "new submissions stop there"),
      figure("Submissions and sums", bytes(storage.held_bytes), storage.database_bytes === null ? "rows are in PostgreSQL" : `and ${bytes(storage.database_bytes)} of rows`),
      process && figure("In and out", `${bytes(process.traffic.received_bytes)} / ${bytes(process.traffic.sent_bytes)}`, `${plural(process.traffic.requests, "request")} in ${duration(Math.floor((now - process.started_at) / 60) * 60 || now - process.started_at)}`)));
}
