// Adapters: every version with its phase, and what can be done to it. Each action asks first (action.js).

import { json, onKeys } from "./api.js";
import { act, routedAs, risen } from "./action.js";
import { form, knownDomains } from "./add.js";
import { chip, GENERAL, paint } from "./domains.js";
import { h, percent, plural, replace } from "./dom.js";
import { keyNotice } from "./notice.js";

const POLL_MS = 1500;
const ROUTABLE = ["ready", "serving", "draining", "retired"];

let page = null;
let timer = 0;
let seen = "";
let visible = false;

export function build(panel) {
  page = { notice: h("div", {}), content: h("div", { class: "grid", hidden: true }), list: h("div", { class: "adapters" }) };
  page.content.append(page.list, form(refresh));
  panel.append(h("h2", { class: "unseen" }, "Adapters"), page.notice, page.content);
  onKeys(() => {
    if (visible) refresh();
  });
}

export function show() {
  visible = true;
  refresh();
}

export function hide() {
  visible = false;
  clearTimeout(timer);
}

async function refresh() {
  clearTimeout(timer);
  try {
    const { adapters } = await json("admin/adapters");
    page.content.hidden = false;
    replace(page.notice);
    knownDomains(await json("admin/router"));
    render(adapters);
  } catch (error) {
    page.content.hidden = error.refused || page.content.hidden;
    replace(page.notice, keyNotice(error, "To show and change adapters"));
    if (error.refused) return;
  }
  if (visible) timer = setTimeout(refresh, POLL_MS);
}

// Anew only where something changed, with the focus kept where it was.
function render(adapters) {
  const now = JSON.stringify(adapters);
  if (now === seen) return;
  seen = now;
  const focused = page.list.contains(document.activeElement) ? document.activeElement.id : "";
  const open = new Set([...page.list.querySelectorAll("details[open]")].map((element) => element.id));
  replace(page.list, adapters.length ? adapters.map((adapter) => card(adapter, open)) : h("p", { class: "notice" }, "There is no adapter yet. Add one below."));
  if (focused) document.getElementById(focused)?.focus();
}

function card(adapter, open) {
  const { name, domain, versions } = adapter;
  const shown = versions.filter((version) => version.phase !== "retired" || version.version in adapter.previous);
  const rest = versions.filter((version) => !shown.includes(version));
  const id = `older-${name}`;
  return paint(
    h(
      "article",
      { class: "adapter panel", "data-adapter": name, "aria-labelledby": `name-${name}` },
      h(
        "header",
        { class: "heading" },
        h("h3", { id: `name-${name}` }, chip(domain ?? name, name)),
        h("span", { class: "hint" }, domain ? `answers the domain ${domain}` : "of no domain: only where it is asked for by name"),
        adapter.removing ? h("span", { class: "phase draining" }, "being removed") : null,
        h("span", { class: "gap" }),
        Object.keys(adapter.previous).length && !adapter.removing
          ? button("Roll back", `rollback-${name}`, () => rollBack(adapter))
          : null,
        adapter.removing ? null : button("Remove", `remove-${name}`, () => removeAdapter(adapter), "quiet"),
      ),
      shares(adapter),
      table(adapter, shown),
      rest.length
        ? h("details", { id, ...(open.has(id) ? { open: true } : {}) }, h("summary", {}, `${plural(rest.length, "older version")}`), table(adapter, rest))
        : null,
    ),
    domain ?? GENERAL,
  );
}

// The route as a bar, where it is shared.
function shares({ name, route }) {
  const total = Object.values(route).reduce((sum, weight) => sum + weight, 0);
  if (Object.keys(route).length < 2) return null;
  const texts = Object.entries(route).map(([version, weight]) => `${version} ${percent(weight / total)}`);
  const parts = Object.values(route).map((weight) => {
    const part = h("span", { class: "share" });
    part.style.flexGrow = weight;
    return part;
  });
  return h("div", { class: "shares", role: "img", "aria-label": `Route of ${name}: ${texts.join(", ")}` },
    h("div", { class: "track" }, parts), h("div", { class: "ends" }, texts.map((text) => h("span", {}, text))));
}

function table(adapter, versions) {
  return h(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": `Versions of ${adapter.name}` },
    h(
      "table",
      { class: "versions" },
      h("thead", { class: "unseen" }, h("tr", {}, ["Version", "Phase", "Share", "Engines", "Running", "Since", "Do"].map((text) => h("th", { scope: "col" }, text)))),
      h("tbody", {}, versions.map((version) => row(adapter, version))),
    ),
  );
}

function row(adapter, version) {
  const { version: digest, phase, reason } = version;
  const cells = [
    h("code", {}, digest),
    h("span", {}, h("span", { class: `phase ${phase}` }, phase), reason ? h("span", { class: phase === "failed" ? "problem" : "hint" }, reason) : null),
    version.weight ? h("b", {}, percent(version.weight / Object.values(adapter.route).reduce((sum, weight) => sum + weight, 0))) : "–",
    version.engines.length ? `on ${plural(version.engines.length, "engine")}` : "on no engine",
    `${version.in_flight} running`,
    h("time", { datetime: version.since, title: version.since }, new Date(version.since).toLocaleString("en-GB", { dateStyle: "short", timeStyle: "medium" })),
    h("span", { class: "row-actions" }, actions(adapter, version)),
  ];
  return h("tr", { "data-version": digest, "data-phase": phase }, cells.map((cell) => h("td", {}, cell)));
}

