// A row for each worker.

import { at, keep, make, mark, show, showName, showPart } from "./dom.js";
import { count, cutMiddle, iso, moment, NOTHING, percent, rate, several, short, span, took } from "./format.js";
import { colour } from "./throughput.js";

const TONES = { connecting: "unknown", ready: "good", leaving: "warn", lost: "bad" };

/** So many characters of an address, a handler's name, a machine's and a version are shown. */
const NAME = 48;

/** So many handlers that differ are named. */
const HANDLERS = 5;

const FIGURES = [
  ["rate", "Jobs a second", (worker) => rate(worker.rate)],
  ["share", "Share", null],
  ["in_flight", "In flight", (worker) => room(worker)],
  ["done", "Done", (worker) => count(worker.done)],
  ["failed", "Failed", (worker) => count(worker.failed)],
  ["returned", "Returned", (worker) => count(worker.returned)],
  ["start", "To start, p50 / p99", (worker) => pair(worker.latency?.start)],
  ["run", "Run, p50 / p99", (worker) => pair(worker.latency?.run)],
];

/** Show the workers of a snapshot. */
export function showWorkers({ stats, workers }) {
  show(at("workers-differ"), differing(workers));
  keep(at("worker-rows"), workers, (worker) => worker.address, create, (row, worker, index) =>
    update(row, worker, index, stats.time));
}

/** What is to be said of ready workers that have not all the same handler: each job goes to any of them. */
function differing(workers) {
  const numbers = new Map();
  for (const { state, handler } of workers) {
    if (state === "ready" && handler != null) numbers.set(handler, (numbers.get(handler) ?? 0) + 1);
  }
  if (numbers.size < 2) return "";
  const shown = [...numbers].slice(0, HANDLERS)
    .map(([handler, number]) => `${cutMiddle(handler, NAME)} (${several(number, "worker", "workers")})`);
  const more = numbers.size > HANDLERS ? [`${count(numbers.size - HANDLERS)} more`] : [];
  return `Handlers differ, and each job goes to any of them: ${[...shown, ...more].join(", ")}.`;
}

function create(worker) {
  const address = make("span", { class: "code" });
  showName(address, short(worker.address), NAME);
  const name = make("th", { scope: "row", role: "rowheader" },
    make("span", { class: "swatch" }), address,
    make("span", { class: "quiet below", "data-part": "handler" }),
    make("span", { class: "quiet below", "data-part": "process" }));
  const state = make("td", { role: "cell", class: "across", "data-label": "State" },
    make("span", { class: "pill", "data-part": "state" }),
    make("span", { class: "quiet below" }, make("time", { "data-part": "since" })),
    make("span", { class: "clamp", "data-part": "why" }));
  return make("tr", { role: "row" }, name, state, ...FIGURES.map(([part, label]) => cell(part, label)));
}

function cell(part, label) {
  const element = make("td", { role: "cell", class: "number", "data-label": label, "data-part": part });
  if (part === "start" || part === "run") element.classList.add("across");
  if (part === "share") element.append(make("span", { class: "bar" }, make("span")), make("span"));
  return element;
}

function update(row, worker, index, time) {
  const part = (name) => row.querySelector(`[data-part="${name}"]`);
  mark(row, "data-state", worker.state);
  colour(row.querySelector(".swatch"), index);
  const known = worker.host != null;
  showName(part("handler"), known ? worker.handler : silence(worker), NAME);
  const { host, version } = worker;
  const process = (most) =>
    `${cutMiddle(host, most)} · pid ${worker.pid} · ${cutMiddle(version, most)} · ${worker.concurrency} at once`;
  showPart(part("process"), known ? process(NAME) : "", known ? process(Infinity) : "");
  show(part("state"), worker.state);
  mark(part("state"), "data-tone", TONES[worker.state] ?? "unknown");
  if (worker.since != null) {
    show(part("since"), `for ${span(time - worker.since)}`);
    mark(part("since"), "datetime", iso(worker.since));
    mark(part("since"), "title", `since ${moment(worker.since)}`);
  }
  show(part("why"), worker.why ?? "");
  mark(part("why"), "title", worker.why ?? "");
  for (const [name, , text] of FIGURES) if (text) show(part(name), text(worker));
  const [bar, share] = part("share").children;
  colour(bar.firstChild, index);
  bar.firstChild.style.width = `${(worker.share ?? 0) * 100}%`;
  show(share, percent(worker.share));
}

/** Of one that has not said what it is: a plain PULL socket never does. */
const silence = ({ state }) => (state === "ready" ? "says nothing of itself" : "not heard of yet");

const room = ({ in_flight: inFlight, window: size }) =>
  size == null ? count(inFlight) : `${count(inFlight)} of\u00a0${count(size)}`;

function pair(latency) {
  if (latency?.p50 == null) return NOTHING;
  const whole = (seconds) => took(seconds).replace(" ", "\u00a0"); // a line ends between the two, if it must
  return `${whole(latency.p50)}\u00a0/ ${whole(latency.p99)}`;
}
