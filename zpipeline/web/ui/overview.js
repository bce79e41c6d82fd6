// The figures at the top, latency, and the counts.

import { at, describe, make, mark, show, showPart } from "./dom.js";
import { count, cutMiddle, rate, several, span, took } from "./format.js";

/** So many characters of the machine's name are shown: it is at the top of all. */
const NAME = 40;

const REASONS = {
  full: "too many unsettled",
  draining: "draining",
  too_large: "too large",
  journal: "journal in trouble",
  journal_full: "no room for the journal",
  key_reused: "key of another request",
  keys_full: "too many keys",
};

/** Show a snapshot. */
export function showOverview({ stats, workers }) {
  figures(stats, workers);
  latency(stats.latency);
  counts(stats);
  const process = (host) => `${host} · pid ${stats.pid} · ${stats.version} · up ${span(stats.uptime)}`;
  showPart(at("process"), process(cutMiddle(stats.host, NAME)), process(stats.host));
  const [text, tone] = admission(stats);
  show(at("admission"), text);
  mark(at("admission"), "data-tone", tone);
}

/** A figure of more characters than so many is written smaller. */
const LARGE = 9;

/** Whether jobs are accepted: a word and its tone. */
export function admission(stats) {
  if (stats.draining) return ["draining", "warn"];
  if (stats.trouble) return ["journal in trouble", "bad"];
  return stats.accepting ? ["accepting jobs", "good"] : ["full", "bad"];
}

/** Refusals of all reasons. */
const refusals = (stats) => Object.entries(stats.refused).filter(([, number]) => number > 0);

/** How many jobs were handed out again, and how many of these since their workers were lost. */
function redelivered({ redelivered, redeliveries: { lost } }) {
  return lost ? `${count(redelivered)}, ${count(lost)} of lost workers` : count(redelivered);
}

function figures(stats, workers) {
  const ready = workers.filter((worker) => worker.state === "ready");
  const windows = ready.reduce((sum, worker) => sum + (worker.window ?? 0), 0);
  const others = ["lost", "leaving", "connecting"]
    .map((state) => [state, workers.filter((worker) => worker.state === state).length])
    .filter(([, number]) => number > 0);
  const refused = refusals(stats);
  const all = refused.reduce((sum, [, number]) => sum + number, 0);

  figure("accepted", rate(stats.rates.accepted), `${count(stats.accepted)} in all`);
  figure("settled", rate(stats.rates.settled), `${count(stats.done)} done, ${count(stats.dead)} dead`);
  const oldest = stats.oldest_waiting >= 1 ? `the oldest for ${span(stats.oldest_waiting)}` : "for a worker or a retry";
  figure("waiting", count(stats.waiting), oldest);
  figure("in_flight", count(stats.in_flight), windows ? `room for ${count(windows)}` : "");
  const tone = ready.length === 0 ? "bad" : others.length ? "warn" : "";
  const states = others.map(([state, number]) => `${count(number)} ${state}`).join(", ");
  figure("workers", `${count(ready.length)} of ${count(workers.length)}`, states, tone);
  figure("dead", count(stats.dead_letters), stats.dead_letters ? "to be looked at" : "", stats.dead_letters ? "warn" : "");
  figure("refused", count(all), refused.map(([reason, number]) => `${REASONS[reason] ?? reason} ${count(number)}`).join(", "));
}

function figure(name, value, note, tone = "") {
  const element = document.querySelector(`[data-figure="${name}"]`);
  show(element, value);
  element.classList.toggle("many", value.length > LARGE);
  mark(element.parentElement, "data-tone", tone);
  show(document.querySelector(`[data-note="${name}"]`), note);
}

function latency(stages) {
  for (const row of at("latency").tBodies[0].rows) {
    const stage = stages[row.dataset.latency];
    ["p50", "p90", "p99"].forEach((name, index) => {
      const cell = row.cells[index + 1] ?? row.appendChild(make("td", { class: "number" }));
      show(cell, took(stage?.[name]));
    });
  }
}

function counts(stats) {
  show(at("counts-since"), `in ${span(stats.uptime)}, since the process started`);
  const { journal } = stats;
  describe(at("counts"), [
    ["Accepted", count(stats.accepted)],
    ["Done", count(stats.done)],
    ["Dead", count(stats.dead)],
    ["Attempts that failed", count(stats.failed)],
    ["Redelivered", redelivered(stats)],
    ["Messages that broke the protocol", count(stats.bad_messages)],
    ...refusals(stats).map(([reason, number]) => [`Refused: ${REASONS[reason] ?? reason}`, count(number)]),
    ["Journal", journal ? several(journal.commits, "commit", "commits") : "none: jobs are in memory"],
    ...(journal ? [["A commit, p50 / p99", `${took(journal.seconds_p50)} / ${took(journal.seconds_p99)}`]] : []),
  ]);
}