function actions(adapter, version) {
  const { version: digest, phase } = version;
  if (adapter.removing || version.removing) return [];
  const id = `${adapter.name}-${digest}`;
  const alone = Object.keys(adapter.desired).length === 1 && digest in adapter.desired;
  const found = [];
  if (ROUTABLE.includes(phase) && !alone) {
    found.push(button("Promote", `promote-${id}`, () => promote(adapter, digest), "primary"));
    if (main(adapter, digest) && !leads(adapter, digest)) found.push(button("Canary", `canary-${id}`, () => canary(adapter, digest)));
  }
  if (!(digest in adapter.desired) && !(adapter.target && digest in adapter.target)) {
    found.push(button("Remove", `drop-${id}`, () => removeVersion(adapter, digest), "quiet"));
  }
  return found;
}

// The version that a canary takes its share from: the heaviest other one.
function main({ desired }, digest) {
  const others = Object.entries(desired).filter(([version]) => version !== digest);
  return others.sort((a, b) => b[1] - a[1])[0]?.[0];
}

function leads(adapter, digest) {
  return (adapter.desired[digest] ?? 0) > adapter.desired[main(adapter, digest)];
}

function button(text, id, onclick, kind = "") {
  const about = id.split("-").slice(1).join(" ");
  return h("button", { type: "button", class: `small ${kind}`, id, onclick, "aria-label": `${text} ${about}` }, text);
}

const path = (name, ...more) => ["admin/adapters", encodeURIComponent(name), ...more].join("/");

function promote({ name, desired }, digest) {
  return act({
    title: `Promote ${name}@${digest}?`,
    text: `Every request for ${name} then goes to it. Running answers end on the version they began with. ${served(desired)}`,
    verb: "Promote",
    adapter: name,
    send: () => ["PUT", path(name, "route"), { weights: { [digest]: 100 } }],
    done: (now) => routedAs(now, { [digest]: 100 }) || risen(now, digest),
    version: digest,
    after: refresh,
  });
}

function canary(adapter, digest) {
  const { name, desired } = adapter;
  const other = main(adapter, digest);
  const share = Math.round((100 * (desired[digest] ?? 0)) / Object.values(desired).reduce((sum, weight) => sum + weight, 0)) || 5;
  const text = h("output", { for: "canary-share" });
  const slider = h("input", { type: "range", id: "canary-share", min: 1, max: 99, value: share, oninput: say });
  const weights = () => ({ [other]: 100 - Number(slider.value), [digest]: Number(slider.value) });
  function say() {
    replace(text, h("b", {}, `${slider.value} %`), ` to ${digest}, ${100 - slider.value} % to ${other}`);
    slider.setAttribute("aria-valuetext", text.textContent);
  }
  say();
  return act({
    title: `A share of ${name} for ${digest}?`,
    text: "A conversation always stays with one version. A canary that fails more often than the other is taken out by itself.",
    extra: h("div", { class: "slider" }, h("label", { for: "canary-share" }, "Share of the conversations"), slider, text),
    verb: "Share",
    adapter: name,
    send: () => ["PUT", path(name, "route"), { weights: weights() }],
    done: (now) => routedAs(now, weights()) || risen(now, digest),
    version: digest,
    after: refresh,
  });
}

function rollBack({ name, previous, desired, target }) {
  const back = target ? desired : previous;
  return act({
    title: `Roll ${name} back?`,
    text: target ? "The change that is still under way is called off." : `It goes back to ${listed(back)}. ${served(desired)}`,
    verb: "Roll back",
    adapter: name,
    send: () => ["POST", path(name, "rollback")],
    done: (now) => routedAs(now, back) || risen(now, Object.keys(back)[0]),
    version: Object.keys(back)[0],
    after: refresh,
  });
}

function removeVersion({ name }, digest) {
  return act({
    title: `Remove ${name}@${digest}?`,
    text: "Once no request and no engine uses it, its files are deleted. It can then no longer be rolled back to.",
    verb: "Remove",
    danger: true,
    adapter: name,
    send: () => ["DELETE", path(name, "versions", digest)],
    done: (now) => !now?.versions.some((version) => version.version === digest),
    version: digest,
    after: refresh,
  });
}

function removeAdapter({ name, domain, versions }) {
  return act({
    title: `Remove ${name}?`,
    text: `It is out of service at once${domain ? `, and the base answers the domain ${domain}` : ""}. Once they have drained, the files of ${plural(versions.length, "version")} are deleted.`,
    verb: "Remove",
    danger: true,
    adapter: name,
    send: () => ["DELETE", path(name)],
    done: (now) => now === null,
    after: refresh,
  });
}

function served(desired) {
  return Object.keys(desired).length ? `Now: ${listed(desired)}.` : "Now it serves nothing.";
}

function listed(weights) {
  const entries = Object.entries(weights);
  return entries.length === 1 ? entries[0][0] : entries.map(([version, weight]) => `${version} ${weight}`).join(", ");
}
