// Dead letters: a page of them, all of one, and what can be done with them.

import { confirm } from "./dialog.js";
import { at, describe, keep, make, show, showName } from "./dom.js";
import { beginning, remainder } from "./excerpt.js";
import { bytes, count, cut, iso, moment, several } from "./format.js";
import { ask, askJson, Refused } from "./http.js";
import { lookUp } from "./jobs.js";

const FIRST = "dead?limit=20";

/** Milliseconds between two looks at the list while it changes. */
const OFTEN = 2000;

/** So many characters of a handler's name and of an error are shown in the table and in questions. */
const NAME = 38;
const ERROR = 400;

let path = FIRST;
let earlier = []; // the paths of the pages before
let next = null;
let letters = [];
let asked = 0;
let total = 0;
let seen = null; // what a snapshot said of them when they were asked for last
let timer = null;

/** A snapshot has come: dead letters may have come or gone. */
export function noticeDead({ stats }) {
  total = stats.dead_letters;
  show(at("dead-count"), total ? `${count(total)} in all` : "");
  const now = `${stats.pid} ${stats.dead} ${stats.dead_letters}`;
  if (now === seen || timer !== null) return;
  timer = setTimeout(() => (timer = null), OFTEN);
  seen = now;
  load();
}

async function load() {
  const mine = ++asked;
  try {
    const page = await askJson("GET", path);
    if (mine !== asked) return;
    if (!page.dead.length && earlier.length) {
      path = earlier.pop(); // the last ones of the last page are gone
      load();
      return;
    }
    letters = page.dead;
    next = page.next && page.next.slice(1);
    render();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    seen = null; // once more, with the next snapshot
  }
}

function render() {
  const table = at("dead-table");
  const place = [...table.tBodies].findIndex((body) => body.contains(document.activeElement));
  keep(table, letters, keyOf, create, () => {});
  at("dead-none").hidden = letters.length > 0;
  table.hidden = letters.length === 0;
  at("dead-pages").hidden = earlier.length === 0 && next === null;
  at("dead-back").disabled = earlier.length === 0;
  at("dead-next").disabled = next === null;
  show(at("dead-page"), `page ${earlier.length + 1}`);
  const handlers = [...new Set(letters.map((letter) => letter.handler))];
  keep(at("dead-handlers"), handlers, (name) => name, (name) => make("option", { value: name }), () => {});
  showMatching();
  if (place >= 0 && document.activeElement === document.body) {
    (table.tBodies[Math.min(place, table.tBodies.length - 1)]?.querySelector("button") ?? at("dead-title")).focus();
  }
}

/** A job that was retried and died again is another letter. */
const keyOf = (letter) => `${letter.id} ${letter.settled_at}`;

/** A body of the table: the row of a letter, and below it all of it, when that is asked for. */
function create(letter) {
  const button = (text, act) => {
    const made = make("button", { type: "button", "aria-label": `${text} ${letter.id}` }, text);
    made.addEventListener("click", act);
    return made;
  };
  const details = button("Details", () => unfold(letter, details, body));
  details.setAttribute("aria-expanded", "false");
  const cell = (label, content, kind = "") =>
    make("td", { role: "cell", "data-label": label, class: kind }, content);
  const died = make("time", { datetime: iso(letter.settled_at) }, moment(letter.settled_at));
  const handler = make("span");
  showName(handler, letter.handler || "unknown", NAME);
  const row = make("tr", { role: "row" },
    cell("Died", died, "across"),
    cell("Handler", handler, "code across"),
    cell("Error", make("span", { class: "clamp" }, cut(letter.error, ERROR)), "code across"),
    cell("Attempts", count(letter.attempts), "number"),
    cell("Strikes", count(letter.strikes), "number"),
    cell("Size", bytes(letter.size), "number"),
    make("td", { role: "cell", class: "acts" }, details,
      button("Retry…", () => retry(letter)), button("Drop…", () => drop(letter))));
  const body = make("tbody", { role: "rowgroup" }, row);
  return body;
}

async function unfold(letter, button, body) {
  if (body.rows.length > 1) {
    body.rows[1].remove();
    button.setAttribute("aria-expanded", "false");
    return;
  }
  let whole;
  try {
    whole = await askJson("GET", `dead/${letter.id}`);
  } catch (error) {
    complain(error);
    return;
  }
  if (body.rows.length > 1) return;
  const parts = await partsOf(whole);
  if (body.rows.length > 1) return;
  body.append(make("tr", { role: "row", class: "whole" }, make("td", { role: "cell", colspan: "7" }, ...parts)));
  button.setAttribute("aria-expanded", "true");
}

