// The question before what cannot be undone.

import { at, describe } from "./dom.js";

/**
 * Ask.
 * @param {{title: string, text: string, members: Array, yes: string, grave: boolean}} question
 *     what is asked, what it is about (names and values), the word for yes, and whether it throws something away
 * @returns {Promise<boolean>} whether the answer is yes
 */
export function confirm({ title, text, members = [], yes, grave = false }) {
  const dialog = at("confirm");
  at("confirm-title").textContent = title;
  at("confirm-text").textContent = text;
  describe(at("confirm-members"), members);
  at("confirm-yes").textContent = yes;
  at("confirm-yes").dataset.tone = grave ? "bad" : "";
  dialog.returnValue = "";
  dialog.showModal();
  (grave ? at("confirm-no") : at("confirm-yes")).focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

at("confirm-no").addEventListener("click", () => at("confirm").close());
at("confirm-yes").addEventListener("click", () => at("confirm").close("yes"));
