// Try: a conversation on the routed model, with what was decided, why, and how long each part took.

import { json, onKeys } from "./api.js";
import { Answer } from "./answer.js";
import { Bars, chip, GENERAL, sorted, versionName } from "./domains.js";
import { duration, h, percent, replace } from "./dom.js";
import { keyNotice } from "./notice.js";

const TYPING_MS = 120;
const EXAMPLES = {
  code: "Write a Python function that finds the longest common prefix of a list of strings.",
  sql: "Write a SQL query for the three products with the most returns in each month.",
  math: "Solve for x: 5x - 3 = 2x + 12. Show your steps.",
  medical: "How much paracetamol may an adult take in one day, and when is it too much?",
  finance: "How is the interest on my savings account worked out each month?",
  legal: "Can my landlord keep the deposit because of ordinary wear and tear?",
  support: "Hi, my parcel is a week late and the tracking page shows nothing. What can I do?",
  general: "Tell me a short story about a lighthouse keeper and a fox.",
};

const models = { resolve: "zephyra-resolve", base: "zephyra", adapters: [] };
let conversation = [];
let running = null;
let typing = { timer: 0, abort: null };
let page = null;

export function build(panel) {
  page = {
    log: h("div", { class: "log", role: "log", "aria-label": "Conversation" }),
    start: h("div", { class: "start" }),
    notice: h("div", {}),
    text: h("textarea", {
      id: "prompt", rows: 4, placeholder: "Ask anything", "aria-describedby": "prompt-hint", spellcheck: "false",
    }),
    send: h("button", { type: "submit", class: "primary", id: "send" }, "Send"),
    stop: h("button", { type: "button", id: "stop", hidden: true, onclick: () => running?.abort() }, "Stop"),
    fresh: h("button", { type: "button", class: "quiet", id: "fresh", onclick: startAnew }, "New conversation"),
    several: h("input", { type: "checkbox", id: "several", onchange: showOthers }),
    others: h("fieldset", { class: "others", hidden: true }),
    limit: h("input", { type: "number", id: "limit", min: 1, max: 32768, value: 256 }),
    where: h("p", { class: "where", role: "status" }),
    bars: new Bars("Probability of each domain for what you are typing"),
  };
  const form = h(
    "form",
    { class: "composer pair", onsubmit: submit },
    h(
      "div",
      { class: "panel" },
      h("label", { for: "prompt" }, "Your prompt"),
      page.text,
      h(
        "div",
        { class: "actions" },
        h("label", { class: "switch" }, page.several, "Side by side"),
        h("label", { class: "small" }, "at most ", page.limit, " tokens"),
        h("span", { class: "gap" }),
        page.fresh,
        page.stop,
        page.send,
      ),
      page.others,
      h("p", { id: "prompt-hint", class: "hint" }, "Enter sends, Shift and Enter begins a new line."),
    ),
    h("div", { class: "evidence" }, h("h3", {}, "Where it would go"), page.where, page.bars.element),
  );
  page.text.addEventListener("input", typed);
  page.text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  panel.append(h("h2", { class: "unseen" }, "Try"), page.notice, page.start, page.log, form);
  onKeys(loadModels);
  loadModels();
  showStart();
  typed();
}

export function show() {
  // Published adapters can be compared with at once.
  loadModels();
}

async function loadModels() {
  try {
    const cards = (await json("v1/models")).data;
    const own = cards.filter((card) => !card.parent).map((card) => card.id);
    models.adapters = cards.filter((card) => card.parent);
    models.resolve = own.find((name) => name.endsWith("resolve")) ?? own[0] ?? models.resolve;
    models.base = cards.find((card) => card.parent)?.parent ?? own.find((name) => name !== models.resolve) ?? models.base;
    replace(page.notice);
  } catch (error) {
    replace(page.notice, keyNotice(error, "To talk to the models"));
  }
  const chosen = new Set(chosenOthers());
  const offered = [{ id: models.base, domain: GENERAL }, ...models.adapters];
  replace(
    page.others,
    h("legend", {}, `Beside what ${models.resolve} chooses`),
    offered.map((card) =>
      h(
        "label",
        { class: "choice" },
        h("input", { type: "checkbox", value: card.id, ...(chosen.has(card.id) || card.id === models.base ? { checked: true } : {}) }),
        chip(card.domain ?? card.id, card.id === models.base ? `${card.id} (the base)` : card.id),
      ),
    ),
  );
}

