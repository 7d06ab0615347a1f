// Single events: those that come, and back from there.

import { address, ask } from "./client.js";
import { nothing, searchField, windowChoice } from "./controls.js";
import { download, fill, h } from "./dom.js";
import { clock, count, full, time, visible } from "./format.js";
import { chosenWindow, flagLink, get } from "./state.js";

const MOST_ROWS = 500;
const LONGEST = 120;

export function events(place) {
  let paused = false;
  let shown = [];
  let next = null;
  let people = false;
  let skipped = 0;
  const files = h("span", { class: "right" });
  const body = h("tbody", {});
  const foot = h("div", { class: "bar" });
  const state = h("button", { type: "button", "aria-pressed": "true", onclick: () => pause() }, "Live");
  const table = h("div", { class: "scroll" }, h("table", { class: "events stack" }, h("thead", {}, h("tr", {}, ["Time", "Flag", "Variant", "Reason", "Value", "User", "Took"].map((name, index) => h("th", { class: index === 6 ? "n" : null }, name)))), body));
  const empty = h("div", { hidden: true });
  fill(place,
    h("div", { class: "bar" }, windowChoice(), state, files),
    h("div", { class: "bar" },
      h("div", { class: "grow" }, searchField("flag", "Flag, its whole key (/)")),
      h("div", { class: "grow" }, searchField("variant", "Variant")),
      h("div", { class: "grow" }, searchField("reason", "Reason, such as ERROR")),
      h("div", { class: "grow" }, searchField("environment", "Environment"))),
    h("div", { class: "card" }, table, empty, foot),
  );

  const query = () => ({ window: chosenWindow(), flag: get("flag"), variant: get("variant"), reason: get("reason"), environment: get("environment") });
  const passes = (event) =>
    (!get("flag") || event.flag === get("flag")) &&
    (!get("variant") || (event.variant ?? "default") === get("variant")) &&
    (!get("reason") || event.reason === get("reason")) &&
    (!get("environment") || event.context.environment === get("environment"));

  async function load(signal) {
    const answer = await ask("/events", { ...query(), limit: 50 }, signal);
    shown = answer.events;
    next = answer.next_cursor;
    people = answer.people_shown;
    skipped = 0;
    fill(files, download([["CSV", address("/events", { ...query(), format: "csv" })], ["JSON Lines", address("/events", { ...query(), format: "jsonl" })]]));
    draw();
    return answer;
  }

  async function more() {
    const answer = await ask("/events", { ...query(), limit: 100, cursor: next });
    shown = shown.concat(answer.events);
    next = shown.length < MOST_ROWS ? answer.next_cursor : null;
    draw();
  }

  function draw(fresh = new Set()) {
    empty.hidden = shown.length > 0;
    table.hidden = !empty.hidden;
    fill(empty, nothing("No events", "None in this window passes the filters. New ones appear here by themselves."));
    fill(body, ...shown.map((event) => row(event, fresh.has(event.id))));
    fill(foot,
      next ? h("button", { type: "button", onclick: more }, "Older events") : null,
      h("span", { class: "dim" }, `${count(shown.length)} events shown${skipped ? `, ${count(skipped)} more came too fast to show` : ""}${shown.length >= MOST_ROWS ? "; the files have all of them" : ""}`),
    );
  }

  function row(event, fresh) {
    const bad = event.reason === "ERROR" || event.error_type;
    const text = JSON.stringify(event.value);
    return h("tr", { class: fresh ? "fresh" : null },
      h("td", {}, time(event.at, Date.now() - Date.parse(event.at) < 86_400_000 ? clock : full)),
      h("td", { class: "key wide" }, h("a", { href: flagLink(event.flag) }, visible(event.flag))),
      h("td", { "data-name": "Variant" }, visible(event.variant ?? "default")),
      h("td", { "data-name": "Reason", class: bad ? "bad" : null }, visible(event.error_type ? `${event.reason} · ${event.error_type}` : event.reason)),
      h("td", { class: "value wide", "data-name": "Value", title: text.length > LONGEST ? visible(text.slice(0, 2_000)) : null }, visible(text.length > LONGEST ? `${text.slice(0, LONGEST)}…` : text)),
      h("td", { "data-name": "User" }, event.user === null ? h("span", { class: "dim" }, people ? "–" : "hidden") : visible(event.user)),
      h("td", { class: "n", "data-name": "Took" }, event.duration_ms ? `${event.duration_ms.toFixed(2)} ms` : "–"),
    );
  }

  function pause() {
    paused = !paused;
    state.setAttribute("aria-pressed", String(!paused));
    fill(state, paused ? "Paused" : "Live");
  }

  return {
    load,
    pause,
    refreshes: false,
    live({ events: arrived, skipped: others }) {
      if (paused) return;
      const known = new Set(shown.map((event) => event.id));
      const fresh = arrived.filter((event) => !known.has(event.id) && passes(event));
      skipped += others;
      if (!fresh.length) return;
      shown = fresh.concat(shown);
      if (shown.length > MOST_ROWS) {
        shown = shown.slice(0, MOST_ROWS);
        next = null;
      }
      draw(new Set(fresh.map((event) => event.id)));
    },
  };
}
