// The form that adds a version by its path, and tries it on example prompts.

import { json } from "./api.js";
import { act, routedAs, risen } from "./action.js";
import { chip, GENERAL } from "./domains.js";
import { h, replace } from "./dom.js";

const TRIED = 3;
const TRIED_TOKENS = 48;

let domains = [];
let choices = null;

export function form(after) {
  choices = h("datalist", { id: "domains" });
  const field = (id, label, control, hint) =>
    h("div", { class: "field" }, h("label", { for: id }, label), control, hint ? h("p", { class: "hint", id: `${id}-hint` }, hint) : null);
  const name = h("input", { id: "add-name", required: true, pattern: "[a-z0-9][a-z0-9_\\-]{0,62}", autocomplete: "off", spellcheck: "false", "aria-describedby": "add-name-hint" });
  const domain = h("input", { id: "add-domain", list: "domains", autocomplete: "off", spellcheck: "false", "aria-describedby": "add-domain-hint" });
  const path = h("input", { id: "add-path", required: true, placeholder: "/srv/adapters/tax", autocomplete: "off", spellcheck: "false", "aria-describedby": "add-path-hint" });
  const examples = h("textarea", { id: "add-examples", rows: 4, spellcheck: "false", "aria-describedby": "add-examples-hint" });
  const activate = h("input", { type: "checkbox", id: "add-activate", checked: true });
  const found = h("div", { class: "found", role: "status" });
  const lines = () => examples.value.split("\n").map((line) => line.trim()).filter(Boolean);

  async function submit(event) {
    event.preventDefault();
    const body = { path: path.value.trim(), activate: activate.checked };
    if (domain.value.trim()) body.domain = domain.value.trim();
    // A domain that TinyAda knows already is not learned from examples.
    if (body.domain && !domains.includes(body.domain) && lines().length) body.examples = lines();
    const adapter = name.value.trim();
    await act({
      title: `Publish a version of ${adapter}?`,
      text: `The files in ${body.path} are checked, copied into the store, loaded on every engine and proved there${body.activate ? "; then every request for it goes to this version." : ". It gets no requests until you promote it."}`,
      verb: "Publish",
      adapter,
      send: () => ["POST", `admin/adapters/${encodeURIComponent(adapter)}/versions`, body],
      done: (now, version) => risen(now, version) || (body.activate ? routedAs(now, { [version]: 100 }) : isReady(now, version)),
      then: (version, place) => tryOut(`${adapter}@${version}`, lines(), place),
      after,
    });
  }

  async function preview() {
    replace(found, h("p", { class: "hint" }, "Asking TinyAda…"));
    try {
      const all = await Promise.all(lines().map((text) => json("v1/route", { method: "POST", body: { messages: [{ role: "user", content: text }] } })));
      replace(found, h("ul", { class: "tried" }, all.map((decision, index) => {
        const to = decision.abstained ? GENERAL : decision.domain;
        return h("li", {}, chip(to), h("span", {}, lines()[index]));
      })));
    } catch (error) {
      replace(found, h("p", { class: "problem" }, error.message));
    }
  }

  return h(
    "form",
    { class: "panel add", onsubmit: submit, "aria-labelledby": "add-title" },
    h("h3", { id: "add-title" }, "Add a version by its path"),
    h("div", { class: "fields" },
      field("add-name", "Adapter", name, "A new name, or one above for another version of it."),
      field("add-domain", "Domain", domain, "Which of TinyAda's domains it answers, or a new one that the examples teach; empty for requests that name it."),
      field("add-path", "Path", path, "Absolute, on the gateway's machine: adapter_config.json and adapter_model.safetensors.")),
    choices,
    field("add-examples", "Example prompts, one a line", examples, "Sixteen or more teach TinyAda a new domain. The first few are asked once the version is up, so that you see what it answers."),
    h("label", { class: "switch" }, activate, "Give it every request once it is proved"),
    h("div", { class: "actions" },
      h("button", { type: "button", class: "quiet", id: "add-preview", onclick: preview }, "Where do the examples go now?"),
      h("span", { class: "gap" }),
      h("button", { type: "submit", class: "primary", id: "add-publish" }, "Publish")),
    found,
  );
}

export function knownDomains(router) {
  const names = router.domains.map((one) => one.domain).filter((domain) => domain !== GENERAL);
  if (names.join() === domains.join()) return;
  domains = names;
  replace(choices, names.map((value) => h("option", { value })));
}

function isReady(adapter, digest) {
  return ["ready", "serving"].includes(adapter?.versions.find((version) => version.version === digest)?.phase);
}

// The first examples, asked of the version itself.
async function tryOut(model, examples, place) {
  for (const text of examples.slice(0, TRIED)) {
    const body = { model, messages: [{ role: "user", content: text }], max_tokens: TRIED_TOKENS, temperature: 0 };
    let said;
    try {
      said = (await json("v1/chat/completions", { method: "POST", body })).choices[0].message.content;
    } catch (error) {
      said = error.message;
    }
    place.append(h("div", { class: "tried-answer" }, h("p", { class: "hint" }, text), h("p", {}, said)));
  }
}
