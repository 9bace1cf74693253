// A file of prompts, routed one by one and counted: one prompt a line, or JSON lines with text and perhaps a domain.

import { json } from "./api.js";
import { Bars, chip, GENERAL, ordered } from "./domains.js";
import { h, percent, plural, replace } from "./dom.js";

const MOST = 5000;
const SHOWN = 200;
const AT_ONCE = 6;

export function tallyForm() {
  const text = h("textarea", { id: "prompts", rows: 6, spellcheck: "false", "aria-describedby": "prompts-hint" });
  const file = h("input", { type: "file", id: "prompts-file", accept: ".txt,.jsonl,.json,.csv,text/plain", onchange: async () => {
    if (file.files[0]) text.value = await file.files[0].text();
  } });
  const stop = h("button", { type: "button", id: "tally-stop", hidden: true, onclick: () => running?.abort() }, "Stop");
  const start = h("button", { type: "submit", class: "primary", id: "tally" }, "Route them");
  const result = h("div", { class: "tally" });
  let running = null;

  async function submit(event) {
    event.preventDefault();
    if (running) return;
    running = new AbortController();
    stop.hidden = false;
    start.disabled = true;
    try {
      await route(parse(text.value), result, running.signal);
    } catch (error) {
      replace(result, h("p", { class: "problem", role: "alert" }, error.message));
    }
    running = null;
    stop.hidden = true;
    start.disabled = false;
  }

  return h(
    "form",
    { class: "panel", onsubmit: submit },
    h("h3", {}, "Where a file of prompts goes"),
    h("label", { for: "prompts" }, "Prompts"),
    text,
    h("p", { class: "hint", id: "prompts-hint" }, 'One a line, or JSON lines: {"text": "…"}, {"messages": […]}, with "domain" where you know the right one.'),
    h("div", { class: "actions" }, h("label", { class: "file" }, "From a file ", file), h("span", { class: "gap" }), stop, start),
    result,
  );
}

// -> [{messages, text, domain}]. Throws where a JSON line cannot be read.
export function parse(source) {
  const lines = source.split("\n").map((line) => line.trim()).filter(Boolean);
  if (!lines.length) throw new Error("Paste some prompts first.");
  if (lines.length > MOST) throw new Error(`${plural(lines.length, "prompt")} are too many for this page; it takes ${MOST.toLocaleString("en")}.`);
  return lines.map((line, index) => {
    if (!line.startsWith("{")) return { text: line, messages: [{ role: "user", content: line }] };
    let row;
    try {
      row = JSON.parse(line);
    } catch {
      throw new Error(`Line ${index + 1} begins like JSON but is none.`);
    }
    const said = row.text ?? row.prompt;
    const messages = Array.isArray(row.messages) ? row.messages : [{ role: "user", content: said }];
    if (!Array.isArray(row.messages) && typeof said !== "string") throw new Error(`Line ${index + 1} has neither text, prompt nor messages.`);
    return { text: said ?? String(messages.at(-1)?.content ?? ""), messages, domain: row.domain };
  });
}

async function route(prompts, place, signal) {
  const bars = new Bars("Prompts by the domain that would answer");
  const progress = h("p", { role: "status", class: "outcome" });
  const rows = h("tbody", {});
  const table = h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Prompts and where they go" },
    h("table", { class: "tally-table" }, h("thead", {}, h("tr", {}, ["Goes to", "Sure", "Reason", "Right", "Prompt"].map((name) => h("th", { scope: "col" }, name)))), rows));
  replace(place, progress, bars.element, table);
  const count = { done: 0, abstained: 0, known: 0, right: 0, microseconds: [] };
  const served = {};
  let next = 0;
  const worker = async () => {
    while (next < prompts.length && !signal.aborted) {
      const prompt = prompts[next++];
      const found = await decide(prompt, signal);
      if (!found) return;
      note(prompt, found, count, served, rows);
      if (count.done % 20 === 0 || count.done === prompts.length) say(progress, bars, count, served, prompts.length);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  say(progress, bars, count, served, prompts.length);
}

// The decision; null once stopped. Waits where a key's limit says so.
async function decide({ messages }, signal) {
  for (;;) {
    try {
      return await json("v1/route", { method: "POST", body: { messages }, signal });
    } catch (error) {
      if (error.name === "AbortError") return null;
      if (error.status !== 429) throw error;
      await new Promise((resolve) => setTimeout(resolve, 1000 * (error.retryAfter || 1)));
      if (signal.aborted) return null;
    }
  }
}

function note(prompt, found, count, served, rows) {
  const to = found.abstained ? GENERAL : found.domain;
  served[to] = (served[to] ?? 0) + 1;
  count.done += 1;
  count.abstained += found.abstained;
  count.microseconds.push(found.microseconds);
  let right = "";
  if (prompt.domain) {
    count.known += 1;
    count.right += found.domain === prompt.domain;
    right = found.domain === prompt.domain ? "yes" : h("span", { class: "bad" }, `no: ${prompt.domain}`);
  }
  if (rows.rows.length < SHOWN) {
    const cells = [chip(to), percent(found.confidence), found.reason, right, h("span", { class: "said" }, prompt.text)];
    rows.append(h("tr", {}, cells.map((cell) => h("td", {}, cell))));
  }
}

function say(progress, bars, count, served, all) {
  const names = ordered(Object.keys(served));
  const numbers = Object.fromEntries(names.map((name) => [name, `${served[name].toLocaleString("en")} · ${percent(served[name] / count.done)}`]));
  bars.update(Object.fromEntries(names.map((name) => [name, served[name]])), { highest: Math.max(...Object.values(served), 1), numbers });
  const middle = [...count.microseconds].sort((a, b) => a - b)[Math.floor(count.done / 2)];
  const parts = [`${count.done.toLocaleString("en")} of ${plural(all, "prompt")} routed`];
  if (count.done) parts.push(`${percent(count.abstained / count.done)} abstained`, `${Math.round(middle)} µs each at the median`);
  if (count.known) parts.push(`right domain for ${percent(count.right / count.known)} of ${count.known.toLocaleString("en")} labelled`);
  if (count.done === all && all > SHOWN) parts.push(`the first ${SHOWN} are listed`);
  progress.textContent = `${parts.join("; ")}.`;
}
