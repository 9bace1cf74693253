// Router: how good TinyAda was measured to be, how it compares with its shadow, and where a file of prompts goes.

import { json, onKeys } from "./api.js";
import { chip, ordered, paint } from "./domains.js";
import { duration, h, percent, plural, replace } from "./dom.js";
import { keyNotice } from "./notice.js";
import { tallyForm } from "./tally.js";

let page = null;

export function build(panel) {
  page = { notice: h("div", {}), serving: h("div", {}), card: h("div", { class: "grid" }), shadow: h("div", {}) };
  panel.append(
    h("h2", { class: "unseen" }, "Router"),
    h("div", { class: "grid" }, tallyForm(), page.notice, page.serving, page.shadow),
    page.card,
  );
  onKeys(() => {
    if (!panel.hidden) show();
  });
}

export async function show() {
  try {
    const view = await json("admin/router");
    replace(page.notice);
    replace(page.shadow, shadowView(view.shadow));
    const card = await json("admin/router/card").catch((error) => ({ error }));
    replace(page.serving, servingView(view, card));
    replace(page.card, card.error ? [] : cardView(card.evaluation));
  } catch (error) {
    for (const place of [page.serving, page.card, page.shadow]) replace(place);
    replace(page.notice, keyNotice(error, "To show TinyAda's figures"));
  }
}

function servingView(view, card) {
  const digest = view.digest ?? card.digest;
  return h(
    "section",
    { class: "panel" },
    h("h3", {}, "TinyAda ", digest ? h("code", {}, digest) : null),
    h("ul", { class: "served-domains" }, view.domains.map(({ domain, adapter, threshold }) =>
      h("li", {}, chip(domain), h("span", { class: "hint" }, adapter ? `answered by ${adapter}` : "answered by the base",
        threshold == null ? "" : `, from ${percent(threshold)} sure`)))),
    view.problem ? h("p", { class: "problem" }, view.problem) : null,
    card.error ? h("p", { class: "hint" }, card.error.message) : null,
  );
}

function shadowView(shadow) {
  const text = shadow
    ? [
        h("p", {}, h("code", {}, shadow.digest), ` decides too, for comparison only. Of ${plural(shadow.compared, "conversation")} it would have sent `,
          h("b", { id: "disagreement" }, shadow.compared ? percent(shadow.disagreed / shadow.compared) : "none"), ` elsewhere (${shadow.disagreed.toLocaleString("en")}).`),
        shadow.dropped ? h("p", { class: "hint" }, `${plural(shadow.dropped, "conversation")} it had no time for.`) : null,
      ]
    : [h("p", { class: "hint", id: "disagreement" }, "No shadow: only one TinyAda decides here.")];
  return h("section", { class: "panel" }, h("h3", {}, "Shadow"), text);
}

function cardView(card) {
  return [
    h("section", { class: "panel half" }, h("h3", {}, "Measured"), h("p", { class: "hint" }, `On ${plural(card.rows, "prompt")} of sources it was not trained on (${card.data}).`), figures(card.figures)),
    h("section", { class: "panel half" }, h("h3", {}, "By domain"), byDomain(card.by_domain), cost(card.cost)),
    h("section", { class: "panel wide" }, h("h3", {}, "Confusion"), h("p", { class: "hint" }, "Rows: the right domain. Columns: where TinyAda put it. Darker is a larger share of the row."), confusion(card.confusion)),
    card.conversations ? h("section", { class: "panel narrow" }, h("h3", {}, "In conversations"), conversations(card.conversations)) : null,
  ];
}

function figures(rows) {
  return table(
    ["Figure", "Value", "Bar", ""],
    rows.map(({ name, value, bar, better }) => {
      const met = bar === "" || (better === "less" ? value <= Number(bar) : value >= Number(bar));
      const verdict = bar === "" ? "" : h("span", { class: met ? "good" : "bad" }, met ? "met" : "missed");
      return [name, value === null ? "–" : value.toFixed(4), bar && `${better === "less" ? "at most" : "at least"} ${bar}`, verdict];
    }),
    "figures-table",
  );
}

function byDomain(domains) {
  return table(
    ["Domain", "Prompts", "Precision", "Recall", "F1"],
    ordered(Object.keys(domains)).map((name) => {
      const { rows, precision, recall, f1 } = domains[name];
      return [chip(name), String(rows), precision.toFixed(3), recall.toFixed(3), h("b", {}, f1.toFixed(3))];
    }),
  );
}

function cost(bench) {
  const text = bench?.route?.["60"]?.p50;
  if (!text) return null;
  const other = bench.minilm_int8?.["60"];
  return h("p", { class: "hint" }, `Decides 60 characters in ${duration(text / 1000)} at the median on one core`,
    other ? `, ${other.times_slower} times faster than a small transformer in int8` : "", `; ${bench.disk_mb} MB on disk.`);
}

function conversations(kinds) {
  return table(
    ["Kind of last turn", "Conversations", "Right domain"],
    Object.entries(kinds).map(([kind, { conversations: count, right }]) => [kind, String(count), `${right} (${percent(right / count)})`]),
  );
}

// `counts[i][j]`: prompts of domain i put into domain j.
function confusion({ domains, counts }) {
  const order = ordered(domains);
  const at = order.map((name) => domains.indexOf(name));
  const head = h("tr", {}, h("td", {}), order.map((name) => h("th", { scope: "col" }, name)));
  const rows = order.map((name, i) => {
    const total = counts[at[i]].reduce((sum, count) => sum + count, 0) || 1;
    return h(
      "tr",
      {},
      h("th", { scope: "row" }, chip(name)),
      order.map((_, j) => {
        const count = counts[at[i]][at[j]];
        const cell = paint(h("td", { class: i === j ? "cell right" : "cell", "data-count": count }, count ? String(count) : "·"), name);
        cell.style.setProperty("--share", (count / total).toFixed(3));
        cell.classList.toggle("strong", count / total > 0.5);
        return cell;
      }),
    );
  });
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Confusion matrix" }, h("table", { class: "confusion" }, h("thead", {}, head), h("tbody", {}, rows)));
}

export function table(headings, rows, kind = "") {
  return h(
    "table",
    { class: kind },
    h("thead", {}, h("tr", {}, headings.map((text) => (text ? h("th", { scope: "col" }, text) : h("td", {}))))),
    h("tbody", {}, rows.map((cells) => h("tr", {}, cells.map((cell) => h("td", {}, cell))))),
  );
}

