// Elements. What comes from jobs and workers was written by strangers: it gets here as text, and stays text.

import { cutMiddle } from "./format.js";

/** The element of this id. */
export const at = (id) => document.getElementById(id);

/**
 * A new element.
 * @param {string} tag
 * @param {Object<string, string>} attributes
 * @param {...(Node|string)} children strings become text, never markup
 */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Show this text in the element; one that shows it already is left alone, and so is whoever reads or selects it. */
export function show(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Show a name without its middle, when it has more characters than so many: its tooltip has all of it. */
export const showName = (element, name, most) => showPart(element, cutMiddle(name, most), name);

/** Show a part of a text, of which the tooltip has all. */
export function showPart(element, part, whole) {
  show(element, part);
  if (part === whole) element.removeAttribute("title");
  else mark(element, "title", whole);
}

/** Set an attribute, unless it has this value already. */
export function mark(element, name, value) {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

/**
 * One child for each item, in their order: those that are there already are kept, so that focus and selection are too.
 * @param {Element} parent what it has besides these comes before them, and stays
 * @param {Array} items
 * @param {function(*): string} keyOf
 * @param {function(*): Element} create makes the child of an item
 * @param {function(Element, *, number): void} update shows an item in its child
 */
export function keep(parent, items, keyOf, create, update) {
  const made = [...parent.children].filter((child) => child.dataset.key !== undefined);
  const before = new Map(made.map((child) => [child.dataset.key, child]));
  let place = made[0] ?? null;
  items.forEach((item, index) => {
    const key = keyOf(item);
    let child = before.get(key);
    before.delete(key);
    if (!child) {
      child = create(item);
      child.dataset.key = key;
    }
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
    update(child, item, index);
  });
  for (const child of before.values()) child.remove();
}

/** Show the members of a description list: pairs of a name and a text or an element. */
export function describe(list, members) {
  const names = [...list.children].filter((child, index) => index % 2 === 0).map((name) => name.textContent);
  if (names.join("\n") !== members.map(([name]) => name).join("\n")) {
    list.replaceChildren(...members.flatMap(([name]) => [make("dt", {}, name), make("dd")]));
  }
  members.forEach(([, value], index) => {
    const place = list.children[index * 2 + 1];
    if (typeof value === "string") show(place, value);
    else place.replaceChildren(value);
  });
}
