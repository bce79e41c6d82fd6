// One job: looked up by its id and followed until it is settled; and one to try it all with.

import { at, describe, make } from "./dom.js";
import { beginning, remainder } from "./excerpt.js";
import { bytes, cut, moment, took } from "./format.js";
import { ask, askJson, Refused } from "./http.js";

/** Milliseconds between two looks at a job that is not settled. */
const OFTEN = 1000;

/** So many characters of an error are shown. */
const MOST = 2000;

const ID = /^[0-9a-f]{32}$/;

let following = 0;

/** Look this job up, and follow it until it is settled. */
export async function lookUp(id) {
  const mine = ++following;
  at("lookup").elements.id.value = id;
  tell("lookup-said", "");
  at("lookup-job").hidden = true;
  at("lookup-result").hidden = true;
  for (;;) {
    let job;
    try {
      if (!ID.test(id)) throw new Refused("an id is 32 characters, 0 to 9 and a to f");
      job = await askJson("GET", `jobs/${id}`);
    } catch (error) {
      if (mine !== following) return;
      complain("lookup-said", error);
      at("lookup-job").hidden = true;
      return;
    }
    if (mine !== following) return;
    showJob(job);
    if (job.settled_at !== null) {
      if (job.state === "done") await showResult(id, mine);
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, OFTEN));
    if (mine !== following) return;
  }
}

function showJob(job) {
  tell("lookup-said", job.state, { done: "good", dead: "bad", retrying: "warn" }[job.state]);
  const list = at("lookup-job");
  describe(list, [
    ["State", job.state],
    ["Attempts", String(job.attempts)],
    ["Accepted", moment(job.accepted_at)],
    ...(job.settled_at === null ? [] : [["Settled", `${moment(job.settled_at)}, ${took(job.settled_at - job.accepted_at)} later`]]),
    ...(job.error === null ? [] : [["Error", make("span", { class: "code" }, cut(job.error, MOST))]]),
  ]);
  list.hidden = false;
}

async function showResult(id, mine) {
  let about;
  let content = "";
  let rest = [];
  try {
    const answer = await ask("GET", `jobs/${id}/result`);
    const type = answer.headers.get("Content-Type") ?? "";
    const blob = await answer.blob();
    about = `${type}, ${bytes(blob.size)}`;
    if (isText(type)) {
      const { text, more } = await beginning(blob, true);
      content = text;
      if (more) rest = [remainder(blob, more, `${id}-result.txt`)];
    } else rest = [remainder(blob, 0, `${id}-result.bin`)];
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    about = error.message;
  }
  if (mine !== following) return;
  at("lookup-type").textContent = about;
  at("lookup-content").textContent = content;
  at("lookup-content").hidden = content === "";
  at("lookup-rest").replaceChildren(...rest);
  at("lookup-result").hidden = false;
}

const isText = (type) => type.startsWith("text/") || type.startsWith("application/json");

async function push(event) {
  event.preventDefault();
  const { body, type } = Object.fromEntries(new FormData(at("push")));
  try {
    const { id } = await askJson("POST", "./", { body, type });
    tell("push-said", `Accepted: ${id}`, "good");
    lookUp(id);
  } catch (error) {
    complain("push-said", error);
  }
}

function tell(place, text, tone = "unknown") {
  if (at(place).textContent !== text) at(place).textContent = text;
  at(place).dataset.tone = tone;
}

function complain(place, error) {
  if (!(error instanceof Refused)) throw error;
  tell(place, error.message, "bad");
}

at("lookup").addEventListener("submit", (event) => {
  event.preventDefault();
  lookUp(at("lookup").elements.id.value.trim());
});
at("push").addEventListener("submit", push);
