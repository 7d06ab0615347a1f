// What users did after they met a flag, by the variant that they saw first, and whether the variants differ.

import { ask, keyPath } from "./client.js";
import { fill, h } from "./dom.js";
import { count, percent, visible } from "./format.js";
import { chosenWindow, get, set } from "./state.js";

const points = (number) => `${number < 0 ? "−" : "+"}${Math.abs(number).toFixed(1)}`;

export function outcomesCard(key) {
  const figures = h("div", {});
  const name = h("input", { type: "text", placeholder: "the name of an outcome", "aria-label": "Outcome", size: 22, maxlength: 512, value: get("outcome") });
  name.addEventListener("change", () => set({ outcome: name.value }));
  const place = h("section", { class: "card" }, h("header", {}, h("h2", {}, "Outcomes"), h("span", { class: "dim" }, "what users did after they first saw a variant"), name), figures);

  async function load(signal) {
    const outcome = get("outcome");
    if (name !== document.activeElement) name.value = outcome;
    if (!outcome) return fill(figures);
    let found;
    try {
      found = await ask(`${keyPath(key)}/outcomes`, { window: chosenWindow(), outcome }, signal);
    } catch (problem) {
      if (problem.name === "AbortError") throw problem;
      return fill(figures, h("p", { class: "warn" }, problem.message)); // the flag's other figures are shown all the same
    }
    return fill(figures, found.variants.length ? table(found) : h("p", { class: "dim" }, "No user saw this flag in the window."), found.variants.length ? found.doubts.map((doubt) => h("p", { class: "warn" }, `No verdict: ${doubt}.`)) : null);
  }

  return { place, load };
}

function table({ variants, control }) {
  const titles = ["Variant", "Users", "With the outcome", "Rate", "95 %", "Mean value", `Less ${visible(control)}, points`];
  return h("div", { class: "scroll" }, h("table", { class: "stack" },
    h("thead", {}, h("tr", {}, titles.map((title, index) => h("th", { class: index ? "n" : null }, title)))),
    h("tbody", {}, variants.map((one) => h("tr", {},
      h("td", { class: "key" }, visible(one.variant)),
      [
        count(one.users), count(one.converted_users), percent(one.rate), `${one.low.toFixed(1)}–${one.high.toFixed(1)}`,
        one.value_mean === null ? "–" : one.value_mean.toPrecision(4), difference(one.difference),
      ].map((content, index) => h("td", { class: "n", "data-name": titles[index + 1] }, content)),
    ))),
  ));
}

function difference(one) {
  if (one === null) return "–";
  return h("span", { title: one.significant ? "the interval leaves out zero" : "no clear difference" }, h("span", { class: one.significant ? null : "dim" }, `${points(one.points)} (${points(one.low)} to ${points(one.high)})`));
}
