// SPDX-License-Identifier: Apache-2.0
// Asks the server for what is new, once a second, and hands it to the parts of the page.

import { Filters } from "./filters.js";
import { PairList, showMissing } from "./list.js";
import { ServiceMap } from "./map.js";
import { Store } from "./store.js";
import { FlowTable } from "./table.js";

const EVERY = 1000; // ms between two questions
const AFTER_ERROR = 3000;
const PATIENCE = 20000;
const MOST_NAMES = 2000; // that the form proposes
const $ = (id) => document.getElementById(id);

const store = new Store();
const table = new FlowTable($("rows"), $("empty"));
const map = new ServiceMap($("map"), $("hover"), pick);
const pairs = new PairList($("connections"), $("pairs"), pick);
const filters = new Filters($("filters"), $("picked"), restart);
let paused = false;
let timer = 0;
let round = 0; // answers to questions of an earlier round are not wanted any more

function pick(left, right) {
  if (right) filters.pick({ ...end(left, "from"), ...end(right, "to") });
  else if (left.selector) filters.set({ ...filters.values, label: left.selector, group: "" }, true);
  else filters.set({ ...filters.values, host: left.name }, true);
}

const end = (node, side) => (node.selector ? { [`${side}Label`]: node.selector } : { [side]: node.name });

function restart() {
  store.reset();
  table.clear();
  round += 1;
  if (paused) togglePause();
  else ask();
}

async function ask() {
  clearTimeout(timer);
  const own = round;
  let next = EVERY;
  try {
    const answer = await question();
    if (own !== round || paused) return;
    take(answer);
  } catch (error) {
    if (own !== round || paused) return;
    next = AFTER_ERROR;
    if (error instanceof Wrong) {
      $("wrong").textContent = error.message;
      return; // until the filters change
    }
    show("bad", "wardmesh ui does not answer");
  }
  timer = setTimeout(ask, next);
}

class Wrong extends Error {}

async function question() {
  const asked = new URLSearchParams(filters.query());
  asked.set("epoch", store.epoch);
  asked.set("cursor", store.cursor);
  asked.set("members", store.membersVersion);
  const answer = await fetch(`/api/v1/updates?${asked}`, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
  const document_ = await answer.json();
  if (answer.status === 400) throw new Wrong(words(document_.error));
  if (!answer.ok) throw new Error(String(answer.status));
  return document_;
}

const words = (error) => [error.where, error.what, error.why, error.remedy].filter(Boolean).join(": ");

function take(answer) {
  $("wrong").textContent = "";
  if (answer.fresh) table.clear();
  const changed = store.take(answer);
  table.add(answer.rows);
  if (changed) drawMap();
  tell(answer.status);
}

function drawMap() {
  const graph = store.graph(filters.group, !filters.narrow);
  map.draw(graph);
  pairs.draw(graph);
  showMissing($("missing"), store.members);
  offer($("hosts"), [...new Set([...store.labels.keys(), ...store.members.keys()])].sort().slice(0, MOST_NAMES));
  offer($("keys"), [...store.labelKeys().keys()].sort());
  const shown = graph.nodes.length;
  $("map-title").textContent = `Service map: ${shown} ${filters.group ? "groups" : "hosts"}, ${graph.edges.length} connections`;
}

function offer(list, names) {
  const known = names.join("\n");
  if (list.dataset.known === known) return;
  list.dataset.known = known;
  list.replaceChildren(...names.map((name) => new Option(name, name)));
}

function tell(status) {
  const missing = status.unavailable ? `, ${status.unavailable} of ${status.members} members do not answer` : "";
  if (status.connected) show(status.unavailable ? "bad" : "good", `live from ${status.server}${missing}`);
  else show("bad", `relay not reachable: ${status.why}`);
  const told = [`${status.flows} flows seen`];
  if (status.lost) told.push(`${status.lost} events lost`);
  if (status.unreadable) told.push(`${status.unreadable} unreadable`);
  if (status.forgottenEdges) told.push(`${status.forgottenEdges} old connections left out`);
  $("counts").textContent = told.join(", ");
  $("shown").textContent = `${table.count} shown`;
}

function show(kind, text) {
  $("state").className = `state ${kind}`;
  if ($("state").textContent !== text) $("state").textContent = text;
}

function togglePause() {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", String(paused));
  $("pause").textContent = paused ? "Go on" : "Pause";
  clearTimeout(timer);
  round += 1;
  if (!paused) ask();
}

$("pause").addEventListener("click", togglePause);
$("fit").addEventListener("click", () => map.fit());
ask();
