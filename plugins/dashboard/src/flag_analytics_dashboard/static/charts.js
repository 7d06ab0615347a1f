// Pictures: a line chart over time (uPlot), a spark line and bars (SVG).

/* global uPlot */
import { fill, h, svg } from "./dom.js";
import { compact, count, daily, full, groupName, hourly, clock, percent, zone } from "./format.js";

const COLOURS = 8;
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
export const colour = (index) => index % COLOURS;

export function spark(values) {
  const peak = Math.max(1, ...values);
  const step = 100 / Math.max(1, values.length - 1);
  const points = values.map((value, index) => `${(index * step).toFixed(2)},${(26 - (value / peak) * 23).toFixed(2)}`);
  return svg(
    "svg",
    { class: "spark", viewBox: "0 0 100 28", preserveAspectRatio: "none", role: "img", "aria-label": `from ${count(values[0] ?? 0)} to ${count(values.at(-1) ?? 0)}, at most ${count(Math.max(0, ...values))}` },
    svg("polygon", { points: `0,28 ${points.join(" ")} 100,28` }),
    svg("polyline", { points: points.join(" ") }),
  );
}

// One bar of parts of a whole, with its interval where there is one; values in percent.
export function track(parts, interval = null) {
  let left = 0;
  const drawn = parts.map(([share, style]) => {
    const part = svg("rect", { x: left, y: 0, width: Math.max(0, share), height: 10, class: style });
    left += share;
    return part;
  });
  const whisker = interval && svg("line", { x1: interval[0], x2: interval[1], y1: 5, y2: 5, class: "whisker" });
  return h("div", { class: "track", "aria-hidden": "true" }, svg("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none" }, ...drawn, ...(whisker ? [whisker] : [])));
}

export function bars(rows) {
  return h("ul", { class: "bars" }, rows.map((row, index) => h("li", {},
    h("div", { class: "row" }, h("span", {}, groupName(row.name)), h("span", {}, row.value, row.note ? h("span", { class: "dim" }, ` ${row.note}`) : null)),
    track([[row.share, `f${colour(row.colour ?? index)}`]], row.interval),
  )));
}

// The line of each group ends with the last step that is finished: the step that still runs is shown by a dot in a
// band of its own, since its count is not yet one to compare.
export class TimeChart {
  constructor(place) {
    this.place = place;
    this.hidden = new Set();
    this.answer = null;
    this.plot = null;
    this.tip = h("div", { class: "tip", hidden: true });
    this.observer = new ResizeObserver(() => this.plot?.setSize({ width: this.place.clientWidth, height: 260 }));
    this.observer.observe(place);
    for (const query of ["(prefers-color-scheme: dark)"]) matchMedia(query).addEventListener("change", () => this.draw());
    addEventListener("themechange", () => this.draw());
  }

  show(answer, value) {
    this.answer = answer;
    this.value = value;
    this.draw();
  }

