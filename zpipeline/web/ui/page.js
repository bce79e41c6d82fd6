// The page: each snapshot goes to all parts of it.

import { noticeDead } from "./dead.js";
import { at, mark, show } from "./dom.js";
import { moment, span } from "./format.js";
import "./jobs.js";
import { compare, note } from "./log.js";
import { admission, showOverview } from "./overview.js";
import { follow } from "./stream.js";
import { draw, record } from "./throughput.js";
import { showWorkers } from "./workers.js";

let latest = null;
let state = null;

function render() {
  showOverview(latest);
  showWorkers(latest);
  draw();
  const lost = latest.workers.filter((worker) => worker.state === "lost").length;
  const worry = state !== "live" ? "no connection" : lost ? `${lost} lost` : "";
  show(document.querySelector("title"), [worry, "zpipeline", latest.stats.host].filter(Boolean).join(" · "));
}

function snapshot(news) {
  latest = news;
  record(news);
  compare(news, admission(news.stats));
  if (document.hidden) return; // it is shown once somebody looks
  noticeDead(news);
  render();
}

const PILLS = { live: ["live", "good"], silent: ["silent", "warn"], broken: ["no connection", "bad"] };

function connection(now, last) {
  if (now !== state && (state !== null || now !== "live")) {
    if (now === "live") note("connected again", "good");
    else if (state === null || state === "live") note("zpipe-web says nothing", "bad");
  }
  const changed = now !== state;
  state = now;
  const [text, tone] = PILLS[now];
  show(at("stream"), text);
  mark(at("stream"), "data-tone", tone);
  document.body.classList.toggle("old", now !== "live");
  at("notice").hidden = now === "live";
  if (now !== "live") {
    const since = `No word from zpipe-web since ${moment(last / 1000)}, ${span((Date.now() - last) / 1000)} ago.`;
    show(at("notice"), `${since} What is below is from then. It is asked again every two seconds.`);
  }
  if (changed && latest && !document.hidden) render();
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden || !latest) return;
  noticeDead(latest);
  render();
});

follow(snapshot, connection);
