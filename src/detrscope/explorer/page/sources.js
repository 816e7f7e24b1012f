// Where payloads come from: the file itself, a server, or a model in this browser. All have the same three methods.

import { Payload, embeddedPayload } from "./payload.js";

/**
 * @typedef {{
 *   model: string,
 *   canEdit: boolean,
 *   canOpen: boolean,
 *   offered: string[],
 *   first: () => Promise<Payload | null>,
 *   open: (image: Blob | string) => Promise<Payload>,
 *   edit: (edits: string[]) => Promise<Payload>,
 * }} Source
 */

/** Everything is in the page: nothing can be run. */
class EmbeddedSource {
  /** @param {string} model @param {HTMLElement[]} elements each with a payload in base64 */
  constructor(model, elements) {
    this.model = model;
    this.elements = elements;
    this.canEdit = this.canOpen = false;
    this.offered = elements.map((element) => element.dataset.name ?? "");
    /** @type {Map<number, Promise<Payload>>} */
    this.read = new Map();
  }

  first() {
    return this.elements.length ? this.at(0) : Promise.resolve(null);
  }

  /** @param {number} index @returns {Promise<Payload>} */
  at(index) {
    const known = this.read.get(index) ?? embeddedPayload(this.elements[index].textContent ?? "");
    this.read.set(index, known);
    return known;
  }

  /** @param {Blob | string} image name of an embedded one @returns {Promise<Payload>} */
  open(image) {
    return this.at(Math.max(0, this.offered.indexOf(String(image))));
  }

  /** @returns {Promise<Payload>} */
  edit() {
    return Promise.reject(new Error("this file has no model; detrscope explore applies edits"));
  }
}

/** A server on this machine runs the model: `detrscope explore`. */
class ServerSource {
  /** @param {{model: string, token: string, offered: string[], canEdit: boolean}} info */
  constructor(info) {
    this.model = info.model;
    this.offered = info.offered;
    this.token = info.token;
    this.canEdit = info.canEdit;
    this.canOpen = info.canEdit;
    /** @type {{image: string} | {bytes: Blob} | null} */
    this.current = null;
    /** @type {AbortController | null} */
    this.running = null;
  }

  async first() {
    return this.offered.length ? this.open(this.offered[0]) : null;
  }

  /** @param {Blob | string} image */
  open(image) {
    this.current = typeof image === "string" ? { image } : { bytes: image };
    return this.edit([]);
  }

  /** @param {string[]} edits @returns {Promise<Payload>} */
  async edit(edits) {
    if (!this.current) throw new Error("open a picture first");
    this.running?.abort(); // only the last request counts
    this.running = new AbortController();
    const form = new FormData();
    if ("image" in this.current) form.set("name", this.current.image);
    else form.set("file", this.current.bytes, "picture");
    form.set("edits", JSON.stringify(edits));
    const answer = await fetch("api/trace", { method: "POST", body: form, headers: { "X-Detrscope-Token": this.token }, signal: this.running.signal });
    if (!answer.ok) throw new Error(await problemOf(answer));
    return new Payload(await answer.arrayBuffer());
  }
}

/** What a server says went wrong. @param {Response} answer */
async function problemOf(answer) {
  try {
    return (await answer.json()).detail;
  } catch {
    return `the server answered ${answer.status}`;
  }
}

export { EmbeddedSource, ServerSource };
