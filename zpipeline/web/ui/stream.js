// The snapshots, GET /events: one a second, for as long as somebody looks.

/** Seconds without a snapshot after which the figures are old. */
const SILENT = 3;

/** Seconds without a snapshot after which the connection is given up: it may be one that nobody holds at the other end. */
const GIVE_UP = 10;

/** Seconds between two tries, when the server refuses. */
const RETRY = 2;

/** Seconds for which a page that nobody sees keeps its connection: browsers have six for each server, for all pages. */
const UNSEEN = 60;

/**
 * Follow the snapshots.
 * @param {function(Object): void} onSnapshot gets each
 * @param {function(string, number): void} onState gets "live" with each snapshot, and "silent" or "broken" each second
 *     while none comes, with the time of the last (milliseconds since the epoch)
 */
export function follow(onSnapshot, onState) {
  let source = null;
  let opened = 0;
  let last = Date.now();
  let unseen = 0;

  function open() {
    close();
    opened = Date.now();
    source = new EventSource("events");
    source.addEventListener("snapshot", (event) => {
      last = Date.now();
      onSnapshot(JSON.parse(event.data));
      onState("live", last);
    });
  }

  function close() {
    source?.close();
    source = null;
  }

  function look() {
    if (document.hidden) {
      unseen += 1;
      if (unseen > UNSEEN) close();
      return;
    }
    unseen = 0;
    const now = Date.now();
    const broken = !source || source.readyState !== EventSource.OPEN;
    const refused = !source || source.readyState === EventSource.CLOSED;
    const waited = (now - Math.max(last, opened)) / 1000;
    if ((refused && waited >= RETRY) || waited >= GIVE_UP) open();
    const silent = (now - last) / 1000;
    if (silent >= (broken ? 1 : SILENT)) onState(broken ? "broken" : "silent", last);
  }

  open();
  setInterval(look, 1000);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden || source) return;
    last = Date.now(); // it was let go: that is no silence
    open();
  });
}