function chosenOthers() {
  return [...page.others.querySelectorAll("input:checked")].map((box) => box.value);
}

function showOthers() {
  page.others.hidden = !page.several.checked;
}

function showStart() {
  replace(
    page.start,
    h("p", { class: "lead" }, "Type a prompt. While you type, TinyAda says which expert it belongs to; then that expert answers."),
    h(
      "div",
      { class: "examples", role: "group", "aria-label": "Examples" },
      Object.entries(EXAMPLES).map(([domain, text]) =>
        h("button", { type: "button", class: "example", onclick: () => use(text) }, chip(domain), h("span", {}, text)),
      ),
    ),
  );
}

function use(text) {
  page.text.value = text;
  page.text.focus();
  typed();
}

function startAnew() {
  running?.abort();
  conversation = [];
  replace(page.log);
  showStart();
  page.text.focus();
  typed();
}

function typed() {
  clearTimeout(typing.timer);
  typing.abort?.abort();
  if (!page.text.value.trim()) {
    page.where.textContent = "Nothing typed yet.";
    page.bars.update(Object.fromEntries([...page.bars.rows.keys()].map((domain) => [domain, 0])));
    return;
  }
  typing.timer = setTimeout(ahead, TYPING_MS);
}

// Where the prompt would go as it stands.
async function ahead() {
  const abort = (typing.abort = new AbortController());
  try {
    const found = await decide([...conversation, { role: "user", content: page.text.value }], abort.signal);
    showDecision(page.where, page.bars, found, `, decided in ${duration(found.microseconds / 1000)}`);
  } catch (error) {
    if (error.name !== "AbortError") page.where.textContent = error.message;
  }
}

function decide(messages, signal) {
  return json("v1/route", { method: "POST", body: { model: models.resolve, messages }, signal });
}

function showDecision(place, bars, found, time = "") {
  const to = found.abstained ? GENERAL : found.domain;
  replace(
    place,
    paintedName(to, found.adapter),
    h("span", {}, ` ${found.reason}, ${percent(found.confidence)} sure${time}`),
  );
  bars.update(sorted(found.scores), { best: found.domain });
}

function paintedName(domain, adapter) {
  const mark = chip(domain, "");
  mark.append(versionName(adapter));
  return mark;
}

async function submit(event) {
  event.preventDefault();
  const text = page.text.value.trim();
  if (!text || running) return;
  const messages = [...conversation, { role: "user", content: text }];
  const others = page.several.checked ? chosenOthers() : [];
  const names = [models.resolve, ...others];
  const answers = names.map((name) => new Answer(name, name === models.resolve && others.length ? "TinyAda's choice" : ""));
  const where = h("p", { class: "where" });
  const bars = new Bars("Probability of each domain");
  const turn = h(
    "article",
    { class: "turn", "aria-busy": "true" },
    h("p", { class: "prompt" }, h("span", { class: "who" }, "You"), h("span", {}, text)),
    h(
      "div",
      { class: "pair" },
      h("div", { class: "answers", "data-count": answers.length }, answers.map((answer) => answer.element)),
      h("div", { class: "evidence" }, h("h3", {}, "Why"), where, bars.element),
    ),
  );
  page.start.replaceChildren();
  page.log.append(turn);
  page.text.value = "";
  typed();
  running = new AbortController();
  busy(true);
  turn.scrollIntoView({ block: "nearest" });
  const decision = decide(messages, running.signal).then((found) => showDecision(where, bars, found), (error) => {
    where.textContent = error.name === "AbortError" ? "Stopped." : error.message;
  });
  const limit = Number(page.limit.value) || undefined;
  await Promise.all([
    decision,
    ...answers.map((answer) => answer.ask(messages, limit, running.signal)),
  ]);
  if (answers[0].text) conversation = [...messages, { role: "assistant", content: answers[0].text }];
  turn.setAttribute("aria-busy", "false");
  running = null;
  busy(false);
  if (document.activeElement === document.body || document.activeElement === page.stop) page.text.focus();
  page.text.scrollIntoView({ block: "nearest" });
}

function busy(on) {
  page.send.disabled = on;
  page.stop.hidden = !on;
}
