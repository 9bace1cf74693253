// Live: answers as they are given, from the gateway's feed.

import { events, onKeys, request } from "./api.js";
import { Bars, chip, GENERAL, ordered, paint, versionName } from "./domains.js";
import { duration, h, percent, plural, replace } from "./dom.js";
import { histogram, median } from "./histogram.js";
import { keyNotice } from "./notice.js";

const ROWS = 40;
const AGAIN_MS = 2000;
// Arms of the overhead: with TinyAda, and without it.
const ON = ["routed"];
const OFF = ["bypass", "explicit"];

let page = null;
let abort = null;
let paused = false;
let held = 0;

export function build(panel) {
  page = {
    notice: h("div", {}),
    content: h("div", { class: "grid", hidden: true }),
    connection: h("span", { class: "readiness", role: "status", id: "feed" }),
    figures: h("dl", { class: "figures" }),
    shares: new Bars("Share of each domain in TinyAda's decisions"),
    sharesNote: h("p", { class: "hint" }),
    overhead: h("div", {}),
    engines: h("div", { class: "engines" }),
    rows: h("tbody", {}),
    pause: h("button", { type: "button", class: "quiet", id: "pause", "aria-pressed": "false", onclick: pause }, "Pause"),
    prompts: h("p", { class: "hint" }),
  };
  page.headings = h("tr", {});
  page.content.append(
    page.figures,
    h("section", { class: "panel half" }, h("h3", {}, "Who is asked for"), page.shares.element, page.sharesNote),
    h("section", { class: "panel half" }, h("h3", {}, "What the gateway adds to a request"), page.overhead),
    h("section", { class: "panel" }, h("h3", {}, "Engines"), page.engines),
    h(
      "section",
      { class: "panel" },
      h("div", { class: "heading" }, h("h3", {}, "Answers"), page.connection, h("span", { class: "gap" }), page.pause),
      page.prompts,
      h(
        "div",
        { class: "scroll", tabindex: 0, role: "region", "aria-label": "Answers as they are given" },
        h("table", { class: "answers-table" }, h("thead", {}, page.headings), page.rows),
      ),
    ),
  );
  panel.append(h("h2", { class: "unseen" }, "Live"), page.notice, page.content);
  onKeys(() => {
    if (!panel.hidden) show();
  });
}

export function show() {
  hide();
  abort = new AbortController();
  follow(abort.signal);
}

export function hide() {
  abort?.abort();
  abort = null;
}

async function follow(signal) {
  while (!signal.aborted) {
    try {
      const response = await request("admin/feed", { signal });
      page.content.hidden = false;
      replace(page.notice);
      connected(true);
      for await (const { event, data } of events(response)) {
        if (signal.aborted) return;
        ({ hello, state, answer })[event]?.(JSON.parse(data));
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error.refused) {
        page.content.hidden = true;
        replace(page.notice, keyNotice(error, "To watch what happens"));
        return;
      }
      if (page.content.hidden) replace(page.notice, keyNotice(error, ""));
    }
    connected(false);
    await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
  }
}

function connected(on) {
  page.connection.textContent = on ? "connected" : "connection lost, trying again";
  page.connection.classList.toggle("good", on);
}

function hello({ prompts }) {
  const names = ["Time", "Domain", "Sure", "Answered by", "Reason", "TinyAda", "Gateway", "First byte", "In all", "Status"];
  if (prompts) names.push("Prompt");
  page.headings.replaceChildren(...names.map((name) => h("th", { scope: "col" }, name)));
  page.prompts.textContent = prompts
    ? "This gateway shows administrators how the users' last turns begin (console.prompts)."
    : "Without the users' words; console.prompts = true in the gateway's configuration would show how they begin.";
}

