// One action: asked about, sent, followed phase by phase, and shown with the line it left in the audit log.

import { ApiError, json, request } from "./api.js";
import { h, replace } from "./dom.js";

const PHASES = ["published", "validating", "loading", "verifying", "ready", "serving"];
const POLL_MS = 250;
const LONGEST_MS = 10 * 60 * 1000;

// `send()` -> [method, path, body]; `done(adapter)`: whether it has come about (the adapter is null once it is gone);
// `version`: the one to follow, `answered(reply)` gives it where only the answer names it; `then(version, place)` adds
// to the end. Resolves once the dialog is closed.
export function act(action) {
  const title = h("h2", { id: "action-title" }, action.title);
  const body = h("div", { class: "action-body" }, h("p", {}, action.text), action.extra);
  const cancel = h("button", { type: "button", class: "quiet", id: "action-cancel" }, "Cancel");
  const confirm = h("button", { type: "button", class: action.danger ? "primary danger" : "primary", id: "action-confirm" }, action.verb);
  const dialog = h("dialog", { class: "action", "aria-labelledby": "action-title" }, title, body, h("div", { class: "actions" }, cancel, confirm));
  const ended = new AbortController();
  cancel.addEventListener("click", () => dialog.close());
  confirm.addEventListener("click", async () => {
    confirm.hidden = true;
    title.textContent = action.title.replace(/\?$/, "");
    cancel.textContent = "Close";
    cancel.focus();
    // It goes on whether or not anyone looks.
    await carryOut(action, body, ended.signal);
    await action.after?.();
  });
  document.body.append(dialog);
  const opener = document.activeElement?.id;
  dialog.showModal();
  (action.danger ? cancel : confirm).focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      ended.abort();
      dialog.remove();
      document.getElementById(opener)?.focus();
      resolve();
    });
  });
}

export function routedAs(adapter, weights) {
  if (!adapter) return false;
  const same = (one) => Object.keys(one).length === Object.keys(weights).length && Object.keys(weights).every((key) => one[key] === weights[key]);
  return same(adapter.route) && same(adapter.desired) && !adapter.target;
}

// Whether a version that was being brought up has failed.
export function risen(adapter, digest) {
  return adapter?.versions.find((version) => version.version === digest)?.phase === "failed";
}

async function carryOut(action, body, signal) {
  const steps = h("ol", { class: "steps" });
  const status = h("p", { class: "outcome", role: "status" }, "Sent…");
  const audit = h("div", { class: "audit" });
  replace(body, status, steps, audit);
  const before = await newestLine(action.adapter);
  try {
    const [method, path, payload] = action.send();
    const reply = await (await request(path, { method, body: payload })).json();
    const version = action.version ?? reply.version;
    const began = Date.now();
    for (;;) {
      const adapter = await look(action.adapter);
      const followed = adapter?.versions.find((one) => one.version === version);
      if (followed) replace(steps, progress(followed));
      if (action.done(adapter, version)) {
        finish(status, followed);
        break;
      }
      status.textContent = "Under way…";
      if (signal.aborted) return;
      if (Date.now() - began > LONGEST_MS) throw new ApiError(0, "It has taken ten minutes; the list shows how it goes on.");
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
    await showLine(audit, action.adapter, before);
    if (action.then && !signal.aborted) await action.then(version, body);
  } catch (error) {
    status.classList.add("problem");
    status.textContent = error.message;
    await showLine(audit, action.adapter, before);
  }
}

function finish(status, version) {
  const failed = version?.phase === "failed";
  status.classList.toggle("problem", failed);
  status.classList.toggle("good", !failed);
  status.textContent = failed ? `Failed: ${version.reason}` : "Done.";
}

// The phases of the version's present rise, each with the time it took to get there.
function progress(version) {
  const start = Math.max(0, version.history.findLastIndex((entry) => entry.phase === "published"));
  const reached = version.history.slice(start);
  const steps = reached.map((entry, index) => {
    const since = index ? (Date.parse(entry.since) - Date.parse(reached[index - 1].since)) / 1000 : null;
    const current = index === reached.length - 1;
    return h(
      "li",
      { class: `reached ${entry.phase}`, "data-phase": entry.phase, ...(current ? { "aria-current": "step" } : {}) },
      h("b", {}, entry.phase),
      since === null ? null : h("span", { class: "hint" }, ` after ${since.toFixed(2)} s`),
      entry.reason ? h("span", { class: "reason" }, entry.reason) : null,
    );
  });
  const last = PHASES.indexOf(version.phase);
  const ahead = last < 0 ? [] : PHASES.slice(last + 1).map((phase) => h("li", { class: "ahead" }, phase));
  return [...steps, ...ahead];
}

async function look(name) {
  try {
    return await json(`admin/adapters/${encodeURIComponent(name)}`);
  } catch (error) {
    if (error.status === 404) return null;
    throw error;
  }
}

async function newestLine(adapter) {
  const lines = await json(`admin/audit?last=1&adapter=${encodeURIComponent(adapter)}`).catch(() => []);
  return JSON.stringify(lines[0] ?? null);
}

async function showLine(place, adapter, before) {
  const line = await newestLine(adapter);
  if (line === before || line === "null") {
    replace(place, h("p", { class: "hint" }, "The audit log has no new line: nothing was changed."));
    return;
  }
  replace(place, h("p", { class: "hint" }, "In the audit log:"), h("pre", { tabindex: 0, "aria-label": "Audit line" }, line));
}
