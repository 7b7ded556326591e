// SPDX-License-Identifier: Apache-2.0
// The filters: a form, what was picked on the map, and the address line, which can be shared.

const FORM = ["host", "label", "verdict", "tunnel", "group"];
const PICKED = ["from", "to", "fromLabel", "toLabel", "port"];
const TYPING = 350; // ms of silence after which what is being typed counts

export class Filters {
  constructor(form, picked, changed) {
    this.form = form;
    this.picked = picked;
    this.changed = changed;
    this.timer = 0;
    form.addEventListener("input", () => {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.#fromForm(), TYPING);
    });
    form.addEventListener("change", () => this.#fromForm());
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#fromForm();
    });
    form.querySelector("#clear").addEventListener("click", () => this.set({}, true));
    window.addEventListener("popstate", () => this.#fromAddress());
    this.#fromAddress(false);
  }

  // What the server is asked with.
  query() {
    const { group, ...rest } = this.values;
    return rest;
  }

  get group() {
    return this.values.group || "";
  }

  get narrow() {
    return Object.keys(this.query()).length > 0;
  }

  // Replaces every filter; step: one that the browser's way back undoes.
  set(values, step) {
    clearTimeout(this.timer);
    const kept = Object.fromEntries(
      [...FORM, ...PICKED].filter((name) => values[name]).map((name) => [name, values[name]]),
    );
    if (JSON.stringify(kept) === JSON.stringify(this.values)) return;
    this.values = kept;
    this.#show();
    const text = new URLSearchParams(kept).toString();
    history[step ? "pushState" : "replaceState"](null, "", text ? `?${text}` : location.pathname);
    this.changed();
  }

  // What was picked on the map, beside the form's own.
  pick(values) {
    const base = Object.fromEntries(Object.entries(this.values).filter(([name]) => !PICKED.includes(name)));
    this.set({ ...base, ...values }, true);
  }

  #fromForm() {
    const values = Object.fromEntries(PICKED.map((name) => [name, this.values[name]]));
    for (const name of FORM) values[name] = this.form.elements[name].value.trim();
    this.set(values, false);
  }

  #fromAddress(tell = true) {
    const given = new URLSearchParams(location.search);
    this.values = {};
    for (const name of [...FORM, ...PICKED]) if (given.get(name)) this.values[name] = given.get(name);
    this.#show();
    if (tell) this.changed();
  }

  #show() {
    for (const name of FORM) {
      const field = this.form.elements[name];
      const value = this.values[name] || "";
      if (field.tagName === "SELECT" && ![...field.options].some((option) => option.value === value)) {
        field.add(new Option(value, value));
      }
      if (field.value !== value) field.value = value;
    }
    const words = PICKED.filter((name) => this.values[name]).map((name) => `${name} ${this.values[name]}`);
    this.picked.textContent = words.join(", ");
  }
}
