// Jobs a second by worker: stacked areas, and the same as a table and as a sentence.

import { at, keep, make, show, showName } from "./dom.js";
import { cutMiddle, moment, percent, rate, several, short, span } from "./format.js";

/** How many seconds are shown. */
const WINDOW = 180;

/** Where the axis is marked, in seconds before now. */
const MARKS = [180, 150, 120, 90, 60, 30, 0];

/** Seconds between two snapshots from which on the time between is shown as unknown. */
const GAP = 3;

/** Seconds between two changes of the sentence, which screen readers read. */
const SENTENCE = 10;

/** So many characters of an address are shown. */
const NAME = 32;

/** So many colours there are; more workers have them in turn. */
export const COLOURS = 10;

const points = []; // { time, rates: Map of address to jobs a second, or null in a gap }
let addresses = [];
let chart = null;
let told = 0;

/** Take note of a snapshot. */
export function record({ stats, workers }) {
  const last = points.at(-1);
  if (last && stats.time - last.time > GAP) points.push({ time: last.time + 1, rates: null });
  points.push({ time: stats.time, rates: new Map(workers.map((worker) => [worker.address, worker.rate ?? 0])) });
  while (points[0].time < stats.time - WINDOW - GAP) points.shift();
  addresses = workers.map((worker) => worker.address);
}

/** Show what was noted. */
export function draw() {
  const { time } = points.at(-1);
  plot(time);
  keep(at("legend"), addresses, (address) => address, legend, (item, _, index) => colour(item.firstChild, index));
  if (at("throughput-table").open) table();
  if (time - told >= SENTENCE) {
    told = time;
    sentence();
  }
}

/** Give an element the colour of a worker, by its place in the list. */
export function colour(element, index) {
  element.dataset.colour = index % COLOURS;
}

function legend(address) {
  return make("li", {}, make("span", { class: "swatch" }), named(address));
}

function named(address) {
  const name = make("span");
  showName(name, short(address), NAME);
  return name;
}

const brief = (address) => cutMiddle(short(address), NAME);

function plot(time) {
  chart ??= newChart();
  if (!chart) return;
  const { data, options } = chart;
  data.datasets = addresses.map((address, index) => {
    const set = data.datasets[index] ?? newSet(index);
    set.label = brief(address);
    set.data = points.map((point) => ({ x: point.time, y: point.rates ? (point.rates.get(address) ?? 0) : NaN }));
    return set;
  });
  options.scales.x.min = time - WINDOW;
  options.scales.x.max = time;
  chart.update("none");
}

function newSet(index) {
  return {
    fill: "stack",
    borderWidth: 1,
    pointRadius: 0,
    pointHitRadius: 0,
    borderColor: style("--panel"),
    backgroundColor: style(`--worker-${index % COLOURS}`),
  };
}

function newChart() {
  if (!globalThis.Chart) return null; // the server has no Chart.js: the table is there
  Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
  Chart.defaults.font.size = 12;
  const made = new Chart(at("plot"), {
    type: "line",
    data: { datasets: [] },
    options: {
      animation: false,
      events: ["mousemove", "mouseout", "touchstart", "touchmove"],
      interaction: { mode: "index", intersect: false },
      maintainAspectRatio: false,
      normalized: true,
      parsing: false,
      scales: {
        x: {
          type: "linear",
          border: { display: false },
          grid: { display: false },
          afterBuildTicks: (axis) => (axis.ticks = MARKS.map((before) => ({ value: axis.max - before }))),
          ticks: { autoSkip: false, maxRotation: 0, callback(value) { return mark(this.max - value); } },
        },
        y: {
          beginAtZero: true,
          border: { display: false },
          stacked: true,
          suggestedMax: 1,
          ticks: { maxTicksLimit: 6, precision: 0, callback: (value) => rate(value) },
        },
      },
      plugins: {
        legend: { display: false },
        tooltip: {
          itemSort: (a, b) => b.datasetIndex - a.datasetIndex,
          callbacks: {
            title: ([item]) => item && moment(item.parsed.x),
            label: (item) => ` ${item.dataset.label}: ${rate(item.parsed.y)}`,
            footer: (items) => `together: ${rate(items.reduce((sum, item) => sum + item.parsed.y, 0))}`,
          },
        },
      },
    },
  });
  const paint = () => {
    for (const axis of Object.values(made.options.scales)) {
      axis.ticks.color = style("--quiet");
      axis.grid.color = style("--line");
    }
    made.data.datasets.forEach((set, index) => Object.assign(set, newSet(index)));
  };
  paint();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    paint();
    made.update("none");
  });
  return made;
}

function mark(before) {
  const seconds = Math.round(before);
  if (seconds === 0) return "now";
  return innerWidth < 640 && seconds % 60 ? "" : `${seconds} s ago`;
}

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Now, mean and most of each worker: `[address, now, mean, most]`. */
function digest() {
  const known = points.filter((point) => point.rates);
  return addresses.map((address) => {
    const rates = known.map((point) => point.rates.get(address) ?? 0);
    const sum = rates.reduce((total, each) => total + each, 0);
    return [address, rates.at(-1), sum / rates.length, Math.max(...rates)];
  });
}

function table() {
  const row = (address) =>
    make("tr", {}, make("th", { scope: "row" }, make("span", { class: "swatch" }), named(address)),
      ...[1, 2, 3].map(() => make("td", { class: "number" })));
  keep(at("throughput-table").querySelector("tbody"), digest(), ([address]) => address, ([address]) => row(address),
    (element, [, ...figures], index) => {
      colour(element.querySelector(".swatch"), index);
      figures.forEach((figure, column) => show(element.cells[column + 1], rate(figure)));
    });
}

function sentence() {
  const now = digest();
  const sum = now.reduce((total, [, rate]) => total + rate, 0);
  const parts = now.map(([address, rate]) => `${brief(address)} ${sum ? percent(rate / sum) : "none"}`);
  show(at("throughput-summary"),
    `${rate(sum)} jobs a second by ${several(now.length, "worker", "workers")}: ${parts.join(", ")}. ` +
    `Shown are the last ${span(Math.min(WINDOW, points.at(-1).time - points[0].time))}.`);
}

at("throughput-table").addEventListener("toggle", () => points.length && table());
