// All flags: counts at once; users, errors, latency and small series as soon as they are there.

import { bars, spark } from "./charts.js";
import { address, ask } from "./client.js";
import { accuracyChoice, chip, nothing, searchField, windowChoice } from "./controls.js";
import { download, fill, h } from "./dom.js";
import { ago, compact, count, milliseconds, percent, time, visible } from "./format.js";
import { ROOT, WINDOWS, chosenAccuracy, chosenWindow, flagLink, get, set } from "./state.js";

const FIRST_STEPS = `from flag_analytics import AnalyticsHook, open_pipeline
from openfeature import api

pipeline = open_pipeline()
api.add_hooks([AnalyticsHook(pipeline)])`;

export function overview(place) {
  const tiles = h("dl", { class: "tiles" });
  const table = h("div", { class: "card" });
  const panels = h("div", { class: "grid" });
  const files = h("span", { class: "right" });
  fill(place,
    h("div", { class: "bar" }, windowChoice(), accuracyChoice(), h("div", { class: "grow" }, searchField("search", "Search flags (/)")), files),
    tiles, table, panels,
  );
  fill(table, h("p", { class: "empty" }, "Loading …"));

  const query = () => ({ window: chosenWindow(), accuracy: chosenAccuracy(), search: get("search"), sort: get("sort", "-count"), cursor: get("cursor"), limit: 20 });

  async function load(signal) {
    const asked = query();
    const answer = await ask("/flags", asked, signal);
    if (!table.querySelector("table") || !sameKeys(table, answer)) draw(answer, asked);
    fill(files, download([["CSV", address("/flags", { ...asked, limit: 100, cursor: "", detail: "full", format: "csv" })], ["JSON", address("/flags", { ...asked, limit: 100, cursor: "", detail: "full" })]]));
    if (!answer.flags.length) {
      summary(answer, []);
      return answer;
    }
    const full = await ask("/flags", { ...asked, detail: "full" }, signal);
    draw(full, asked);
    summary(full, full.flags);
    return full;
  }

  function draw(answer, asked) {
    if (!answer.flags.length) {
      fill(table, asked.search
        ? nothing("No flag of this name", `No key with “${visible(asked.search)}” was evaluated in this window. Try a longer one.`)
        : nothing("No evaluations yet", `Nothing was evaluated in ${chosenWindow() === "all" ? "all of the time" : `the last ${WINDOWS[chosenWindow()] ?? chosenWindow()}`}. A hook records every evaluation of any OpenFeature provider:`, FIRST_STEPS));
      return;
    }
    const head = [["key", "Flag"], [null, "Over time"], ["count", "Evaluations", "n"], [null, "Users", "n"], [null, "Errors", "n"], [null, "p99", "n"], ["last_seen", "Last seen", "n"], [null, "Status"]];
    fill(table,
      h("div", { class: "scroll" }, h("table", { class: "stack" },
        h("thead", {}, h("tr", {}, head.map(([name, words, style]) => heading(name, words, style, asked.sort)))),
        h("tbody", {}, answer.flags.map(row)),
      )),
      h("div", { class: "bar" },
        h("span", { class: "dim" }, `${count(answer.flags.length)} of ${count(answer.total)} flags`),
        asked.cursor ? h("button", { type: "button", onclick: () => set({ cursor: "" }) }, "First page") : null,
        answer.next_cursor ? h("button", { type: "button", onclick: () => set({ cursor: answer.next_cursor }) }, "Next page") : null,
      ),
    );
  }

  function heading(name, words, style, sort) {
    if (name === null) return h("th", { class: style }, words);
    const down = sort === `-${name}`;
    const sorted = down ? "descending" : sort === name ? "ascending" : null;
    const next = down ? name : `-${name}`;
    return h("th", { class: style, "aria-sort": sorted }, h("button", { type: "button", onclick: () => set({ sort: next === "-count" ? "" : next, cursor: "" }) }, words));
  }

  function row(flag) {
    const waiting = flag.users === null;
    const cell = (name, text, style = "n") => h("td", { class: style, "data-name": name }, h("span", { class: waiting && text === "–" ? "waiting" : null }, text));
    return h("tr", { "data-key": flag.key },
      h("td", { class: "key" }, h("a", { href: flagLink(flag.key) }, visible(flag.key))),
      h("td", { class: "wide" }, flag.series?.length ? spark(flag.series) : waiting ? h("span", { class: "spark waiting" }) : ""),
      cell("Evaluations", count(flag.count) + (flag.estimated ? " ≈" : "")),
      cell("Users", count(flag.users)),
      h("td", { class: `n ${flag.error_rate > 1 ? "bad" : ""}`, "data-name": "Errors" }, percent(flag.error_rate)),
      cell("p99", waiting ? "–" : milliseconds(flag.latency_p99)),
      h("td", { class: "n", "data-name": "Last seen" }, time(flag.last_seen, (date) => ago(date))),
      h("td", { "data-name": "Status" }, chip(flag.status)),
    );
  }

  function summary(answer, flags) {
    const evaluations = flags.reduce((sum, flag) => sum + flag.count, 0);
    const errors = flags.reduce((sum, flag) => sum + (flag.count * (flag.error_rate ?? 0)) / 100, 0);
    const failing = flags.filter((flag) => flag.status === "failing").length;
    const all = answer.total === flags.length;
    fill(tiles, ...[
      ["Flags", count(answer.total), failing ? h("span", { class: "bad" }, `${failing} failing`) : "none failing"],
      ["Evaluations", compact(evaluations), all ? "in this window" : "on this page"],
      ["Error rate", evaluations ? percent((errors / evaluations) * 100) : "–", `${count(Math.round(errors))} errors`],
      ["Missing events", h("span", { class: answer.loss.events ? "bad" : null }, count(answer.loss.events)), answer.loss.events ? "lost or refused" : "the ledger balances"],
    ].map(([name, value, note]) => h("div", { class: "tile" }, h("dt", {}, name), h("dd", {}, value, h("div", { class: "note" }, note)))));
  }

  ask("/plugins").then(({ panels: found }) => Promise.all(found.map(async (panel) => {
    const card = h("section", { class: "card" }, h("header", {}, h("h2", {}, panel.title)));
    panels.append(card);
    try {
      card.append(await picture(panel));
    } catch (error) {
      card.append(h("p", { class: "bad" }, `This panel did not answer with points: ${error.message}`));
    }
  }))).catch(() => {
    // Without panels the page is complete.
  });

  return { load, refreshes: true };
}

async function picture({ question, chart }) {
  const answer = await fetch(question.startsWith("/") ? question : `${ROOT}/${question}`, { headers: { Accept: "application/json" } });
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  const { points } = await answer.json();
  if (chart === "number") return h("div", { class: "tile" }, h("div", { class: "value" }, count(points[0].value)), h("div", { class: "note" }, points[0].name));
  if (chart === "line") return spark(points.map((point) => point.value));
  const most = Math.max(1, ...points.map((point) => point.value));
  return bars(points.map((point) => ({ name: String(point.name), value: count(point.value), share: (point.value / most) * 100, colour: 0 })));
}

function sameKeys(table, answer) {
  const shown = [...table.querySelectorAll("tr[data-key]")].map((row) => row.dataset.key);
  return shown.length === answer.flags.length && answer.flags.every((flag, index) => flag.key === shown[index]);
}
