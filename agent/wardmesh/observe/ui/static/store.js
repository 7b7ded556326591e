// SPDX-License-Identifier: Apache-2.0
// What the page knows, as the server told it; and the graph of it that is drawn.

export const pairKey = (from, to) => JSON.stringify([from, to]);
const MOST_DISCS = 40;
const WORLD = "world";
const SEVERITY = ["encrypted", "plain", "audited", "dropped"];
const SUMMED = ["forwarded", "dropped", "audited", "plain", "bytes"];

export class Store {
  constructor() {
    this.reset();
  }

  reset() {
    this.epoch = "";
    this.cursor = 0;
    this.membersVersion = -1;
    this.labels = new Map(); // name of an end to its labels
    this.edges = new Map(); // pairKey to what the server says of the pair
    this.members = new Map(); // member to what is wrong with it
    this.status = null;
  }

  // Takes one answer in; says whether the map is another one now.
  take(answer) {
    if (answer.fresh) this.reset();
    const before = this.edges.size;
    this.epoch = answer.epoch;
    this.cursor = answer.cursor;
    this.status = answer.status;
    for (const node of answer.nodes) this.labels.set(node.name, node.labels);
    for (const edge of answer.edges) this.edges.set(pairKey(edge.from, edge.to), edge);
    for (const [key, edge] of this.edges) if (edge.changed < answer.oldestEdge) this.edges.delete(key);
    this.#forgetEnds();
    if (answer.members) {
      this.membersVersion = answer.membersVersion;
      this.members = new Map(Object.entries(answer.members).map(([name, wrong]) => [shortName(name), wrong]));
    }
    return Boolean(answer.fresh || answer.edges.length || answer.members || this.edges.size !== before);
  }

  #forgetEnds() {
    const ends = new Set();
    for (const edge of this.edges.values()) ends.add(edge.from).add(edge.to);
    for (const name of this.labels.keys()) if (!ends.has(name)) this.labels.delete(name);
  }

  // Label keys that more than one host has, for choosing one.
  labelKeys() {
    const values = new Map();
    for (const labels of this.labels.values()) {
      for (const [key, value] of labels.map(splitLabel)) {
        if (!values.has(key)) values.set(key, new Map());
        values.get(key).set(value, (values.get(key).get(value) || 0) + 1);
      }
    }
    return values;
  }

  // The key by which many hosts are laid out where nobody chose one: the one that tells most of them apart, within reason.
  naturalKey() {
    let best = "";
    let most = 1;
    for (const [key, values] of this.labelKeys()) {
      if (key.includes("cluster") || key.includes("node-name") || key === "node") continue;
      if (values.size > most && values.size <= MOST_DISCS) [best, most] = [key, values.size];
    }
    return best;
  }

  // Nodes and edges to draw. group: a label key, or "" for hosts; idle: also members without a connection.
  graph(group, idle) {
    const nodes = new Map();
    const edges = new Map();
    const arrange = group || this.naturalKey();
    const nodeOf = (name) => {
      const value = labelOf(this.labels.get(name), arrange);
      const grouped = Boolean(group) && name !== WORLD;
      const id = grouped ? groupId(group, value) : `host ${name}`;
      if (!nodes.has(id)) nodes.set(id, newNode(id, name, grouped, group, arrange, value));
      const node = nodes.get(id);
      node.hosts.add(name);
      if (this.members.get(name)) node.wrong += 1;
      return id;
    };
    const known = new Map();
    const idOf = (name) => {
      if (!known.has(name)) known.set(name, nodeOf(name));
      return known.get(name);
    };
    for (const edge of this.edges.values()) addEdge(edges, idOf(edge.from), idOf(edge.to), edge);
    if (idle && !group) for (const name of this.members.keys()) idOf(name);
    return { nodes: [...nodes.values()], edges: [...edges.values()] };
  }
}

const shortName = (name) => name.slice(name.lastIndexOf("/") + 1);
const groupId = (key, value) => `group ${JSON.stringify([key, value])}`;

// source:key=value to key and value; the source is left out, as people write selectors.
export function splitLabel(label) {
  const at = label.indexOf("=");
  const name = at < 0 ? label : label.slice(0, at);
  return [name.slice(name.indexOf(":") + 1), at < 0 ? "" : label.slice(at + 1)];
}

function labelOf(labels, key) {
  if (!labels || !key) return null;
  const found = labels.map(splitLabel).find(([name]) => name === key);
  return found ? found[1] : null;
}

function newNode(id, name, grouped, key, arrange, value) {
  const text = value === null ? `no ${key}` : `${key}=${value}`;
  return {
    id,
    name,
    kind: grouped ? "group" : name === WORLD ? WORLD : "host",
    title: grouped ? text : name,
    selector: grouped ? (value === null ? `!${key}` : `${key}=${value}`) : "",
    place: arrange && value !== null ? `${arrange}=${value}` : "",
    hosts: new Set(),
    wrong: 0,
  };
}

function addEdge(edges, source, target, edge) {
  const id = `edge ${JSON.stringify([source, target])}`;
  const known = edges.get(id);
  if (!known) {
    edges.set(id, { ...edge, id, source, target, pairs: 1 });
    return;
  }
  for (const name of SUMMED) known[name] += edge[name];
  known.ports = mergePorts(known.ports, edge.ports);
  known.morePorts += edge.morePorts;
  known.pairs += 1;
  if (SEVERITY.indexOf(edge.kind) > SEVERITY.indexOf(known.kind)) known.kind = edge.kind;
}

function mergePorts(left, right) {
  const found = new Map(left.map((item) => [item.port, { ...item }]));
  for (const item of right) {
    const known = found.get(item.port);
    if (!known) found.set(item.port, { ...item });
    else for (const name of SUMMED) known[name] += item[name];
  }
  return [...found.values()].slice(0, 32);
}

export const flowsOf = (edge) => edge.forwarded + edge.dropped + edge.audited;

export function portsText(edge, most = 4) {
  const more = Math.max(0, edge.ports.length - most) + edge.morePorts;
  const shown = edge.ports.slice(0, most).map((item) => item.port);
  return shown.join(", ") + (more > 0 ? ` +${more}` : "");
}
