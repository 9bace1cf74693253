// One answer as it streams in: who gives it, its words, and its time line.

import { events, request, serverTiming } from "./api.js";
import { chip, GENERAL, versionName } from "./domains.js";
import { h, percent, replace } from "./dom.js";
import { timeline } from "./timeline.js";

const REASONS = {
  resolved: "resolved: TinyAda is sure of the domain",
  sticky: "sticky: the conversation stays where it was",
  abstained: "abstained: TinyAda is not sure enough, so the base answers",
  explicit: "explicit: asked for by name",
  fallback: "fallback: the domain's adapter cannot answer now, so the base does",
  bypass: "bypass: TinyAda was skipped, to measure what it costs",
};

export class Answer {
  constructor(model, title = "") {
    this.model = model;
    this.text = "";
    this.who = h("span", { class: "served" }, model);
    this.reason = h("span", { class: "reason" });
    this.words = document.createTextNode("");
    this.body = h("p", { class: "words" }, this.words);
    this.note = h("p", { class: "hint" });
    this.time = h("div", {});
    this.element = h(
      "section",
      { class: "answer panel", "data-model": model, "aria-label": `Answer of ${model}` },
      h("header", {}, title ? h("span", { class: "title" }, title) : null, this.who, this.reason),
      this.body,
      this.note,
      this.time,
    );
  }

  // Ask and show; what fails is shown too. Never rejects.
  async ask(messages, limit, signal) {
    try {
      const body = { model: this.model, messages, stream: true, stream_options: { include_usage: true }, temperature: 0 };
      if (limit) body.max_tokens = limit;
      const response = await request("v1/chat/completions", { method: "POST", body, signal });
      const head = performance.now();
      this.introduce(response.headers);
      const timing = serverTiming(response.headers.get("server-timing"));
      await this.read(response);
      replace(this.time, timeline(timing, performance.now() - head));
      if (!this.text) this.note.textContent ||= "An empty answer.";
    } catch (error) {
      if (error.name === "AbortError") this.note.textContent = "Stopped.";
      else this.fail(error.message);
    }
  }

  introduce(headers) {
    const adapter = headers.get("x-zephyra-adapter") ?? this.model;
    const reason = headers.get("x-zephyra-reason") ?? "";
    const confidence = headers.get("x-zephyra-confidence");
    const domain = headers.get("x-zephyra-domain");
    const at = adapter.includes("@");
    const mark = chip(at ? (domain ?? adapter.split("@")[0]) : GENERAL, "");
    mark.append(versionName(adapter));
    replace(this.who, mark);
    Object.assign(this.element.dataset, { adapter, reason, domain: domain ?? "", confidence: confidence ?? "" });
    const sure = confidence === null ? "" : ` (${domain} ${percent(Number(confidence))})`;
    this.reason.textContent = (REASONS[reason] ?? reason) + sure;
  }

  async read(response) {
    for await (const { data } of events(response)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      const choice = chunk.choices?.[0];
      const part = choice?.delta?.content;
      if (part) {
        this.text += part;
        this.words.appendData(part);
      }
      if (choice?.finish_reason === "length") this.note.textContent = "Cut off at the number of tokens allowed.";
      if (chunk.usage) this.element.dataset.tokens = chunk.usage.completion_tokens;
    }
  }

  fail(message) {
    this.element.classList.add("failed");
    this.note.textContent = message;
    this.note.setAttribute("role", "alert");
  }
}
