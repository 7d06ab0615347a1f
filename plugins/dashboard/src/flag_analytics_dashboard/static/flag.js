// One flag: over time, users by variant, reasons, latency, and by any dimension.

import { TimeChart, bars } from "./charts.js";
import { address, ask, keyPath } from "./client.js";
import { accuracyChoice, choice, nothing, windowChoice } from "./controls.js";
import { download, fill, h } from "./dom.js";
import { compact, count, groupName, milliseconds, percent, rate, span, visible } from "./format.js";
import { outcomesCard } from "./outcomes.js";
import { WINDOWS, chosenAccuracy, chosenWindow, get, link, set } from "./state.js";

const DIMENSIONS = { variant: "By variant", reason: "By reason", environment: "By environment", flag_version: "By version", none: "All together" };
const MEASURES = { count: "Evaluations", errors: "Errors", error_rate: "Error rate", users: "Users" };
const VALUES = {
  count: (step) => step.count,
  errors: (step) => step.errors,
  error_rate: (step) => (step.count ? (step.errors / step.count) * 100 : null),
  users: (step) => step.users,
};

export function flag(place) {
  const key = get("key");
  const own = get("by").startsWith("context.") ? { [get("by")]: `By ${visible(get("by").slice(8))}` } : {};
  const tiles = h("dl", { class: "tiles" });
  const chartPlace = h("div", { class: "chart", role: "img" });
  const legend = h("div", {});
  const asTable = h("div", {});
  const chartFiles = h("span", { class: "right" });
  const stepNote = h("span", { class: "dim" });
  const parts = h("div", {});
  const outcomes = outcomesCard(key);
  const attribute = h("input", { type: "text", placeholder: "an attribute", "aria-label": "Group by a context attribute", size: 14, maxlength: 200, value: get("by").startsWith("context.") ? get("by").slice(8) : "" });
  attribute.addEventListener("change", () => set({ by: attribute.value ? `context.${attribute.value}` : "" }));
  const chart = new TimeChart(chartPlace);
  document.title = `${visible(key)} · flag-analytics`;
  const body = h("div", {}, tiles,
    h("section", { class: "card" },
      h("header", {}, h("h2", {}, "Over time"), choice("show", "Measure", MEASURES, "count"), choice("by", "Group by", { ...DIMENSIONS, ...own }, "variant"), attribute, stepNote, chartFiles),
      chartPlace, legend, asTable),
    parts, outcomes.place);
  const empty = h("div", { class: "card", hidden: true });
  fill(place,
    h("div", { class: "title" }, h("a", { href: link("") }, "Flags"), h("span", { class: "dim" }, "/"), h("h1", {}, visible(key)), h("a", { class: "button right", href: link("events", { flag: key }) }, "Its events")),
    h("div", { class: "bar" }, windowChoice(), accuracyChoice()),
    empty, body,
  );

  async function load(signal) {
    const by = get("by", "variant");
    const asked = { window: chosenWindow(), accuracy: chosenAccuracy(), group_by: by === "none" ? "" : by };
    const seriesQuery = { ...asked, groups: 8 };
    const [detail, series] = await Promise.all([
      ask(keyPath(key), { ...asked, group_by: by === "none" ? "environment" : by }, signal),
      ask(`${keyPath(key)}/series`, seriesQuery, signal),
      outcomes.load(signal),
    ]);
    const none = detail.figures.evaluations === 0;
    empty.hidden = !none;
    body.hidden = none;
    if (none) {
      fill(empty, nothing("Not evaluated in this window", "No evaluation of this flag was stored in it. Try a longer window; where it should have been evaluated, see whether its key is written the same everywhere."));
      return detail;
    }
    const measure = get("show", "count");
    chart.show(series, VALUES[measure]);
    chartPlace.setAttribute("aria-label", `${MEASURES[measure]} over ${WINDOWS[chosenWindow()] ?? chosenWindow()}, in steps of ${span(series.step_seconds)}; the table below has the figures`);
    fill(legend, chart.legend());
    const open = asTable.querySelector("details")?.open;
    fill(asTable, chart.table());
    asTable.querySelector("details").open = Boolean(open);
    fill(stepNote, `Steps of ${span(series.step_seconds)}; the hatched one is unfinished`);
    stepNote.hidden = !series.lines[0]?.steps.some((step) => step.unfinished);
    fill(chartFiles, download([["CSV", address(`${keyPath(key)}/series`, { ...seriesQuery, format: "csv" })], ["JSON", address(`${keyPath(key)}/series`, seriesQuery)]]));
    draw(detail, by);
    return detail;
  }

  function draw({ figures, exposure, groups, group_by: by }) {
    const total = figures.evaluations;
    fill(tiles, ...[
      ["Evaluations", compact(total), rate(figures.evaluation_rate)],
      ["Users", compact(figures.users), figures.crossover_users === null ? "several variants: not told" : figures.crossover_users ? h("span", { class: "warn" }, `${count(figures.crossover_users)} saw several variants`) : "none saw several variants"],
      ["Error rate", h("span", { class: figures.error_rate > 1 ? "bad" : null }, percent(figures.error_rate)), `${count(Math.round((total * figures.error_rate) / 100))} errors`],
      ["Latency p50", milliseconds(figures.latency_p50), `p90 ${milliseconds(figures.latency_p90)}`],
      ["Latency p99", milliseconds(figures.latency_p99), figures.latency_p99 ? "of measured ones" : "not measured"],
    ].map(([name, value, note]) => h("div", { class: "tile" }, h("dt", {}, name), h("dd", {}, value, h("div", { class: "note" }, note)))));
    const variants = Object.entries(figures.variants);
    // A variant has one colour in every picture.
    const colours = new Map(variants.map(([name], index) => [name, index]));
    const reasons = Object.entries(figures.reasons);
    fill(parts,
      h("div", { class: "grid" },
        exposure && card("Users by variant", "who saw it first, with its 95 % interval", exposure.variants.length ? bars(exposure.variants.map((one) => ({
          name: one.variant, value: `${count(one.users)} · ${percent(one.share)}`, note: `(${one.low.toFixed(1)}–${one.high.toFixed(1)})`, share: one.share, interval: [one.low, one.high], colour: colours.get(one.variant),
        }))) : h("p", { class: "dim" }, "No event has a targeting key, so that users cannot be counted."),
        exposure.crossover_users ? h("p", { class: "warn" }, `${count(exposure.crossover_users)} users saw another variant later, ${count(exposure.switch_back_users)} of them saw an earlier one again.`) : null),
        card("Evaluations by variant", null, bars(variants.map(([name, events]) => ({ name, value: `${count(events)} · ${percent((events / total) * 100)}`, share: (events / total) * 100 })))),
        card("Reasons", null, bars(reasons.map(([name, events], index) => ({ name, value: `${count(events)} · ${percent((events / total) * 100)}`, share: (events / total) * 100, colour: name === "ERROR" ? 2 : index + 3 })))),
      ),
      groups && h("section", { class: "card" },
        h("header", {}, h("h2", {}, DIMENSIONS[by] ?? `By ${visible(by.replace("context.", ""))}`)),
        h("div", { class: "scroll" }, h("table", { class: "stack" },
          h("thead", {}, h("tr", {}, ["Group", "Evaluations", "Users", "Errors", "p50", "p90", "p99"].map((name, index) => h("th", { class: index ? "n" : null }, name)))),
          h("tbody", {}, Object.entries(groups).map(([name, one]) => h("tr", {},
            h("td", { class: "key" }, groupName(name)),
            [["Evaluations", count(one.evaluations)], ["Users", count(one.users)], ["Errors", percent(one.error_rate)], ["p50", milliseconds(one.latency_p50)], ["p90", milliseconds(one.latency_p90)], ["p99", milliseconds(one.latency_p99)]].map(([label, text]) => h("td", { class: "n", "data-name": label }, text)),
          ))),
        )),
      ),
    );
  }

  return { load, refreshes: true };
}

function card(title, note, ...content) {
  return h("section", { class: "card" }, h("header", {}, h("h2", {}, title), note ? h("span", { class: "dim" }, note) : null), ...content);
}
