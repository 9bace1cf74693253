// Domains: their colours, the same everywhere, always beside their names.

import { h, hue, percent } from "./dom.js";

const HUES = { medical: 18, support: 48, legal: 85, finance: 145, sql: 185, code: 250, math: 300 };
const SPARE = [340, 120, 215, 275, 65, 165];
const given = new Map();

export const GENERAL = "general";

export function hueOf(domain) {
  if (domain in HUES) return HUES[domain];
  if (!given.has(domain)) given.set(domain, SPARE[given.size % SPARE.length]);
  return given.get(domain);
}

// Marks an element with a domain's colour; `general`, the base, has none.
export function paint(element, domain) {
  if (!domain || domain === GENERAL) {
    element.classList.add("plain");
    return element;
  }
  element.classList.remove("plain");
  return hue(element, hueOf(domain));
}

export function chip(domain, text = domain) {
  return paint(h("span", { class: "domain" }, h("i", { class: "swatch", "aria-hidden": "true" }), text), domain);
}

// `legal@3f2a9c01d7e4` with the digest set back.
export function versionName(adapter) {
  const [name, digest] = adapter.split("@");
  return h("span", { class: "version" }, name, digest ? h("span", { class: "digest" }, `@${digest}`) : null);
}

// Bars with numbers, one for each key; they keep their places, so that one sees them move.
export class Bars {
  constructor(label, format = percent) {
    this.element = h("ul", { class: "bars", "aria-label": label });
    this.format = format;
    this.rows = new Map();
  }

  // `scores`: name -> number. `highest`: what fills the track.
  update(scores, { highest = 1, best = null, numbers = null } = {}) {
    const names = Object.keys(scores);
    if (names.join() !== [...this.rows.keys()].join()) this.build(names);
    for (const name of names) {
      const { row, bar, number } = this.rows.get(name);
      bar.style.inlineSize = `${highest > 0 ? (100 * scores[name]) / highest : 0}%`;
      number.textContent = numbers ? numbers[name] : this.format(scores[name]);
      row.dataset.score = scores[name];
      row.classList.toggle("best", name === best);
    }
  }

  build(names) {
    this.rows.clear();
    this.element.replaceChildren();
    for (const name of names) {
      const bar = h("span", { class: "fill" });
      const number = h("span", { class: "number" });
      const track = h("span", { class: "track", "aria-hidden": "true" }, bar);
      const row = paint(h("li", { "data-domain": name }, h("span", { class: "name" }, name), track, number), name);
      this.rows.set(name, { row, bar, number });
      this.element.append(row);
    }
  }
}

// Domains in reading order: by name, the base's last.
export function ordered(names) {
  return [...names].sort((a, b) => (a === GENERAL) - (b === GENERAL) || a.localeCompare(b));
}

export function sorted(scores) {
  return Object.fromEntries(ordered(Object.keys(scores)).map((name) => [name, scores[name]]));
}
