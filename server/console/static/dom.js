// Elements out of code. Text is only ever set as text: nothing here, or in the console, makes HTML of a string.

const SVG = "http://www.w3.org/2000/svg";

// h("p", {class: "note", onclick: f}, "text", child, null) -> element. `text`-like children become text nodes.
export function h(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

export function svg(tag, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), properties, children);
}

export function replace(parent, ...children) {
  parent.replaceChildren(...children.flat().filter((child) => child != null));
}

export function hue(element, value) {
  element.style.setProperty("--hue", value);
  return element;
}

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value == null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child != null && child !== false));
  return element;
}

// 0.0432 -> "0.043 ms", 1234 -> "1.23 s"; from milliseconds.
export function duration(ms) {
  if (ms >= 9995) return `${(ms / 1000).toFixed(1)} s`;
  if (ms >= 999.5) return `${(ms / 1000).toFixed(2)} s`;
  if (ms >= 99.5) return `${ms.toFixed(0)} ms`;
  if (ms >= 9.995) return `${ms.toFixed(1)} ms`;
  return ms >= 0.9995 ? `${ms.toFixed(2)} ms` : `${ms.toFixed(3)} ms`;
}

export function percent(share) {
  const value = share * 100;
  return `${value === 0 || value >= 99.95 || value >= 9.95 ? value.toFixed(0) : value.toFixed(1)} %`;
}

export function plural(count, one, many = `${one}s`) {
  return `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
}
