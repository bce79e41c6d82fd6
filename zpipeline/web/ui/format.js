// Figures, as people read them.

export const NOTHING = "–";

const whole = new Intl.NumberFormat("en");
const tenths = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const digits = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const day = new Intl.DateTimeFormat(undefined, { year: "numeric", month: "2-digit", day: "2-digit" });

/** A whole number. */
export const count = (number) => (number == null ? NOTHING : whole.format(number));

/** How many a second. */
export function rate(number) {
  if (number == null) return NOTHING;
  return number > 0 && number < 10 ? tenths.format(number) : whole.format(Math.round(number));
}

/** A part of 1, in per cent. */
export const percent = (part) => (part == null ? NOTHING : `${Math.round(part * 100)} %`);

/** A time that was measured, in seconds. */
export function took(seconds) {
  if (seconds == null) return NOTHING;
  if (seconds < 1) return `${digits.format(seconds * 1000)} ms`;
  return seconds < 1000 ? `${digits.format(seconds)} s` : span(seconds);
}

/** For how long something has been so, in seconds. */
export function span(seconds) {
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const left = Math.max(0, Math.floor(seconds));
  const first = units.findIndex(([, size]) => left >= size);
  if (first < 0) return "0 s";
  const [name, size] = units[first];
  const large = `${Math.floor(left / size)} ${name}`;
  const next = units[first + 1];
  const rest = next ? Math.floor((left % size) / next[1]) : 0;
  return rest && first < 2 ? `${large} ${rest} ${next[0]}` : large;
}

/** A size in bytes. */
export function bytes(size) {
  if (size < 1000) return `${size} B`;
  return size < 1e6 ? `${digits.format(size / 1000)} kB` : `${digits.format(size / 1e6)} MB`;
}

/** A moment, in seconds since the epoch, by the reader's own clock: today's without the day. */
export function moment(seconds) {
  const when = new Date(seconds * 1000);
  const time = clock.format(when);
  return when.toDateString() === new Date().toDateString() ? time : `${day.format(when)} ${time}`;
}

/** The same for machines. */
export const iso = (seconds) => new Date(seconds * 1000).toISOString();

/** The beginning of a text, when it has more characters than so many. */
export const cut = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

/** A name without its middle, when it has more characters than so many: what tells names apart is often at the end. */
export function cutMiddle(name, most) {
  if (name.length <= most) return name;
  const end = Math.floor((most - 1) / 2);
  return `${name.slice(0, most - 1 - end)}…${name.slice(-end)}`;
}

/** An address without what all of them begin with. */
export const short = (address) => address.replace(/^tcp:\/\//, "");

/** One of them, several of them. */
export const several = (number, one, many) => `${count(number)} ${number === 1 ? one : many}`;
