// The time line of a request, to scale: the gateway's part, which is then shown enlarged, the engine up to its first
// token, and the rest of the answer. All in milliseconds.

import { duration, h, svg } from "./dom.js";

const WIDTH = 1000;

// `timing`: Server-Timing's parse, route, gateway, engine; `rest`: from the first token to the end.
export function timeline(timing, rest) {
  const { parse = 0, route = 0, gateway = 0, engine = 0 } = timing;
  const total = gateway + engine + rest || 1;
  const other = Math.max(0, gateway - parse - route);
  const x = (ms) => (WIDTH * ms) / total;
  const zoom = (ms) => (gateway > 0 ? (WIDTH * ms) / gateway : 0);
  const times = total / (gateway || total);
  const parts = [
    ["gateway", gateway],
    ["engine", engine],
    ["rest", rest],
  ];
  const inside = [
    ["parse", parse],
    ["route", route],
    ["other", other],
  ];
  const spoken =
    `Time line, ${duration(total)} in all: gateway ${duration(gateway)}, of which parsing ${duration(parse)} and ` +
    `routing ${duration(route)}; engine to its first token ${duration(engine)}; rest of the answer ${duration(rest)}.`;
  const picture = svg(
    "svg",
    { class: "timeline", viewBox: `0 0 ${WIDTH} 60`, preserveAspectRatio: "none", role: "img", "aria-label": spoken },
    row(parts, x, 0, 20),
    // What the narrow part at the left looks like enlarged.
    svg("path", { class: "funnel", d: `M0 20 L${Math.max(1.5, x(gateway))} 20 L${WIDTH} 40 L0 40 Z` }),
    row(inside, zoom, 40, 20),
  );
  return h(
    "figure",
    { class: "time", "data-total": total.toFixed(3) },
    legend(parts, { gateway: "gateway", engine: "first token", rest: "rest of the answer" }, `${duration(total)}, to scale`),
    picture,
    legend(inside, { parse: "parse", route: "TinyAda", other: "the rest of it" }, `the gateway, ${scale(times)} larger`),
  );
}

function row(parts, x, y, height) {
  let at = 0;
  const group = svg("g");
  for (const [name, ms] of parts) {
    const width = x(ms);
    // What is too narrow to be seen still leaves a line.
    const shown = { class: `part ${name}`, x: at, y, height, width: Math.max(ms > 0 ? 1.5 : 0, width) };
    group.append(svg("rect", { ...shown, "data-ms": ms.toFixed(3), "data-width": width.toFixed(2) }));
    at += width;
  }
  return group;
}

function legend(parts, names, title) {
  return h(
    "figcaption",
    {},
    parts.map(([name, ms]) =>
      h("span", { class: `key ${name}` }, h("i", { "aria-hidden": "true" }), `${names[name]} `, h("b", {}, duration(ms))),
    ),
    h("span", { class: "whole" }, title),
  );
}

function scale(times) {
  return `${times >= 10 ? Math.round(times).toLocaleString("en") : times.toFixed(1)} times`;
}