/** All of a letter, long texts by their beginnings. */
async function partsOf(whole) {
  const parts = [];
  const error = new Blob([whole.error]);
  const said = await beginning(error, true);
  parts.push(make("p", { class: "error code" }, said.text));
  if (said.more) parts.push(remainder(error, said.more, `${whole.id}-error.txt`));
  if (whole.traceback) parts.push(...(await block("Traceback", new Blob([whole.traceback]), `${whole.id}-traceback.txt`)));
  if (whole.body !== undefined) parts.push(...(await block("Body", new Blob([whole.body]), `${whole.id}-body.txt`, "wraps")));
  else {
    const body = new Blob([Uint8Array.from(atob(whole.body_base64), (char) => char.charCodeAt(0))]);
    parts.push(...(await block("Body, which is no text: in base64", body, `${whole.id}-body.bin`, "wraps", false)));
  }
  const job = make("dl", { class: "members" });
  describe(job, [
    ["Id", code(whole.id)],
    ["Accepted", moment(whole.accepted_at)],
    ["Handler", code(whole.handler || "unknown")],
  ]);
  const headers = make("dl", { class: "members" });
  describe(headers, Object.entries(whole.headers).map(([name, value]) => [name, code(value)]));
  const scrolls = make("div", { class: "scrolls", tabindex: "0", role: "group", "aria-label": "Headers" }, headers);
  return [...parts, make("h3", {}, "Job"), job, make("h3", {}, "Headers"), scrolls];
}

/** A block of text with its heading, and what is left out of it. */
async function block(title, blob, name, kind = "", isText = true) {
  const { text, more } = await beginning(blob, isText);
  const shown = [make("h3", {}, title), make("pre", { tabindex: "0", "aria-label": title, class: kind }, text)];
  return more || !isText ? [...shown, remainder(blob, more, name)] : shown;
}

const code = (text) => make("span", { class: "code" }, text);

const about = (letter) => [
  ["Id", code(letter.id)],
  ["Handler", code(letter.handler)],
  ["Error", make("span", { class: "code clamp" }, cut(letter.error, ERROR))],
];

async function retry(letter) {
  const text = "It becomes a job again, as if it had never been tried, and its handler runs.";
  if (!(await confirm({ title: "Retry this dead letter?", text, members: about(letter), yes: "Retry" }))) return;
  await act(async () => {
    await ask("POST", `dead/${letter.id}/retry`);
    tell(`${letter.id} is a job again.`);
    lookUp(letter.id);
  });
}

async function drop(letter) {
  const text = "It is thrown away for good, its body with it.";
  const question = { title: "Drop this dead letter?", text, members: about(letter), yes: "Drop", grave: true };
  if (!(await confirm(question))) return;
  await act(async () => {
    await ask("DELETE", `dead/${letter.id}`);
    tell(`${letter.id} is dropped.`);
  });
}

async function retryAll(event) {
  event.preventDefault();
  const { handler, error } = filters();
  const members = [
    ["Handler", handler || "any"],
    ["Error has the text", error || "any"],
    ["Dead letters in all", count(total)],
  ];
  const title = handler || error ? "Retry all that match?" : "Retry all dead letters?";
  const text = "They become jobs again, as if they had never been tried, and their handlers run.";
  if (!(await confirm({ title, text, members, yes: "Retry all" }))) return;
  await act(async () => {
    const query = new URLSearchParams(Object.entries({ handler, error }).filter(([, value]) => value)).toString();
    const { retried } = await askJson("POST", query ? `dead/retry?${query}` : "dead/retry");
    tell(`${several(retried, "dead letter is a job", "dead letters are jobs")} again.`);
  });
}

/** Do it, say what came of it, and show what is left. */
async function act(what) {
  try {
    await what();
  } catch (error) {
    complain(error);
  }
  await load();
}

const filters = () => Object.fromEntries(new FormData(at("retry-all")));

function showMatching() {
  const { handler, error } = filters();
  const here = letters.filter((letter) => (!handler || letter.handler === handler) && letter.error.includes(error));
  const text = handler || error ? `matches ${count(here.length)} of the ${count(letters.length)} below` : "";
  show(at("dead-matching"), text);
  at("retry-all").querySelector("button").textContent = handler || error ? "Retry all that match…" : "Retry all…";
}

function tell(text, tone = "good") {
  at("dead-said").textContent = text;
  at("dead-said").dataset.tone = tone;
}

function complain(error) {
  if (!(error instanceof Refused)) throw error;
  tell(error.message, "bad");
}

function turn(to, pages) {
  path = to;
  earlier = pages;
  load();
}

at("dead-next").addEventListener("click", () => turn(next, [...earlier, path]));
at("dead-back").addEventListener("click", () => turn(earlier.at(-1), earlier.slice(0, -1)));
at("retry-all").addEventListener("submit", retryAll);
at("retry-all").addEventListener("input", showMatching);
