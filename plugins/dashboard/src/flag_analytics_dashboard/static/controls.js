// Controls that several pages share.

import { fill, h } from "./dom.js";
import { WINDOWS, chosenWindow, get, set } from "./state.js";

export function windowChoice() {
  const place = h("div", { class: "segments", role: "group", "aria-label": "Window of time" });
  const draw = () => fill(place, ...Object.entries(WINDOWS).map(([value, name]) => h("button", {
    type: "button",
    "aria-pressed": String(chosenWindow() === value),
    onclick: () => set({ window: value === "1h" ? "" : value }),
  }, name)));
  draw();
  addEventListener("statechange", draw);
  addEventListener("popstate", draw);
  return place;
}

// A text that goes into the address once its reader pauses.
export function searchField(name, label) {
  let timer = 0;
  const field = h("input", { type: "search", placeholder: label, "aria-label": label, value: get(name), maxlength: 512 });
  field.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => set({ [name]: field.value, cursor: "" }, { replace: true }), 200);
  });
  addEventListener("popstate", () => { field.value = get(name); });
  return field;
}

export const accuracyChoice = () => choice("accuracy", "Accuracy", { exact: "Exact", fast: "Fast" }, "exact");

export function choice(name, label, options, fallback) {
  const field = h("select", { "aria-label": label }, Object.entries(options).map(([value, text]) => h("option", { value }, text)));
  const read = () => { field.value = get(name, fallback); };
  read();
  field.addEventListener("change", () => set({ [name]: field.value === fallback ? "" : field.value }));
  addEventListener("popstate", read);
  return field;
}

export function nothing(title, words, code = null) {
  return h("div", { class: "empty" }, h("h2", {}, title), h("p", {}, words), code ? h("pre", { tabindex: "0" }, code) : null);
}

export function chip(status) {
  const style = { active: "is-good", ok: "is-good", closed: "is-good", quiet: "", half_open: "is-warn", degraded: "is-warn", failing: "is-bad", open: "is-bad", halted: "is-bad" };
  return h("span", { class: `chip ${style[status] ?? ""}` }, status.replaceAll("_", " "));
}
