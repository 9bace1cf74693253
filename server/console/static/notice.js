// What stands where something cannot be shown, and what to do about it.

import { h } from "./dom.js";

// For an ApiError: says so, and opens the keys where one would help. `what` begins the sentence.
export function keyNotice(error, what) {
  const button = h("button", { type: "button", class: "primary", "data-open-keys": true }, "Enter a key");
  const text = error.refused ? `${what}, the gateway wants a key. ${error.message}` : error.message;
  return h("div", { class: "notice", role: "status" }, h("p", {}, text), error.refused ? button : null);
}
