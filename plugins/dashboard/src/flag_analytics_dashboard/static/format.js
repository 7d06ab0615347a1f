// Numbers and times for people.

import { h } from "./dom.js";
import { get } from "./state.js";

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export const count = (number) => (number === null || number === undefined ? "–" : whole.format(number));
export const compact = (number) => (number === null || number < 10_000 ? count(number) : short.format(number));
export const percent = (number, digits = 1) =>
  number === null || number === undefined ? "–" : `${number.toFixed(number !== 0 && number < 0.1 ? 2 : digits)} %`;
export const milliseconds = (number) =>
  !number ? "–" : number < 0.1 ? `${(number * 1000).toFixed(0)} µs` : number < 10 ? `${number.toFixed(2)} ms` : `${number.toFixed(0)} ms`;
export const bytes = (number) =>
  number < 1024 ? `${number} B` : number < 1024 ** 2 ? `${(number / 1024).toFixed(1)} KiB` : `${(number / 1024 ** 2).toFixed(1)} MiB`;
export const rate = (number) => (number >= 1 ? `${number.toFixed(1)}/s` : number * 60 >= 1 ? `${(number * 60).toFixed(1)}/min` : `${(number * 3600).toFixed(1)}/h`);

export const zone = () => (get("tz") === "utc" ? "UTC" : undefined);
const formats = new Map();

function format(options) {
  const key = JSON.stringify([options, zone()]);
  if (!formats.has(key)) formats.set(key, new Intl.DateTimeFormat("en-GB", { ...options, timeZone: zone() }));
  return formats.get(key);
}

export const clock = (date) => format({ hour: "2-digit", minute: "2-digit", second: "2-digit" }).format(date);
export const full = (date) =>
  format({ day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit" }).format(date);
export const hourly = (date) => format({ hour: "2-digit", minute: "2-digit" }).format(date);
export const daily = (date) => format({ day: "numeric", month: "short" }).format(date);

export function ago(date, now = Date.now()) {
  const seconds = Math.max(0, (now - date) / 1000);
  if (seconds < 2) return "now";
  if (seconds < 60) return `${seconds.toFixed(0)} s ago`;
  if (seconds < 3600) return `${(seconds / 60).toFixed(0)} min ago`;
  if (seconds < 86_400 * 2) return `${(seconds / 3600).toFixed(0)} h ago`;
  return `${(seconds / 86_400).toFixed(0)} d ago`;
}

// The reader's zone, with UTC at hand.
export function time(iso, show = full) {
  const date = new Date(iso);
  return h("time", { datetime: iso, title: `${date.toISOString().replace("T", " ").slice(0, 23)} UTC` }, show(date));
}

export function span(seconds) {
  for (const [unit, length] of [["d", 86_400], ["h", 3_600], ["min", 60]]) {
    if (seconds >= length && seconds % length === 0) return `${seconds / length} ${unit}`;
  }
  return `${seconds} s`;
}

// Characters that draw nothing or turn the direction of text are spelled out; an empty name is called so.
export function visible(text) {
  if (text === "") return "(empty)";
  // eslint-disable-next-line no-control-regex
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g, (character) =>
    `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

const NAMES = { __none__: "(none)", __other__: "(others)" };
export const groupName = (name) => NAMES[name] ?? visible(name);
