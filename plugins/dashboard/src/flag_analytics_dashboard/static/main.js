// Starts the page: its keys, the live stream, and what it shows.

import { configuration } from "./configuration.js";
import { delivery } from "./delivery.js";
import { $, fill, h } from "./dom.js";
import { events } from "./events.js";
import { flag } from "./flag.js";
import { count, full, percent } from "./format.js";
import { overview } from "./overview.js";
import { Live } from "./live.js";
import { WINDOWS, chosenWindow, get, keepInLinks, link, set } from "./state.js";

const PAGES = { overview, flag, events, delivery, configuration };
const REFRESH_MILLISECONDS = 5_000;

const page = PAGES[document.body.dataset.page]($("content"));
const live = new Live();
let running = null;
let due = 0;

async function refresh() {
  running?.abort();
  const asking = new AbortController();
  running = asking;
  try {
    const answer = await page.load(asking.signal);
    if (asking.signal.aborted) return;
    notices(answer);
  } catch (error) {
    if (error.name === "AbortError" || asking.signal.aborted) return;
    if (error.status === undefined) throw error;
    fill($("notices"), h("div", { class: "notice is-bad", role: "alert" }, h("span", {}, error.message), h("button", { type: "button", onclick: refresh }, "Ask again")));
    page.failed?.();
  } finally {
    if (running === asking) running = null;
    due = Date.now() + REFRESH_MILLISECONDS;
  }
}

// What is missing from the figures is said above them.
function notices(answer) {
  const found = [];
  const loss = answer?.loss;
  if (loss?.events) {
    const reasons = Object.entries(loss.reasons).map(([reason, events]) => `${count(events)} ${reason.replaceAll("_", " ")}`);
    found.push(h("div", { class: "notice is-bad" }, h("span", {}, `${count(loss.events)} events are missing from these figures: ${reasons.join(", ")}. `, h("a", { href: link("delivery") }, "What became of them"))));
  }
  if (loss?.complete_from) {
    found.push(h("div", { class: "notice" }, h("span", {}, `The memory has forgotten events before ${full(new Date(loss.complete_from))}: figures are of what came later. A larger max_size or a database keeps more.`)));
  }
  if (answer?.estimated) {
    found.push(h("div", { class: "notice" }, h("span", {}, "Sampled events are among these: figures are estimates, counted back by the sample rate.")));
  }
  const bounds = Object.entries(answer?.bounds ?? {}).map(([part, bound]) => `${part.replaceAll("_", " ")} ± ${percent(bound * 100)}`);
  const missing = (answer?.missing ?? []).map((part) => part.replaceAll("_", " "));
  if (bounds.length || missing.length) {
    const words = [bounds.length ? `Within bounds: ${bounds.join(", ")}.` : "", missing.length ? `Not told by rollups: ${missing.join(", ")}.` : ""];
    found.push(h("div", { class: "notice" }, h("span", {}, words.join(" ").trim())));
  }
  if (answer?.complete_since) {
    found.push(h("div", { class: "notice" }, h("span", {}, `Events before ${full(new Date(answer.complete_since))} were removed and are in no figure.`)));
  }
  fill($("notices"), ...found);
}

function showState({ status, sinks }) {
  const lost = Object.values(sinks).reduce((sum, sink) => sum + sink.refused + Object.values(sink.lost).reduce((a, b) => a + b, 0), 0);
  const bad = status !== "ok";
  const state = $("state");
  state.hidden = false;
  state.className = `state ${bad ? "is-bad" : lost ? "is-warn" : "is-good"}`;
  fill(state, bad ? `Delivery ${status}` : lost ? `${count(lost)} lost` : "All delivered");
}

live.addEventListener("message", ({ detail }) => {
  showState(detail.delivery);
  page.live?.(detail);
  if (page.refreshes && !document.hidden && !running && Date.now() > due) refresh();
});
live.addEventListener("down", () => {
  const state = $("state");
  state.hidden = false;
  state.className = "state";
  fill(state, "Not live");
  page.down?.();
});
setInterval(() => {
  if (live.isDown && page.refreshes && !document.hidden && !running && Date.now() > due) refresh();
}, REFRESH_MILLISECONDS);

addEventListener("statechange", () => { page.changed?.(); showZone(); refresh(); });
addEventListener("popstate", () => { page.changed?.(); showZone(); keepInLinks(); refresh(); });
addEventListener("visibilitychange", () => { if (!document.hidden && page.refreshes) refresh(); });

function showZone() {
  fill($("zone"), get("tz") === "utc" ? "UTC" : "Local");
}

function otherTheme() {
  const dark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  try {
    localStorage.setItem("flag-analytics-theme", document.documentElement.dataset.theme);
  } catch {
    // Without storage it holds until the page is left.
  }
  dispatchEvent(new Event("themechange"));
}

const otherZone = () => set({ tz: get("tz") === "utc" ? "" : "utc" });
const windows = Object.keys(WINDOWS);
const moveWindow = (by) => set({ window: windows[Math.min(windows.length - 1, Math.max(0, windows.indexOf(chosenWindow()) + by))] });
const KEYS = {
  "/": ["Search or filter", () => document.querySelector("input[type=search]")?.focus()],
  "[": ["A shorter window", () => moveWindow(-1)],
  "]": ["A longer window", () => moveWindow(1)],
  1: ["Flags", () => location.assign(link(""))],
  2: ["Events", () => location.assign(link("events"))],
  3: ["Delivery", () => location.assign(link("delivery"))],
  4: ["Configuration", () => location.assign(link("configuration"))],
  p: ["Pause or go on with the live events", () => page.pause?.()],
  z: ["Times in your zone or in UTC", otherZone],
  t: ["Light or dark", otherTheme],
  "?": ["These keys", showKeys],
};

function showKeys() {
  const dialog = h("dialog", { "aria-label": "Keys", onclose: () => dialog.remove() },
    h("h2", {}, "Keys"),
    h("dl", { class: "key-list" }, Object.entries(KEYS).map(([key, [words]]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, words)])),
    h("form", { method: "dialog" }, h("button", {}, "Close")),
  );
  document.body.append(dialog);
  dialog.showModal();
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input, select, textarea")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const known = KEYS[event.key];
  if (known && !document.querySelector("dialog[open]")) {
    event.preventDefault();
    known[1]();
  }
});

$("zone").addEventListener("click", otherZone);
$("theme").addEventListener("click", otherTheme);
$("help").addEventListener("click", showKeys);
showZone();
keepInLinks();
refresh();
live.open();
