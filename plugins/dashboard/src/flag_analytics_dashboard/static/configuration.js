// The parts of the pipeline, and the plugins that are installed. Values that may be secret are not shown.

import { ask } from "./client.js";
import { fill, h } from "./dom.js";
import { visible } from "./format.js";

export function configuration(place) {
  async function load(signal) {
    const found = await ask("/plugins", {}, signal);
    fill(place,
      h("section", { class: "card" },
        h("header", {}, h("h2", {}, "Pipeline"), h("span", { class: "dim" }, found.show_people ? "people are shown here" : "people are hidden here")),
        h("div", { class: "scroll" }, h("table", { class: "stack" },
          h("thead", {}, h("tr", {}, ["Name", "Role", "From", "Options"].map((name) => h("th", {}, name)))),
          h("tbody", {}, found.parts.map((part) => h("tr", {},
            h("td", { class: "key" }, visible(part.name)),
            h("td", { "data-name": "Role" }, part.role),
            h("td", { "data-name": "From" }, visible(part.kind)),
            h("td", { class: "wide mono" }, options(part.options)),
          ))),
        ))),
      h("section", { class: "card" },
        h("header", {}, h("h2", {}, "Installed plugins")),
        h("div", { class: "scroll" }, h("table", { class: "stack" },
          h("thead", {}, h("tr", {}, ["Plugin", "Distribution", "Version"].map((name) => h("th", {}, name)))),
          h("tbody", {}, found.installed.map((one) => h("tr", {},
            h("td", { class: "key" }, visible(one.name)),
            h("td", { "data-name": "Distribution" }, visible(one.distribution)),
            h("td", { "data-name": "Version" }, visible(one.version)),
          ))),
        ))),
    );
    return null;
  }

  return { load, refreshes: false };
}

function options(found) {
  const pairs = Object.entries(found);
  return pairs.length ? pairs.map(([name, value]) => `${visible(name)} = ${visible(String(value))}`).join(", ") : h("span", { class: "dim" }, "shown where the page knows the configuration");
}
