// Two distributions over the same buckets, on against off, each as shares of its own total.

import { duration, h, plural, svg } from "./dom.js";

const WIDTH = 640;
const HEIGHT = 150;
const TICKS = 6;

// `bounds`: upper bounds of the buckets in milliseconds; the counts have one more, without bound.
export function histogram(bounds, on, off) {
  const totals = [on, off].map((counts) => counts.reduce((sum, count) => sum + count, 0));
  if (!totals[0] && !totals[1]) return h("p", { class: "hint" }, "No request has been measured yet.");
  const used = [on, off].flatMap((counts) => counts.map((count, i) => (count ? i : -1))).filter((i) => i >= 0);
  const first = Math.max(0, Math.min(...used) - 1);
  const last = Math.min(bounds.length, Math.max(...used) + 1);
  const shares = [on, off].map((counts, arm) => counts.map((count) => (totals[arm] ? count / totals[arm] : 0)));
  const highest = Math.max(...shares.flat());
  const step = WIDTH / (last - first + 1);
  const bars = svg("g");
  for (let i = first; i <= last; i += 1) {
    shares.forEach((share, arm) => {
      const height = (HEIGHT * share[i]) / highest;
      const x = (i - first) * step + step * (arm ? 0.52 : 0.1);
      const name = arm ? "off" : "on";
      bars.append(svg("rect", { class: name, x, y: HEIGHT - height, width: step * 0.38, height, "data-share": share[i].toFixed(4) }));
    });
  }
  const medians = [on, off].map((counts) => median(bounds, counts));
  return h(
    "figure",
    { class: "histogram" },
    svg(
      "svg",
      { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": spoken(totals, medians) },
      svg("line", { x1: 0, y1: HEIGHT, x2: WIDTH, y2: HEIGHT, class: "axis" }),
      bars,
    ),
    axis(bounds, first, last),
    h(
      "figcaption",
      {},
      key("on", "with TinyAda", totals[0], medians[0]),
      key("off", "without: bypassed, or asked for by name", totals[1], medians[1]),
      h("span", { class: "whole" }, difference(medians)),
    ),
  );
}

// The median of bucket counts, between the bounds in proportion; null where there are none.
export function median(bounds, counts) {
  const total = counts.reduce((sum, count) => sum + count, 0);
  if (!total) return null;
  let below = 0;
  for (let i = 0; i < counts.length; i += 1) {
    if (below + counts[i] >= total / 2) {
      const low = i ? bounds[i - 1] : 0;
      const high = i < bounds.length ? bounds[i] : low;
      return low + ((high - low) * (total / 2 - below)) / counts[i];
    }
    below += counts[i];
  }
  return null;
}

function axis(bounds, first, last) {
  const every = Math.ceil((last - first + 1) / TICKS);
  const ticks = [];
  for (let i = first; i <= last; i += every) {
    const tick = h("span", {}, i < bounds.length ? short(bounds[i]) : `over ${short(bounds.at(-1))}`);
    tick.style.insetInlineStart = `${(100 * (i - first + 0.5)) / (last - first + 1)}%`;
    ticks.push(tick);
  }
  return h("div", { class: "axis-labels", "aria-hidden": "true" }, ticks);
}

function short(ms) {
  if (ms >= 1000) return `${ms / 1000} s`;
  return ms >= 1 ? `${Number(ms.toPrecision(2))} ms` : `${Number((ms * 1000).toPrecision(2))} µs`;
}

function key(name, text, total, middle) {
  const figure = middle === null ? "none yet" : `${duration(middle)} at the median of ${total.toLocaleString("en")}`;
  return h("span", { class: `key ${name}` }, h("i", { "aria-hidden": "true" }), `${text} `, h("b", {}, figure));
}

function difference([on, off]) {
  if (on === null || off === null) return "";
  return `TinyAda's part at the median: ${duration(Math.max(0, on - off))}`;
}

function spoken([on, off], [first, second]) {
  const parts = [];
  if (first !== null) parts.push(`with TinyAda ${duration(first)} at the median of ${plural(on, "request")}`);
  if (second !== null) parts.push(`without it ${duration(second)} at the median of ${plural(off, "request")}`);
  return `Time the gateway adds to a request: ${parts.join(", ")}.`;
}
