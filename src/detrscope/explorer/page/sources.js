// Where payloads come from: the file itself, a server, or a model in this browser. All have the same three methods.

import { isSwap } from "./edits.js";
import { Payload, embeddedPayload } from "./payload.js";
import { Runs } from "./run.js";

/**
 * @typedef {{
 *   model: string,
 *   canEdit: boolean,
 *   canSwap: boolean,
 *   canOpen: boolean,
 *   offered: string[],
 *   runs: Runs | null,
 *   first: () => Promise<Payload | null>,
 *   open: (image: Blob | string) => Promise<Payload>,
 *   edit: (edits: string[]) => Promise<Payload>,
 * }} Source
 */

/** Everything is in the page: nothing can be run. */
class EmbeddedSource {
  /** @param {{model?: string, runs?: import("./run.js").RunInfo[]}} info @param {HTMLElement[]} elements each with a payload in base64 */
  constructor(info, elements) {
    this.model = info.model ?? "MODEL";
    this.elements = elements;
    this.canEdit = this.canOpen = this.canSwap = false;
    const names = elements.map((element) => element.dataset.name ?? "");
    this.runs = info.runs ? new Runs(info.runs, (name) => this.at(names.indexOf(name))) : null;
    this.offered = this.runs ? [] : names;
    /** @type {Map<number, Promise<Payload>>} */
    this.read = new Map();
  }

  first() {
    return this.offered.length ? this.at(0) : Promise.resolve(null);
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
  /** @param {{model: string, token: string, offered: string[], canEdit: boolean, runs?: import("./run.js").RunInfo[]}} info */
  constructor(info) {
    this.model = info.model;
    this.offered = info.offered;
    this.token = info.token;
    this.canEdit = info.canEdit;
    this.canOpen = this.canSwap = info.canEdit;
    this.runs = info.runs?.length ? new Runs(info.runs, (name) => this.snapshot(name)) : null;
    /** @type {{image: string} | {bytes: Blob} | null} */
    this.current = null;
    /** @type {{image: string} | {bytes: Blob} | null} */
    this.previous = null;
    /** @type {{image: string} | {bytes: Blob} | null} the picture that swaps take from: an offered one, or the one before */
    this.other = null;
    /** @type {AbortController | null} */
    this.running = null;
  }

  async first() {
    return this.offered.length ? this.open(this.offered[0]) : null;
  }

  /** @param {string} name @returns {Promise<Payload>} */
  async snapshot(name) {
    const answer = await fetch(`api/snapshot?${new URLSearchParams({ name })}`, { headers: { "X-Detrscope-Token": this.token } });
    if (!answer.ok) throw new Error(await problemOf(answer));
    return new Payload(await answer.arrayBuffer());
  }

  /** @param {Blob | string} image */
  open(image) {
    this.previous = this.current ?? this.previous;
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
    if (this.other && "image" in this.other) form.set("other_name", this.other.image);
    else if (this.other && edits.some(isSwap)) form.set("other_file", this.other.bytes, "other");
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
