// SPDX-License-Identifier: Apache-2.0
// The map in words: a list of connections for keyboards and screen readers, and the members that are missing.

import { flowsOf, portsText } from "./store.js";

const MOST_PAIRS = 200;

export class PairList {
  constructor(details, body, pick) {
    this.details = details;
    this.body = body;
    this.pick = pick;
    this.graph = null;
    details.addEventListener("toggle", () => this.#fill());
  }

  draw(graph) {
    this.graph = graph;
    this.details.querySelector("summary").textContent = `Connections as a list (${graph.edges.length})`;
    this.#fill();
  }

  #fill() {
    if (!this.details.open || !this.graph) return;
    const held = this.body.contains(document.activeElement) ? document.activeElement.dataset.edge : "";
    const titles = new Map(this.graph.nodes.map((node) => [node.id, node]));
    const busiest = [...this.graph.edges].sort((a, b) => flowsOf(b) - flowsOf(a)).slice(0, MOST_PAIRS);
    this.body.replaceChildren(...busiest.map((edge) => this.#line(edge, titles)));
    if (held) [...this.body.querySelectorAll("button")].find((item) => item.dataset.edge === held)?.focus();
  }

  #line(edge, titles) {
    const line = document.createElement("tr");
    line.className = edge.kind;
    const [left, right] = [titles.get(edge.source), titles.get(edge.target)];
    const words = [left.title, right.title, portsText(edge), edge.kind, flowsOf(edge), edge.dropped, edge.audited];
    for (const word of words) line.insertCell().textContent = word;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Flows";
    button.dataset.edge = edge.id;
    button.setAttribute("aria-label", `Flows from ${left.title} to ${right.title}`);
    button.addEventListener("click", () => this.pick(left, right));
    line.insertCell().append(button);
    return line;
  }
}

// Members of which the relay says that they cannot be asked.
export function showMissing(details, members) {
  const missing = [...members].filter(([, wrong]) => wrong).sort();
  details.hidden = !missing.length;
  details.querySelector("summary").textContent = `${missing.length} of ${members.size} members do not answer`;
  details.querySelector("ul").replaceChildren(
    ...missing.slice(0, MOST_PAIRS).map(([name, wrong]) => {
      const item = document.createElement("li");
      item.textContent = `${name}: ${wrong}`;
      return item;
    }),
  );
}
