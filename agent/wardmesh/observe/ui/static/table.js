// SPDX-License-Identifier: Apache-2.0
// The table of flows, the newest on top. Whatever comes from the network becomes text, never markup.

export const MOST_ROWS = 500;
const SIGNS = { forwarded: "\u2713", dropped: "\u2715", audited: "\u25d0" };

export class FlowTable {
  constructor(body, empty) {
    this.body = body;
    this.empty = empty;
  }

  clear() {
    this.body.replaceChildren();
    this.empty.hidden = false;
  }

  // rows: the oldest first.
  add(rows) {
    if (!rows.length) return;
    const fresh = document.createDocumentFragment();
    for (let at = rows.length - 1; at >= 0; at -= 1) fresh.append(lineOf(rows[at]));
    this.body.prepend(fresh);
    while (this.body.rows.length > MOST_ROWS) this.body.deleteRow(-1);
    this.empty.hidden = true;
  }

  get count() {
    return this.body.rows.length;
  }
}

function lineOf(row) {
  const line = document.createElement("tr");
  line.className = row.outcome;
  line.dataset.number = row.number;
  const time = cell(line, clock(row.time));
  time.title = new Date(row.time).toISOString();
  named(cell(line, row.from), row.fromAddress);
  named(cell(line, row.to), row.toAddress);
  cell(line, row.port);
  cell(line, `${SIGNS[row.outcome]} ${row.verdict}`, "outcome");
  cell(line, row.encrypted ? "encrypted" : "plain", row.encrypted ? "encrypted" : "plain");
  cell(line, row.kind);
  cell(line, row.policies);
  cell(line, row.reason);
  cell(line, row.node);
  return line;
}

function cell(line, text, kind = "") {
  const made = document.createElement("td");
  made.textContent = text;
  if (kind) made.className = kind;
  line.append(made);
  return made;
}

function named(made, address) {
  const small = document.createElement("small");
  small.textContent = ` ${address}`;
  made.append(small);
}

const two = (number) => String(number).padStart(2, "0");

function clock(time) {
  const at = new Date(time);
  const milli = String(at.getMilliseconds()).padStart(3, "0");
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}.${milli}`;
}
