// What happened: the changes that somebody would want to hear of. It is a live region, so that screen readers say
// them, and nothing else on the page speaks by itself.

import { at, make } from "./dom.js";
import { iso, moment, several, short } from "./format.js";

/** So many lines are kept. */
const LINES = 50;

/** More workers than these that change to the same state at once are one line. */
const ONE_BY_ONE = 3;

let states = null; // of workers, by address
let admitted = null;

/** A line. */
export function note(text, tone = "unknown", seconds = Date.now() / 1000) {
  const log = at("log");
  log.prepend(make("li", { "data-tone": tone }, make("time", { datetime: iso(seconds) }, moment(seconds)), ` ${text}`));
  while (log.children.length > LINES) log.lastChild.remove();
}

/** Note what differs from the last snapshot. */
export function compare({ stats, workers }, [admission, tone]) {
  if (admitted !== null && admitted !== admission) {
    note(stats.trouble ? `${admission}: ${stats.trouble}` : admission, tone, stats.time);
  }
  admitted = admission;

  const changed = new Map();
  for (const worker of workers) {
    const before = states?.get(worker.address);
    const news = states === null ? worker.state === "lost" : before !== worker.state;
    if (news) changed.set(worker.state, [...(changed.get(worker.state) ?? []), worker]);
  }
  for (const [state, those] of changed) {
    if (those.length > ONE_BY_ONE) note(`${several(those.length, "worker", "workers")}: ${state}`, toneOf(state), stats.time);
    else for (const worker of those) note(line(worker), toneOf(state), worker.since ?? stats.time);
  }
  states = new Map(workers.map((worker) => [worker.address, worker.state]));
}

const line = ({ address, state, why }) => `${short(address)} is ${state}${why ? `: ${why}` : ""}`;

const toneOf = (state) => ({ ready: "good", leaving: "warn", lost: "bad" })[state] ?? "unknown";
