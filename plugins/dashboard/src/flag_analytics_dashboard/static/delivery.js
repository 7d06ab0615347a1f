// What became of every event: the ledger of each backend, and what it says about those that are missing.

import { track } from "./charts.js";
import { address, ask } from "./client.js";
import { chip, nothing } from "./controls.js";
import { download, fill, h } from "./dom.js";
import { ago, bytes, compact, count, time, visible } from "./format.js";

export function delivery(place) {
  async function load(signal) {
    draw(await ask("/delivery", {}, signal));
    return null;
  }

  function draw(found) {
    const refused = sum(found.refused);
    const sinks = Object.entries(found.sinks);
    fill(place,
      h("dl", { class: "tiles" }, [
        ["Recorded", count(found.recorded), "since this process began"],
        ["Accepted", count(found.accepted), "for at least one backend"],
        ["Refused", h("span", { class: refused ? "warn" : null }, count(refused)), refused ? reasons(found.refused) : "none"],
        ["Ledger", h("span", { class: found.balanced ? "good" : "bad" }, found.balanced ? "balances" : "does not balance"), "every event is accounted for"],
        ["Live streams", count(found.live.clients), `${count(found.live.dropped)} too slow, ${count(found.live.refused)} refused`],
      ].map(([name, value, note]) => h("div", { class: "tile" }, h("dt", {}, name), h("dd", {}, value, h("div", { class: "note" }, note))))),
      sinks.length && found.recorded === 0 ? h("div", { class: "notice" }, h("span", {}, "This process has recorded nothing: the ledger is that of the process that serves this page. Mount the page in the application whose events you look at.")) : null,
      sinks.length ? h("div", { class: "sinks" }, sinks.map(([name, sink]) => card(name, sink))) : h("div", { class: "card" }, nothing("No backends", "The configuration names no collector and no exporter: add one, such as [collectors.memory].")),
      letters(found.dead_letters),
      h("div", { class: "bar" }, download([["JSON", address("/delivery")]])),
    );
  }

  return { load, refreshes: false, live: ({ delivery: found }) => draw(found) };
}

function card(name, sink) {
  const { filtered = 0, ...losses } = sink.lost;
  const lost = sum(losses);
  const all = Math.max(1, sink.accepted + sink.recovered);
  const share = (events) => (events / all) * 100;
  const figures = [
    ["Delivered", count(sink.delivered)],
    ["Waiting", count(sink.waiting)],
    ["Refused", count(sink.refused), sink.refused],
    ["Lost", count(lost), lost],
    ...(filtered ? [["Left out by processors", count(filtered)]] : []),
    ["Lag", `${count(sink.lag)} events`],
    ["Oldest waiting", sink.backlog_age_seconds === null ? "–" : `${sink.backlog_age_seconds.toFixed(1)} s`],
    ["In memory", bytes(sink.backlog_bytes)],
    ["On disk", `${count(sink.spooled)} events`],
    ["Attempts", compact(sink.attempts)],
    ["Retries", compact(sink.retries)],
    ["Breaker", sink.breaker.replaceAll("_", " "), sink.breaker !== "closed"],
    ["Last stored", sink.last_success ? time(sink.last_success, (date) => ago(date)) : "–"],
  ];
  return h("section", { class: "card" },
    h("header", {}, h("h2", {}, visible(name)), h("span", { class: "dim" }, sink.role), h("span", { class: "right" }, chip(sink.status))),
    track([[share(sink.delivered), "f-good"], [share(sink.waiting), "f-warn"], [share(sink.refused + lost), "f-bad"]]),
    h("p", { class: "dim" }, `${count(sink.accepted)} accepted${sink.recovered ? ` + ${count(sink.recovered)} recovered` : ""} = ${count(sink.delivered)} delivered + ${count(sink.waiting)} waiting + ${count(sink.refused)} refused + ${count(lost)} lost${filtered ? ` + ${count(filtered)} left out by processors` : ""}`),
    lost ? h("p", { class: "bad" }, `Lost: ${reasons(losses)}`) : null,
    sink.set_aside ? h("p", { class: "warn" }, `${count(sink.set_aside)} failed repeatedly and are tried alone`) : null,
    sink.last_error ? h("p", { class: "bad" }, `Latest error: ${visible(sink.last_error)}`) : null,
    h("dl", { class: "figures" }, figures.map(([title, value, bad]) => h("div", {}, h("dt", {}, title), h("dd", { class: bad ? "bad" : null }, value)))),
  );
}

function letters(found) {
  if (!found.length) return null;
  return h("section", { class: "card" },
    h("header", {}, h("h2", {}, "Dead letters"), h("span", { class: "dim" }, "refused for good, the latest 1,000")),
    h("div", { class: "scroll" }, h("table", { class: "stack" },
      h("thead", {}, h("tr", {}, h("th", {}, "Backend"), h("th", {}, "Error"), h("th", { class: "n" }, "Events"), h("th", { class: "n" }, "Latest"))),
      h("tbody", {}, found.map((one) => h("tr", {}, h("td", { class: "key" }, visible(one.sink)), h("td", { "data-name": "Error" }, visible(one.error)), h("td", { class: "n", "data-name": "Events" }, count(one.events)), h("td", { class: "n", "data-name": "Latest" }, time(one.latest, (date) => ago(date)))))),
    )),
  );
}

const sum = (counts) => Object.values(counts).reduce((a, b) => a + b, 0);
const reasons = (counts) => Object.entries(counts).map(([reason, events]) => `${count(events)} ${reason.replaceAll("_", " ")}`).join(", ");
