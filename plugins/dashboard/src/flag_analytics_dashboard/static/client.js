// Asks the API, and turns whatever goes wrong into words that say what to do.

import { API } from "./state.js";

export class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

export function address(path, parameters = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== "" && one !== null && one !== undefined) query.append(name, one);
    }
  }
  const text = query.toString();
  return `${API}${path}${text ? `?${text}` : ""}`;
}

export async function ask(path, parameters = {}, signal = undefined) {
  let answer;
  try {
    answer = await fetch(address(path, parameters), { signal, headers: { Accept: "application/json" } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "The server does not answer. It is asked again in a moment.");
  }
  if (answer.ok) return answer.json();
  if (answer.status === 401) {
    location.reload();
    throw new Problem(401, "The session has ended.");
  }
  let words = `The server answered with ${answer.status}.`;
  try {
    const problem = await answer.json();
    words = problem.detail + (problem.expected ? ` (expected: ${problem.expected})` : "");
  } catch {
    // Not one of the API's own answers: a proxy's, perhaps.
  }
  throw new Problem(answer.status, words[0].toUpperCase() + words.slice(1));
}

// A key that no path can hold is written in Base64; see the API.
export function keyPath(key) {
  if (key !== "" && key !== "." && key !== ".." && !key.startsWith("~") && !/[/\\]/.test(key)) {
    return `/flags/${encodeURIComponent(key)}`;
  }
  const bytes = new TextEncoder().encode(key);
  const text = btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  return `/flags/~${text}`;
}
