// The gateway's APIs. Keys live in this module's variables and nowhere else.

const ROOT = new URL(".", location.href);
const keys = { api: "", admin: "" };
const listeners = new Set();

export class ApiError extends Error {
  constructor(status, message, retryAfter) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }

  // A key is missing, or is not the right one.
  get refused() {
    return this.status === 401 || this.status === 403;
  }
}

// Undefined leaves a key as it is.
export function useKeys(api, admin) {
  keys.api = api ?? keys.api;
  keys.admin = admin ?? keys.admin;
  for (const listener of listeners) listener();
}

export function haveKeys() {
  return Boolean(keys.api || keys.admin);
}

export function onKeys(listener) {
  listeners.add(listener);
}

// A response that is fine; else an ApiError with the gateway's own message.
export async function request(path, { method = "GET", body, signal, headers = {} } = {}) {
  const key = path.startsWith("admin/") ? keys.admin : keys.api;
  const sent = { ...headers };
  if (key) sent.authorization = `Bearer ${key}`;
  if (body !== undefined) sent["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(new URL(path, ROOT), {
      method,
      signal,
      headers: sent,
      body: body === undefined ? undefined : JSON.stringify(body),
      credentials: "omit",
      cache: "no-store",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "The gateway does not answer. Is it running?");
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => null);
  const message = told?.error?.message ?? `The gateway answered ${response.status}.`;
  throw new ApiError(response.status, message, Number(response.headers.get("retry-after")) || 0);
}

export async function json(path, options) {
  return (await request(path, options)).json();
}

// The server-sent events of a response, as {event, data} with the data's text.
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        let event = "message";
        const data = [];
        for (const line of part.split("\n")) {
          if (line.startsWith("data:")) data.push(line.slice(5).trimStart());
          else if (line.startsWith("event:")) event = line.slice(6).trim();
        }
        if (data.length) yield { event, data: data.join("\n") };
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

// "parse;dur=0.04, route;dur=0.2" -> {parse: 0.04, route: 0.2}
export function serverTiming(text) {
  const found = {};
  for (const part of (text ?? "").split(",")) {
    const [name, value] = part.trim().split(";dur=");
    if (value !== undefined) found[name] = Number(value);
  }
  return found;
}
