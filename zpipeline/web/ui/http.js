// Requests to the server that this page came from. Paths are relative to the page, so that it works behind a prefix too.

/** What went wrong, in words for who looks at the page. */
export class Refused extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/**
 * One request.
 * @throws {Refused} there was no answer, or one of 400 or more
 */
export async function ask(method, path, { body, type } = {}) {
  const headers = new Headers();
  try {
    if (type) headers.set("Content-Type", type);
  } catch {
    throw new Refused("a content type is plain ASCII, such as text/plain");
  }
  let answer;
  try {
    answer = await fetch(path, { method, body, headers, cache: "no-store" });
  } catch {
    throw new Refused("zpipe-web does not answer");
  }
  if (answer.status < 400) return answer;
  let detail = `zpipe-web answers ${answer.status}`;
  if (answer.headers.get("Content-Type") === "application/problem+json") detail = (await answer.json()).detail;
  throw new Refused(detail, answer.status);
}

/** One request whose answer is JSON. */
export const askJson = async (...request) => (await ask(...request)).json();
