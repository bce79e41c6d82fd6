// What may be long (a traceback, a body, a result): the beginning of it, how much more there is, and all of it as a file.

import { make } from "./dom.js";
import { count } from "./format.js";

/** So many bytes are shown. */
const MOST = 20000;

/** Milliseconds after which the browser has surely begun to save a file. */
const SAVED = 10000;

/**
 * The beginning of a blob.
 * @param {Blob} blob
 * @param {boolean} isText it is shown as UTF-8; else in base64
 * @returns {Promise<{text: string, more: number}>} the text to show, and how many bytes are not in it
 */
export async function beginning(blob, isText) {
  const first = await blob.slice(0, MOST).arrayBuffer();
  if (!isText) return { text: btoa(String.fromCharCode(...new Uint8Array(first))), more: blob.size - first.byteLength };
  const text = new TextDecoder("utf-8", { ignoreBOM: true }).decode(first, { stream: true }); // no half of a character
  return { text, more: blob.size - new Blob([text]).size };
}

/**
 * What stands below a beginning: how many bytes it leaves out, and a button that saves all as a file.
 * @param {Blob} blob all of it
 * @param {number} more
 * @param {string} name of the file
 */
export function remainder(blob, more, name) {
  const button = make("button", { type: "button" }, "Download all");
  button.addEventListener("click", () => save(blob, name));
  return make("p", { class: "rest" }, make("span", { class: "quiet" }, more ? `… ${count(more)} bytes more` : ""), button);
}

function save(blob, name) {
  const address = URL.createObjectURL(blob);
  make("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), SAVED); // the browser may read it after the click
}