  draw() {
    if (!this.answer) return;
    const { lines } = this.answer;
    const steps = lines[0]?.steps ?? [];
    const times = steps.map((step) => Date.parse(step.start) / 1000);
    const finished = lines.map(({ steps }) => steps.map((step) => (step.unfinished ? null : this.value(step))));
    const unfinished = lines.map(({ steps }) => steps.map((step) => (step.unfinished ? this.value(step) : null)));
    this.plot?.destroy();
    const axis = { stroke: css("--dim"), grid: { stroke: css("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
    const series = lines.flatMap((line, index) => {
      const stroke = css(`--c${colour(index)}`);
      const show = !this.hidden.has(line.group);
      return [
        { stroke, width: 2, show, points: { show: times.length < 3, size: 6 }, ...(lines.length === 1 ? { fill: `${stroke}1f` } : {}) },
        { stroke, width: 0, show, paths: () => null, points: { show: true, size: 8, stroke, fill: css("--card"), width: 2 } },
      ];
    });
    const options = {
      width: this.place.clientWidth,
      height: 260,
      padding: [10, 8, 0, 0],
      cursor: { y: false, points: { size: 7 } },
      legend: { show: false },
      tzDate: (seconds) => (zone() === "UTC" ? uPlot.tzDate(new Date(seconds * 1000), "UTC") : new Date(seconds * 1000)),
      scales: { x: { range: (_, low, high) => [low, Math.max(high, this.end())] }, y: { range: (_, __, high) => [0, high > 0 ? high * 1.1 : 1] } },
      axes: [
        { ...axis, size: 30, space: 70, values: (_, splits) => splits.map((split) => this.label(split)) },
        { ...axis, size: 52, values: (_, splits) => splits.map((split) => (Number.isInteger(split) ? compact(split) : "")) },
      ],
      series: [{}, ...series],
      hooks: { drawClear: [(plot) => this.band(plot)], setCursor: [(plot) => this.point(plot)] },
    };
    const data = [times, ...lines.flatMap((_, index) => [finished[index], unfinished[index]])];
    fill(this.place);
    this.plot = new uPlot(options, data, this.place);
    this.place.append(this.tip);
  }

  end() {
    const last = this.answer.lines[0]?.steps.at(-1);
    return last ? Math.max(Date.parse(last.end), Date.parse(last.start) + this.answer.step_seconds * 1000) / 1000 : 0;
  }

  label(seconds) {
    const date = new Date(seconds * 1000);
    const step = this.answer.step_seconds;
    return step >= 86_400 ? daily(date) : step < 60 ? clock(date) : hourly(date) === "00:00" ? daily(date) : hourly(date);
  }

  band(plot) {
    const open = this.answer.lines[0]?.steps.find((step) => step.unfinished);
    if (!open) return;
    const { ctx, bbox } = plot;
    const left = plot.valToPos(Date.parse(open.start) / 1000, "x", true) - (this.answer.lines[0].steps.length > 1 ? 0 : 4);
    ctx.save();
    ctx.beginPath();
    ctx.rect(left, bbox.top, bbox.left + bbox.width - left, bbox.height);
    ctx.clip();
    ctx.fillStyle = css("--soft");
    ctx.fillRect(left, bbox.top, bbox.width, bbox.height);
    ctx.strokeStyle = css("--line");
    ctx.lineWidth = devicePixelRatio;
    for (let x = left - bbox.height; x < bbox.left + bbox.width; x += 8 * devicePixelRatio) {
      ctx.beginPath();
      ctx.moveTo(x, bbox.top + bbox.height);
      ctx.lineTo(x + bbox.height, bbox.top);
      ctx.stroke();
    }
    ctx.restore();
  }

  point(plot) {
    const index = plot.cursor.idx;
    const step = index === null || index === undefined ? null : this.answer.lines[0]?.steps[index];
    this.tip.hidden = !step || plot.cursor.left < 0;
    if (this.tip.hidden) return;
    const shown = this.answer.lines.map((line, number) => [line, number]).filter(([line]) => !this.hidden.has(line.group));
    fill(this.tip,
      h("b", {}, full(new Date(step.start)), step.unfinished ? " – unfinished" : ""),
      shown.slice(0, 12).map(([line, number]) => h("div", {}, h("span", { class: `swatch k${colour(number)}` }), h("span", {}, line.group === null ? "All" : groupName(line.group)), h("span", {}, this.name(line.steps[index])))),
    );
    const left = plot.cursor.left + plot.over.offsetLeft;
    const wide = this.tip.offsetWidth;
    this.tip.style.left = `${left + 14 + wide > this.place.clientWidth ? Math.max(0, left - wide - 14) : left + 14}px`;
  }

  name(step) {
    const value = this.value(step);
    return value === null ? "–" : Number.isInteger(value) ? count(value) : percent(value);
  }

  legend() {
    const { lines } = this.answer;
    if (lines.length === 1 && lines[0].group === null) return null;
    return h("ul", { class: "legend" }, lines.map((line, index) => h("li", {}, h("button", {
      type: "button",
      "aria-pressed": String(!this.hidden.has(line.group)),
      onclick: (event) => {
        this.hidden.has(line.group) ? this.hidden.delete(line.group) : this.hidden.add(line.group);
        event.currentTarget.setAttribute("aria-pressed", String(!this.hidden.has(line.group)));
        this.draw();
      },
    }, h("span", { class: `swatch k${colour(index)}` }), groupName(line.group ?? "All")))));
  }

  // The same figures for those who do not see the picture.
  table() {
    const { lines } = this.answer;
    const head = h("tr", {}, h("th", {}, "Step"), lines.map((line) => h("th", { class: "n" }, line.group === null ? "All" : groupName(line.group))));
    const rows = (lines[0]?.steps ?? []).map((step, index) => h("tr", {}, h("td", {}, full(new Date(step.start)), step.unfinished ? " (unfinished)" : ""), lines.map((line) => h("td", { class: "n" }, this.name(line.steps[index])))));
    return h("details", {}, h("summary", {}, "As a table"), h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "The figures of the chart" }, h("table", {}, h("thead", {}, head), h("tbody", {}, rows.reverse()))));
  }
}
