// SPDX-License-Identifier: Apache-2.0
// The service map: keeps the library's graph as it should be, and says what was clicked.

import cytoscape from "./cytoscape.esm.min.mjs";
import { FEW, FORCES, discs, onCircle, stretch } from "./layout.js";
import { looks } from "./looks.js";
import { flowsOf, portsText } from "./store.js";

const FEW_EDGES = 300; // more have neither curves nor words of their own
const STEP = 60; // pixels of an arrow key

export class ServiceMap {
  // picked: called with one node, or with the two of an edge.
  constructor(container, hover, picked) {
    this.nodes = new Map();
    this.moved = false;
    this.shape = "";
    this.scale = { x: 1, y: 1 }; // of a small map
    this.cy = cytoscape({
      container,
      style: looks(),
      minZoom: 0.02,
      maxZoom: 4,
      pixelRatio: 1,
      hideEdgesOnViewport: true,
      textureOnViewport: true,
      boxSelectionEnabled: false,
      autounselectify: true,
    });
    this.cy.on("dragpan scrollzoom pinchzoom", () => { this.moved = true; });
    this.cy.on("tap", "node", (event) => this.#tapped(event.target.id(), picked));
    this.cy.on("tap", "edge", (event) => {
      picked(this.nodes.get(event.target.source().id()), this.nodes.get(event.target.target().id()));
    });
    this.cy.on("mouseover", "node, edge", (event) => {
      event.target.addClass("over");
      hover.textContent = event.target.data("words") || "";
    });
    this.cy.on("mouseout", "node, edge", (event) => event.target.removeClass("over"));
    container.addEventListener("keydown", (event) => this.#key(event));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.cy.style(looks()));
    const resized = () => { if (!this.moved) this.fit(); };
    new ResizeObserver(() => requestAnimationFrame(resized)).observe(container);
  }

  draw(graph) {
    this.nodes = new Map(graph.nodes.map((node) => [node.id, node]));
    const few = graph.edges.length <= FEW_EDGES;
    const fresh = []; // added at once: one by one takes many times as long
    this.cy.batch(() => {
      const wanted = new Set([...graph.nodes, ...graph.edges].map((item) => item.id));
      this.cy.elements().filter((item) => !item.hasClass("title") && !wanted.has(item.id())).remove();
      graph.nodes.forEach((node, at) => this.#node(node, () => onCircle(at, graph.nodes.length), fresh));
      graph.edges.forEach((edge) => this.#edge(edge, few, fresh));
      this.cy.add(fresh);
    });
    this.#place(graph);
  }

  fit() {
    this.moved = false;
    this.cy.resize();
    this.cy.fit(undefined, 24);
    if (this.cy.zoom() > 1.6) {
      this.cy.zoom(1.6);
      this.cy.center();
    }
  }

  #node(node, place, fresh) {
    const hosts = node.kind === "group" ? ` (${node.hosts.size})` : "";
    const wrong = node.wrong ? ` \u26a0${node.kind === "group" ? node.wrong : ""}` : "";
    const title = `${node.title}${hosts}${wrong}`;
    const words = node.wrong ? `${node.title}: ${node.wrong} of its members do not answer` : title;
    const kinds = [node.kind, node.wrong ? "wrong" : "well"].join(" ");
    const known = this.cy.getElementById(node.id);
    if (known.empty()) {
      fresh.push({ group: "nodes", data: { id: node.id, title, words }, classes: kinds, position: place() });
    } else update(known, { title, words }, kinds);
  }

  #edge(edge, few, fresh) {
    const count = flowsOf(edge);
    const [left, right] = [this.nodes.get(edge.source), this.nodes.get(edge.target)];
    const data = {
      ports: portsText(edge, 3),
      width: 1 + Math.min(4, Math.log10(count + 1)),
      words: `${left.title} \u2192 ${right.title}: ${portsText(edge, 12)}; ${edge.kind}; ${edge.forwarded} forwarded, `
        + `${edge.dropped} dropped, ${edge.audited} audited`,
    };
    const kinds = `${edge.kind} ${few ? "few" : "many"}`;
    const known = this.cy.getElementById(edge.id);
    if (known.empty()) {
      const { id, source, target } = edge;
      fresh.push({ group: "edges", data: { id, source, target, ...data }, classes: kinds });
    } else update(known, data, kinds);
  }

  // Only another set of nodes is laid out anew; of a small map, another set of edges too.
  #place(graph) {
    const small = graph.nodes.length <= FEW;
    const parts = graph.nodes.map((node) => `${node.id} ${small ? "" : node.place}`);
    if (small) parts.push(...graph.edges.map((edge) => edge.id));
    const shape = parts.sort().join("\n");
    if (shape === this.shape) return;
    this.shape = shape;
    this.cy.nodes(".title").remove();
    if (small) this.#forces();
    else this.#discs(graph.nodes);
    if (!this.moved) this.fit();
  }

  #forces() {
    const nodes = this.cy.nodes();
    const by = (x, y) => nodes.positions((node) => ({ x: node.position("x") * x, y: node.position("y") * y }));
    by(1 / this.scale.x, 1 / this.scale.y);
    this.cy.layout(FORCES).run();
    this.scale = stretch(nodes, this.cy.width(), this.cy.height());
    by(this.scale.x, this.scale.y);
  }

  #discs(nodes) {
    const { places, titles } = discs(nodes, this.cy.width() / Math.max(1, this.cy.height()));
    this.cy.batch(() => {
      for (const [id, position] of places) this.cy.getElementById(id).position(position);
      titles.forEach(({ title, size, x, y }) => {
        this.cy.add({ group: "nodes", data: { id: `title ${title}`, title, size }, classes: "title", position: { x, y } });
      });
    });
  }

  #tapped(id, picked) {
    const node = this.nodes.get(id);
    if (node) picked(node);
  }

  #key(event) {
    const moves = { ArrowLeft: [STEP, 0], ArrowRight: [-STEP, 0], ArrowUp: [0, STEP], ArrowDown: [0, -STEP] };
    const zooms = { "+": 1.25, "=": 1.25, "-": 0.8 };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (moves[event.key]) {
      this.cy.panBy({ x: moves[event.key][0], y: moves[event.key][1] });
      this.moved = true;
    } else if (zooms[event.key]) {
      const middle = { x: this.cy.width() / 2, y: this.cy.height() / 2 };
      this.cy.zoom({ level: this.cy.zoom() * zooms[event.key], renderedPosition: middle });
      this.moved = true;
    } else if (event.key === "0") this.fit();
    else return;
    event.preventDefault();
  }
}

// Only what differs is said to the library, for it computes every style anew that it is told of.
function update(item, data, kinds) {
  if (Object.keys(data).some((name) => item.data(name) !== data[name])) item.data(data);
  if (kinds.split(" ").filter(Boolean).some((kind) => !item.hasClass(kind))) item.classes(kinds);
}