function state({ engines, phases, decisions, overhead, dropped }) {
  const counts = {};
  let abstained = 0;
  for (const [domain, reasons] of Object.entries(decisions)) {
    for (const [reason, count] of Object.entries(reasons)) {
      const to = reason === "abstained" ? GENERAL : domain;
      counts[to] = (counts[to] ?? 0) + count;
      if (reason === "abstained") abstained += count;
    }
  }
  const total = Object.values(counts).reduce((sum, count) => sum + count, 0);
  const names = ordered(Object.keys(counts));
  const shares = Object.fromEntries(names.map((name) => [name, counts[name] / total]));
  const numbers = Object.fromEntries(names.map((name) => [name, `${percent(shares[name])} · ${counts[name].toLocaleString("en")}`]));
  page.shares.update(shares, { highest: Math.max(...Object.values(shares), 0), numbers });
  page.sharesNote.textContent = total
    ? `${plural(total, "decision")} since the gateway began; in ${abstained.toLocaleString("en")} of them TinyAda abstained and the base answered.`
    : "TinyAda has decided nothing yet. Ask something on the Try tab.";
  const on = sum(overhead, ON);
  const off = sum(overhead, OFF);
  replace(page.overhead, histogram(overhead.bounds.map((bound) => bound * 1000), on, off));
  showFigures(engines, on, off, overhead.bounds, total, dropped);
  replace(page.engines, engines.map((engine) => engineView(engine, phases)));
}

function sum({ bounds, arms }, names) {
  const zero = new Array(bounds.length + 1).fill(0);
  return names.reduce((counts, name) => counts.map((count, i) => count + (arms[name]?.[i] ?? 0)), zero);
}

function showFigures(engines, on, off, bounds, decided, dropped) {
  const ready = engines.filter((engine) => engine.ready).length;
  const inFlight = engines.reduce((count, engine) => count + engine.in_flight, 0);
  const [with_, without] = [median(bounds, on), median(bounds, off)];
  const figures = [
    ["decisions", decided.toLocaleString("en")],
    ["running now", inFlight.toLocaleString("en")],
    ["engines ready", `${ready} of ${engines.length}`],
    ["gateway, TinyAda on", with_ === null ? "–" : duration(with_ * 1000)],
    ["gateway, TinyAda off", without === null ? "–" : duration(without * 1000)],
  ];
  if (dropped) figures.push(["missed here", dropped.toLocaleString("en")]);
  replace(page.figures, figures.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

function engineView(engine, phases) {
  const text = engine.ready ? "ready" : engine.up ? "up, not ready" : "down";
  const held = engine.capacity === null ? plural(engine.adapters.length, "adapter") : `${engine.adapters.length} of ${engine.capacity} adapters`;
  return h(
    "div",
    { class: "engine" },
    h("p", { class: "heading" }, h("span", { class: `readiness ${engine.ready ? "good" : "bad"}` }, text), h("code", {}, engine.url),
      h("span", { class: "hint" }, `${held}, ${plural(engine.in_flight, "request")} running`)),
    h(
      "ul",
      { class: "held" },
      engine.adapters.map(({ name, in_flight }) => {
        const [adapter] = name.split("@");
        const item = h("li", {}, h("i", { class: "swatch", "aria-hidden": "true" }), versionName(name),
          h("span", { class: "phase" }, adapter === "zero" ? "the base" : (phases[name] ?? "unknown")),
          in_flight ? h("b", {}, `${in_flight} running`) : null);
        return paint(item, adapter === "zero" ? GENERAL : adapter);
      }),
    ),
    Object.entries(engine.refusals).map(([name, reason]) => h("p", { class: "problem" }, h("b", {}, name), ` refused: ${reason}`)),
  );
}

function answer(line) {
  if (paused) {
    held += 1;
    page.pause.textContent = `Go on (${held} held back)`;
    return;
  }
  const stages = line.stages ?? {};
  const cells = [
    new Date(line.time * 1000).toLocaleTimeString("en-GB"),
    line.served ? chip(line.served) : "–",
    line.confidence ? percent(line.confidence) : "–",
    versionName(line.adapter),
    line.reason,
    line.microseconds ? duration(line.microseconds / 1000) : "–",
    line.overhead ? duration(line.overhead) : "–",
    stages.engine ? duration(stages.engine) : "–",
    duration(line.total ?? 0),
    h("span", { class: line.status < 400 ? "" : "bad" }, String(line.status)),
  ];
  if (line.prompt !== undefined) cells.push(h("span", { class: "said" }, line.prompt));
  page.rows.prepend(h("tr", { "data-request": line.request_id }, cells.map((cell) => h("td", {}, cell))));
  while (page.rows.rows.length > ROWS) page.rows.lastElementChild.remove();
}

function pause() {
  paused = !paused;
  held = 0;
  page.pause.setAttribute("aria-pressed", String(paused));
  page.pause.textContent = paused ? "Go on" : "Pause";
}
