// Tabs, keys, and whether the gateway is ready.

import { haveKeys, request, useKeys } from "./api.js";
import * as adapters from "./adapters.js";
import * as live from "./live.js";
import * as router from "./router.js";
import * as trial from "./try.js";

const TABS = { try: trial, live, adapters, router };
const READY_SECONDS = 5;
const byId = (id) => document.getElementById(id);
let shown = null;

function show(name, focus = false) {
  if (!(name in TABS)) name = "try";
  if (name === shown) return;
  if (shown) TABS[shown].hide?.();
  shown = name;
  for (const id of Object.keys(TABS)) {
    const tab = byId(`tab-${id}`);
    const chosen = id === name;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    byId(id).hidden = !chosen;
    if (chosen && focus) tab.focus();
  }
  document.title = `${byId(`tab-${name}`).textContent} · Zephyra console`;
  if (location.hash.slice(1) !== name) history.replaceState(null, "", `#${name}`);
  TABS[name].show?.();
}

function tabs() {
  const names = Object.keys(TABS);
  for (const name of names) {
    TABS[name].build(byId(name));
    byId(`tab-${name}`).addEventListener("click", () => show(name));
  }
  document.querySelector("[role=tablist]").addEventListener("keydown", (event) => {
    const at = names.indexOf(shown);
    const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: names.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    show(names[(next + names.length) % names.length], true);
  });
  window.addEventListener("hashchange", () => show(location.hash.slice(1)));
  show(location.hash.slice(1) || "try");
}

function keys() {
  const dialog = byId("keys");
  const fields = [byId("api-key"), byId("admin-key")];
  const open = byId("open-keys");
  const use = (...values) => {
    useKeys(...values);
    open.textContent = haveKeys() ? "Keys in use" : "Keys";
    dialog.close();
  };
  document.addEventListener("click", (event) => {
    if (event.target.closest("#open-keys, [data-open-keys]")) dialog.showModal();
  });
  byId("forget-keys").addEventListener("click", () => use("", ""));
  dialog.querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    use(...fields.map((field) => field.value.trim() || undefined));
  });
  dialog.addEventListener("close", () => {
    for (const field of fields) field.value = "";
  });
}

async function readiness() {
  const place = byId("readiness");
  let ready = false;
  let text = "no gateway";
  try {
    ready = (await request("ready")).ok;
    text = "ready";
  } catch (error) {
    if (error.status === 503) text = "not ready";
  }
  if (place.textContent !== text) {
    place.textContent = text;
    place.classList.toggle("good", ready);
  }
  setTimeout(readiness, READY_SECONDS * 1000);
}

keys();
tabs();
readiness();
