// What is shown is in the address, so that it can be sent to someone, and the way back leads back.

export const WINDOWS = { "15m": "15 min", "1h": "1 hour", "24h": "24 hours", "7d": "7 days", "30d": "30 days", all: "All" };
const { root, api } = document.body.dataset;
export const ROOT = root;
export const API = api;

export const parameters = () => new URLSearchParams(location.search);
export const get = (name, fallback = "") => parameters().get(name) ?? fallback;
export const chosenWindow = () => get("window", "1h");
export const chosenAccuracy = () => (get("accuracy") === "fast" ? "fast" : "");

export function set(changes, { replace = false } = {}) {
  const next = parameters();
  for (const [name, value] of Object.entries(changes)) {
    if (value === "" || value === null || value === undefined) next.delete(name);
    else next.set(name, value);
  }
  const query = next.toString();
  if (query === parameters().toString()) return;
  history[replace ? "replaceState" : "pushState"](null, "", query ? `?${query}` : location.pathname);
  keepInLinks();
  dispatchEvent(new Event("statechange"));
}

// The window, the accuracy and the zone go along from page to page.
const KEPT = ["window", "accuracy", "tz"];

export function link(path, values = {}) {
  const query = new URLSearchParams(values);
  for (const name of KEPT) if (get(name)) query.set(name, get(name));
  const text = query.toString();
  return `${ROOT}/${path}${text ? `?${text}` : ""}`;
}

export function keepInLinks() {
  for (const anchor of document.querySelectorAll("[data-keep-state]")) {
    const url = new URL(anchor.href);
    for (const name of KEPT) get(name) ? url.searchParams.set(name, get(name)) : url.searchParams.delete(name);
    anchor.href = url.pathname + url.search;
  }
}

export const flagLink = (key) => link("flag", { key });
