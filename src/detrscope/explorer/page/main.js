// The page: controls, pointer and keys, and what follows from them.

import { attentionRow, incomingAttention, mergeHeads, rowAsGrid } from "./attention.js";
import { bestPairs } from "./assignment.js";
import { changesOf, scoreChange, summaryOf, COLOURS } from "./changes.js";
import { classColour, colourPixels, colourRange, COLOUR_MAPS, shortNumber } from "./colours.js";
import { matchesSite, parseEdit } from "./edit_inputs.js";
import { editsFile, hideQueryEdit, isSwap, regionEdit, scaleEdit, swapEdit } from "./edits.js";
import { BrowserSource } from "./model.js";
import { detections, predictionsOf, samePrediction } from "./predictions.js";
import { hasMasks, maskOf } from "./masks.js";
import { captionOf, look, numbersOf, queryOf, sceneOf, siteOf, sitesOf, weightAt, KINDS } from "./scene.js";
import { mapsOf, tokenAt } from "./geometry.js";
import { resized, sizeFor } from "./resize.js";
import { EmbeddedSource, ServerSource } from "./sources.js";
import { Stage } from "./stage.js";
import { FIRST_STATE, hashOf, stateOf } from "./state.js";
import { commandOf, filmCommandOf, filmPythonOf, pictureOf, pythonOf, saveFile } from "./takeaway.js";

/** @typedef {import("./payload.js").Payload} Payload */
/** @typedef {import("./state.js").State} State */

const PLAY_PAUSE = 700; // milliseconds for each layer
const STEP_PAUSE = 250; // milliseconds for each snapshot of a training
const HOVER_REACH = 6; // pixels of the screen around a box's edge
const KEYS = [
  ["← ↑ → ↓", "move the point by a token; with Shift pan the picture"], ["[ ]", "previous, next layer"], ["h H", "next head, all heads"],
  ["l", "next level"], ["n p", "next, previous detection"], ["1 2 3 4 5", "what is shown"], ["a", "all queries"], ["c", "tokens as cells"],
  ["+ - 0", "zoom"], [", .", "earlier, later step of a training"], ["space", "play the layers"], ["?", "this list"],
];

/** @template {HTMLElement} [T=HTMLInputElement] @param {string} id @returns {T} */
function byId(id) {
  return /** @type {T} */ (document.getElementById(id));
}

/** @param {string} tag @param {Record<string, string>} [attributes] @param {string} [text] */
function made(tag, attributes = {}, text = "") {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
}

class App {
  /** @param {import("./sources.js").Source} source */
  constructor(source) {
    this.source = source;
    this.state = stateOf(location.hash);
    /** @type {Payload | null} */
    this.payload = null;
    /** @type {Payload | null} the same image without edits */
    this.plain = null;
    /** @type {Payload | null} what is shown on the left: the image without edits, or another snapshot */
    this.left = null;
    /** @type {WeakMap<Payload, Promise<ImageBitmap>>} */
    this.bitmaps = new WeakMap();
    /** @type {string[]} */
    this.edits = [];
    /** @type {string[][]} edits before, for undo */
    this.past = [];
    /** @type {number | null} query under the pointer */
    this.hovered = null;
    this.stage = new Stage(byId("stage"));
    this.before = new Stage(byId("stage-before"));
    /** @type {"hide" | "favour" | null} */
    this.brush = null;
    /** @type {{x: number, y: number} | null} */
    this.brushFrom = null;
    /** @type {{x: number, y: number} | null} */
    this.brushTo = null;
    /** @type {import("./scene.js").Looked | null} */
    this.looked = null;
    /** @type {Payload | null} whose detections are listed */
    this.listed = null;
    this.playing = 0;
    this.training = 0; // timer that plays a training
    this.turn = 0; // of the last request to the model
    this.waiting = false;
    this.follows = this.state.x < 0; // the point follows the pointer until it is pinned
    this.bind();
  }

  /** The picture of a payload, decoded once. @param {Payload} payload */
  bitmap(payload) {
    const known = this.bitmaps.get(payload) ?? createImageBitmap(new Blob([payload.bytes("image")], { type: payload.header.imageType }));
    this.bitmaps.set(payload, known);
    return known;
  }

  /** Show a payload, beside the same image without edits if it has some. @param {Payload} payload */
  async show(payload) {
    const turn = this.turn, edited = payload.header.edits.length > 0, image = await this.bitmap(payload);
    if (turn !== this.turn) return; // something else is shown by now
    if (!edited) this.plain = payload;
    else if (this.plain && this.state.query < 0) this.state.query = queryOf(this.plain, this.state); // the same on both sides
    const left = edited && this.plain ? { payload: this.plain, image, name: "before" } : null;
    this.place({ payload, image, name: "after" }, left);
  }

  /** Show the snapshot that the state names, and the one beside it. */
  async showSnapshot() {
    const { runs } = this.source, turn = ++this.turn;
    if (!runs) return;
    const place = runs.placeOf(this.state), beside = runs.besideOf(this.state);
    this.fillRun(place, beside);
    try {
      const [now, other] = await Promise.all([runs.at(place), beside ? runs.at(beside) : null]);
      const [image, otherImage] = await Promise.all([this.bitmap(now.base), other ? this.bitmap(other.base) : null]);
      if (turn !== this.turn) return;
      this.plain = null;
      this.edits = [];
      this.past = [];
      if (this.state.query < 0) this.state.query = now.payload.keyOf(queryOf(now.payload, this.state)); // the object stays the same
      this.place({ ...now, image }, other && otherImage ? { ...other, image: otherImage } : null);
    } catch (error) {
      if (turn === this.turn) byId("beside-note").textContent = `cannot be shown: ${error instanceof Error ? error.message : error}`;
    }
  }

  /** Put a payload on the right stage and, if there are two, one on the left. @typedef {{payload: Payload, image: ImageBitmap, name: string}} Shown
   * @param {Shown} now @param {Shown | null} left */
  place({ payload, image, name }, left) {
    const { header } = payload, snapshot = Boolean(header.numbers);
    this.payload = payload;
    this.left = left?.payload ?? null;
    this.stage.setImage(image, header);
    byId("before").hidden = !left;
    byId("now-name").hidden = !left && !snapshot;
    byId("now-name").textContent = name;
    byId("before-name").textContent = left?.name ?? "";
    if (left) this.before.setImage(left.image, left.payload.header);
    this.fillChoices(payload);
    document.title = `${header.model}: ${header.source.split("/").pop() || "picture"}`;
    byId("title").title = header.source;
    byId("title").textContent = document.title;
    byId("about").textContent = [
      `${header.width} x ${header.height} pixels, ${snapshot ? `${header.queries} queries recorded` : `${header.queries} queries`}`,
      ...(header.edits.length ? [`edited: ${header.edits.join("; ")}`] : []),
      ...(header.leftOut.length ? [`not in this file, to keep it small: ${header.leftOut.join(", ")}`] : []),
    ].join("; ");
    document.documentElement.dataset.ready = "1";
    this.render();
    this.stage.fit();
    this.before.fit();
  }

  /** Fill the choices that depend on the model. @param {Payload} payload */
  fillChoices(payload) {
    const heads = Math.max(1, ...payload.header.sites.map((site) => site.heads));
    fill(byId("head"), [["mean", "mean"], ["max", "greatest"], ...Array.from({ length: heads }, (_, i) => [String(i), `head ${i}`])]);
    const levels = payload.header.levels.map(([height, width], i) => [String(i), `${i}: ${height}x${width}`]);
    fill(byId("level"), [["all", "all"], ...levels]);
    fill(byId("fromLevel"), levels);
    byId("level-row").hidden = byId("from-row").hidden = byId("edit-level-row").hidden = levels.length < 2;
    const deformable = payload.header.sites.some((site) => site.kind === "deformable");
    byId("masks-row").hidden = !hasMasks(payload);
    byId("truth-row").hidden = !payload.has("target_boxes") || !payload.shape("target_boxes")[0];
    byId("points-row").hidden = byId("edit-point-row").hidden = !deformable;
    fill(byId("colours"), Object.keys(COLOUR_MAPS).map((name) => [name, name]));
    const kinds = ["decoder.*.cross", "encoder.*.self", "backbone.*.self", "decoder.*.self", "*"];
    const some = kinds.filter((kind) => kind === "*" || payload.header.modelSites.some((site) => matchesSite(site, kind)));
    fill(byId("edit-site"), [...some, ...payload.header.modelSites].map((name) => [name, name === "*" ? "* (all)" : name]));
    for (const radio of /** @type {NodeListOf<HTMLInputElement>} */ (document.querySelectorAll('input[name="kind"]'))) {
      const kind = /** @type {State["kind"]} */ (radio.value);
      radio.disabled = !sitesOf(payload, { ...FIRST_STATE, kind }).length;
    }
    const snapshot = Boolean(payload.header.numbers), canEdit = this.source.canEdit && !snapshot;
    byId("edit").hidden = snapshot && !this.source.canEdit;
    byId("edit-tools").hidden = !canEdit;
    byId("edit-note").textContent = canEdit ? "" : snapshot ? "a snapshot has no model to run; choose the picture below to change the trained model's mind" : payload.header.edits.length ? "recorded with these edits" : "none; `detrscope explore` and `see --edit` make them";
    const { offered, runs } = this.source, few = runs ? !offered.length : offered.length < 2;
    byId("open").hidden = !this.source.canOpen && few;
    byId("offered-row").hidden = few;
    byId("file").parentElement?.toggleAttribute("hidden", !this.source.canOpen);
    if (!byId("offered").children.length) fill(byId("offered"), [...(runs ? [["", "a snapshot of the training"]] : []), ...offered.map((name) => [name, runs ? `${name}, trained model` : name])]);
    if (snapshot) byId("offered").value = "";
    byId("edit-swap-row").hidden = !this.source.canSwap;
    fill(byId("edit-other"), [["", "the picture before"], ...offered.map((name) => [name, name])]);
  }

  /** The state with the query under the pointer in place of the chosen one. */
  get shownState() {
    return this.hovered === null || !this.payload ? this.state : { ...this.state, query: this.payload.keyOf(this.hovered) };
  }

  /** Draw everything anew. */
  render() {
    if (!this.payload) return;
    const { payload } = this, state = this.shownState, looked = look(payload, state);
    this.looked = looked;
    this.drawStages(looked);
    byId("caption").textContent = captionOf(payload, state, looked);
    this.fillControls();
    this.drawHeads(looked, state);
    this.fillDetections(payload);
    fillTable(byId("numbers"), numbersOf(payload, state, looked));
    this.fillEdits();
    history.replaceState(null, "", `#${hashOf(this.state)}`);
  }

  /** Draw the picture only: all that follows the pointer. @param {import("./scene.js").Looked | null} looked */
  drawStages(looked) {
    const { payload, left } = this, state = this.shownState;
    if (!payload) return;
    const scene = sceneOf(payload, state, looked);
    if (this.brushFrom && this.brushTo) scene.region = regionOf(this.brushFrom, this.brushTo);
    this.stage.show(scene);
    if (!left) return;
    const linked = this.linked(state), old = look(left, linked), oldScene = sceneOf(left, linked, old);
    if (scene.map && oldScene.map) { // one scale for both
      const high = Math.max(scene.map.range.high, oldScene.map.range.high);
      scene.map.range = oldScene.map.range = { low: oldScene.map.range.low, high };
      this.stage.show(scene);
    }
    this.before.zoom = this.stage.zoom;
    this.before.show(oldScene);
  }

  /** The state for the left side: the same object, which in another run is found by its box. @param {State} state @returns {State} */
  linked(state) {
    const { payload, left } = this;
    if (!payload || !left || !payload.header.tracks) return state;
    const query = queryOf(payload, state), { run } = this.source.runs?.placeOf(this.state) ?? { run: 0 };
    if (this.state.otherRun === run && left.queryOf(payload.keyOf(query)) >= 0) return { ...state, query: payload.keyOf(query) };
    return { ...state, query: left.keyOf(samePrediction(payload, query, left)) };
  }

  /** Set the controls of a training. @param {import("./run.js").Place} place @param {import("./run.js").Place | null} beside */
  fillRun(place, beside) {
    const { runs } = this.source;
    if (!runs) return;
    byId("run").hidden = byId("run-curves").hidden = false;
    const { infos } = runs, info = infos[place.run];
    fill(byId("run-name"), infos.map(({ name }, index) => [String(index), name]));
    byId("run-name").value = String(place.run);
    byId("run-row").hidden = infos.length < 2;
    fill(byId("run-image"), info.images.map((name, index) => [String(index), name]));
    byId("run-image").value = String(place.image);
    fill(byId("beside"), [["-1", "nothing"], ...infos.map(({ name }, index) => [String(index), infos.length > 1 ? `a step of ${name}` : "another step"])]);
    byId("beside").value = String(this.state.otherRun);
    const slider = (/** @type {string} */ id, /** @type {string} */ name, /** @type {import("./run.js").Place} */ at) => {
      byId(id).max = String(infos[at.run].steps.length - 1);
      byId(id).value = String(at.step);
      byId(name).textContent = runs.describe(at.run, at.step);
      byId(id).setAttribute("aria-valuetext", runs.describe(at.run, at.step));
    };
    slider("step", "step-name", place);
    byId("other-row").hidden = !beside;
    if (beside) slider("other-step", "other-name", beside);
    byId("beside-note").textContent = this.state.otherRun >= 0 && !beside ? `${infos[this.state.otherRun]?.name ?? "that run"} has no image of this name` : "";
    byId("play-steps").setAttribute("aria-pressed", String(Boolean(this.training)));
    byId("run-note").textContent = info.of > info.steps.length ? `${info.steps.length} of ${info.of} snapshots are in this file, to keep it small` : "";
    runs.drawCurves(byId("curves"), place, beside, (step) => this.toStep({ step }));
  }

  /** Run folder and image of the snapshot that is shown; null where none is. */
  get film() {
    const { runs } = this.source;
    if (!runs || !this.payload?.header.numbers) return null;
    const { run, image } = runs.placeOf(this.state), info = runs.infos[run];
    return { path: info.path, image: info.images[image] };
  }

  /** Go to another snapshot. @param {Partial<State>} part */
  toStep(part) {
    Object.assign(this.state, part);
    this.showSnapshot();
  }

  /** Go to an earlier or later snapshot. @param {number} by */
  nextStep(by) {
    const { runs } = this.source;
    if (!runs) return;
    const { run, step } = runs.placeOf(this.state), last = runs.infos[run].steps.length - 1;
    this.toStep({ step: Math.min(last, Math.max(0, step + by)) });
  }

  /** Play the training from its first snapshot, or stop. */
  playSteps() {
    const { runs } = this.source;
    if (!runs) return;
    if (this.training) {
      this.stopTraining();
      return this.toStep({});
    }
    const { run, step } = runs.placeOf(this.state), last = runs.infos[run].steps.length - 1;
    const next = async () => { // each snapshot is shown before the next is asked for
      await this.showSnapshot();
      if (!this.training) return;
      if (runs.placeOf(this.state).step >= last) return this.playSteps();
      this.training = window.setTimeout(() => {
        this.state.step = runs.placeOf(this.state).step + 1;
        next();
      }, STEP_PAUSE);
    };
    this.training = -1;
    if (step >= last) this.state.step = 0;
    next();
  }

  stopTraining() {
    clearTimeout(this.training);
    this.training = 0;
    byId("play-steps").setAttribute("aria-pressed", "false");
  }

  /** Set the controls to the state. */
  fillControls() {
    const { state, payload } = this;
    if (!payload) return;
    const sites = sitesOf(payload, state), site = siteOf(payload, state);
    byId("layer").max = String(Math.max(0, sites.length - 1));
    const layer = site ? sites.indexOf(site) : 0;
    for (const element of /** @type {NodeListOf<HTMLInputElement>} */ (document.querySelectorAll("[data-state]"))) {
      const value = state[/** @type {keyof State} */ (element.dataset.state)];
      if (element.type === "radio") element.checked = element.value === value;
      else if (element.type === "checkbox") element.checked = Boolean(value);
      else element.value = element.id === "layer" ? String(layer) : String(value);
    }
    byId("layer-name").textContent = site ? site.name : "not recorded";
    byId("threshold-name").textContent = state.threshold.toFixed(2);
    byId("play").setAttribute("aria-pressed", String(Boolean(this.playing)));
    byId("play").disabled = sites.length < 2;
    byId("from-row").hidden = payload.header.levels.length < 2 || !(state.kind === "point" || state.kind === "incoming");
    byId("edit-query").disabled = !payload.header.modelSites.some((name) => matchesSite(name, "decoder.*.self"));
  }

  /** Every head as a small picture. @param {import("./scene.js").Looked | null} looked @param {State} state */
  drawHeads(looked, state) {
    const strip = byId("heads"), count = looked?.overImage && looked.heads.length > 1 ? looked.heads.length : 0;
    while (strip.children.length > count) strip.lastChild?.remove();
    while (strip.children.length < count) {
      const button = made("button", { type: "button" }), head = strip.children.length;
      button.append(document.createElement("canvas"), made("span"));
      button.addEventListener("click", () => this.change({ head: this.state.head === head ? "mean" : head }));
      strip.append(button);
    }
    if (!looked || !count || !this.payload) return;
    const { levels } = mapsOf(this.payload.header, looked.site), level = typeof state.level === "number" && state.level < levels.length ? state.level : "all";
    looked.heads.forEach((row, head) => {
      const button = strip.children[head], grid = rowAsGrid(levels, row, level), canvas = /** @type {HTMLCanvasElement} */ (button.firstChild);
      canvas.width = grid.width;
      canvas.height = grid.height;
      const context = canvas.getContext("2d"), range = colourRange(grid.values, state.norm);
      if (context && this.stage.image && this.stage.header) {
        context.filter = "grayscale(1)";
        context.drawImage(this.stage.image, 0, 0, grid.width, grid.height);
        const small = new OffscreenCanvas(grid.width, grid.height);
        small.getContext("2d")?.putImageData(new ImageData(colourPixels(grid.values, range, state.colours, state.opacity), grid.width, grid.height), 0, 0);
        context.filter = "none";
        context.drawImage(small, 0, 0);
      }
      button.setAttribute("aria-pressed", String(state.head === head));
      /** @type {HTMLElement} */ (button.lastChild).textContent = `head ${head}: ${shortNumber(Math.max(...row))}`;
    });
  }

  /** The list of detections. @param {Payload} payload */
  fillDetections(payload) {
    const { state } = this, list = byId("detections"), chosen = queryOf(payload, state);
    const shown = state.every
      ? Array.from({ length: payload.header.queries }, (_, query) => predictionsOf(payload, payload.header.layers - 1, query)[0]).sort((a, b) => b.score - a.score)
      : detections(payload, state.threshold);
    const key = JSON.stringify([state.threshold, state.every]);
    if (this.listed !== payload || list.dataset.key !== key) {
      this.listed = payload;
      list.dataset.key = key;
      list.replaceChildren(...shown.map((one) => {
        const item = made("li", { tabindex: "0", "data-query": String(one.query) }, `${one.name} ${one.score.toFixed(2)} #${one.number}`);
        item.style.setProperty("--of-class", classColour(one.index));
        item.addEventListener("click", () => this.pick(one.query));
        item.addEventListener("keydown", (event) => { if (event.key === "Enter") this.pick(one.query); });
        item.addEventListener("pointerenter", () => this.hover(one.query));
        item.addEventListener("pointerleave", () => this.hover(null));
        return item;
      }));
      if (!shown.length) list.append(made("li", {}, `nothing scores ${state.threshold.toFixed(2)} or more`));
    }
    for (const item of list.children) item.setAttribute("aria-current", String(/** @type {HTMLElement} */ (item).dataset.query === String(chosen)));
  }

  /** The edits as texts. */
  get editTexts() {
    return this.source.canEdit ? this.edits : (this.payload?.header.edits ?? []);
  }

  /** The edits, and what they changed. */
  fillEdits() {
    const { payload, left } = this, list = byId("edits");
    if (!payload) return;
    const shown = this.editTexts;
    list.replaceChildren(...shown.map((text, index) => {
      const item = made("li", {}, text);
      if (this.source.canEdit) {
        const remove = made("button", { type: "button", "aria-label": `remove ${text}` }, "×");
        remove.addEventListener("click", () => this.apply(this.edits.filter((_, i) => i !== index)));
        item.append(remove);
      }
      return item;
    }));
    byId("edit-undo").disabled = !this.past.length;
    byId("edit-save").disabled = !shown.some((text) => !isSwap(text));
    byId("edit-factor-name").textContent = byId("edit-factor").value;
    for (const kind of ["hide", "favour"]) byId(`edit-${kind}`).setAttribute("aria-pressed", String(this.brush === kind));
    const table = byId(payload.header.numbers ? "step-changes" : "changes");
    for (const id of ["changes", "step-changes"]) byId(id).replaceChildren();
    if (!left) return;
    const changes = changesOf(left, payload, this.state.threshold);
    const described = (/** @type {import("./predictions.js").Prediction | null} */ one, /** @type {number | null} */ below) =>
      one ? `${one.name} ${one.score.toFixed(2)} #${one.number}` : below === null ? "-" : `(${below.toFixed(2)})`;
    const row = (/** @type {string[]} */ cells, tag = "td") => {
      const line = made("tr");
      line.append(...cells.map((cell) => made(tag, {}, cell)));
      return line;
    };
    table.replaceChildren(made("caption", {}, summaryOf(changes)), row(["", payload.header.numbers ? "left" : "before", payload.header.numbers ? "right" : "after", "score", "IoU"], "th"), ...changes.map((change) => {
      const line = row([change.kind, described(change.before, change.below), described(change.after, change.below), `${scoreChange(change) < 0 ? "" : "+"}${scoreChange(change).toFixed(3)}`, change.before && change.after ? change.iou.toFixed(2) : "-"]);
      line.style.borderLeft = `4px solid ${COLOURS[change.kind]}`;
      return line;
    }));
  }

  /** @param {Partial<State>} part */
  change(part) {
    Object.assign(this.state, part);
    this.render();
  }

  /** Choose a query. @param {number} query */
  pick(query) {
    this.hovered = null;
    this.change({ query: this.payload?.keyOf(query) ?? query, kind: this.state.kind === "queries" ? "queries" : "query" });
  }

  /** Show a query while the pointer is on it. @param {number | null} query */
  hover(query) {
    if (this.hovered === query) return;
    this.hovered = query;
    this.soon();
  }

  /** Draw at the next frame, however many events come before it. */
  soon() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      if (!this.payload) return;
      const started = performance.now();
      this.looked = look(this.payload, this.shownState);
      this.drawStages(this.looked);
      document.documentElement.dataset.took = (performance.now() - started).toFixed(2);
      byId("caption").textContent = captionOf(this.payload, this.shownState, this.looked);
      fillTable(byId("numbers"), numbersOf(this.payload, this.shownState, this.looked));
    });
  }

  /** The query whose box has its edge nearest to a point, or that is the smallest around it. @param {{x: number, y: number}} point */
  queryUnder(point) {
    if (!this.payload) return null;
    const reach = (HOVER_REACH * devicePixelRatio) / this.stage.scale;
    const around = detections(this.payload, this.state.threshold).filter(({ box }) =>
      point.x >= box[0] - reach && point.x <= box[2] + reach && point.y >= box[1] - reach && point.y <= box[3] + reach);
    around.sort((a, b) => (a.box[2] - a.box[0]) * (a.box[3] - a.box[1]) - (b.box[2] - b.box[0]) * (b.box[3] - b.box[1]));
    return around.length ? around[0].query : null;
  }

  /** Run the model with other edits. @param {string[]} edits @param {boolean} [remember] */
  async apply(edits, remember = true) {
    const turn = ++this.turn;
    byId("edit-error").textContent = "";
    document.documentElement.dataset.busy = "1";
    try {
      const payload = await this.source.edit(edits);
      if (turn !== this.turn) return;
      if (remember) this.past.push(this.edits);
      this.edits = edits;
      await this.show(payload);
    } catch (error) {
      if (turn === this.turn) byId("edit-error").textContent = error instanceof Error ? error.message : String(error);
    } finally {
      if (turn === this.turn) delete document.documentElement.dataset.busy;
    }
  }

  /** Open another picture. @param {Blob | string} image */
  async open(image) {
    this.stopTraining();
    const turn = ++this.turn;
    byId("open-note").textContent = byId("edit-error").textContent = "";
    document.documentElement.dataset.busy = "1";
    try {
      const payload = await this.source.open(image);
      if (turn !== this.turn) return;
      this.edits = payload.header.edits;
      this.past = [];
      Object.assign(this.state, { query: -1, x: -1, y: -1 });
      this.follows = true;
      await this.show(payload);
    } catch (error) {
      if (turn === this.turn) byId("open-note").textContent = error instanceof Error ? error.message : String(error);
    } finally {
      if (turn === this.turn) delete document.documentElement.dataset.busy;
    }
  }

  /** @returns {import("./edits.js").Selection} */
  get selection() {
    const text = (/** @type {string} */ id) => byId(id).value;
    return { site: text("edit-site"), heads: text("edit-heads"), queries: text("edit-queries"), levels: text("edit-levels"), points: text("edit-points") };
  }

  /** Move the point by tokens. @param {number} dx @param {number} dy */
  step(dx, dy) {
    if (!this.payload) return;
    const { header } = this.payload, [height, width] = header.levels[Math.min(this.state.fromLevel, header.levels.length - 1)];
    const x = this.state.x < 0 ? header.width / 2 : this.state.x + (dx * header.width) / width;
    const y = this.state.y < 0 ? header.height / 2 : this.state.y + (dy * header.height) / height;
    this.follows = false;
    const kind = this.state.kind === "point" || this.state.kind === "incoming" ? this.state.kind : sitesOf(this.payload, { ...this.state, kind: "point" }).length ? "point" : "incoming";
    this.change({ kind, x: Math.min(header.width - 1, Math.max(0, x)), y: Math.min(header.height - 1, Math.max(0, y)) });
  }

  /** Go to another layer. @param {number} by @param {boolean} [around] */
  nextLayer(by, around = false) {
    if (!this.payload) return;
    const sites = sitesOf(this.payload, this.state), site = siteOf(this.payload, this.state);
    if (!site) return;
    const next = sites.indexOf(site) + by;
    this.change({ layer: around ? (next + sites.length) % sites.length : Math.min(sites.length - 1, Math.max(0, next)) });
  }

  /** Choose the next or previous detection. @param {number} by */
  nextDetection(by) {
    if (!this.payload) return;
    const queries = detections(this.payload, this.state.threshold).map((one) => one.query);
    if (!queries.length) return;
    const at = queries.indexOf(queryOf(this.payload, this.state));
    this.pick(queries[(at + by + queries.length) % queries.length]);
  }

  play() {
    if (this.playing) {
      clearInterval(this.playing);
      this.playing = 0;
      this.render();
      return;
    }
    this.playing = window.setInterval(() => this.nextLayer(1, true), PLAY_PAUSE);
    this.nextLayer(1, true);
  }

  /** Text to copy: put on the clipboard where that is allowed, and shown. @param {string} text */
  copy(text) {
    const area = /** @type {HTMLTextAreaElement} */ (document.getElementById("copied"));
    area.hidden = false;
    area.value = text;
    area.select();
    navigator.clipboard?.writeText(text).catch(() => {}); // not allowed everywhere: the text is shown
  }

  /** What happens on which event. */
  bind() {
    for (const element of /** @type {NodeListOf<HTMLInputElement>} */ (document.querySelectorAll("[data-state]"))) {
      element.addEventListener("input", () => {
        const name = /** @type {keyof State} */ (element.dataset.state), { value } = element;
        const number = ["layer", "threshold", "opacity", "fromLevel"].includes(name) || ((name === "head" || name === "level") && /^\d+$/.test(value));
        this.change({ [name]: element.type === "checkbox" ? element.checked : number ? Number(value) : value });
      });
    }
    this.bindStage();
    document.addEventListener("keydown", (event) => this.key(event));
    const click = (/** @type {string} */ id, /** @type {() => void} */ act) => byId(id).addEventListener("click", act);
    click("play", () => this.play());
    click("theme", () => {
      const root = document.documentElement, dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
      root.dataset.theme = dark ? "light" : "dark";
    });
    click("help", () => /** @type {HTMLDialogElement} */ (document.getElementById("keys")).showModal());
    fillTable(byId("key-table"), KEYS.map(([key, what]) => [key, what]));
    click("save-png", async () => {
      if (!this.payload) return;
      const caption = byId("caption").textContent ?? "", name = `${this.looked?.site.name ?? "picture"}.png`;
      saveFile(await pictureOf(this.stage.canvas, caption), name);
    });
    click("copy-command", () => {
      if (this.payload) this.copy(this.film ? filmCommandOf(this.payload, this.state, this.film) : commandOf(this.payload, this.state, this.source.model, this.editTexts));
    });
    click("copy-python", () => {
      if (this.payload) this.copy(this.film ? filmPythonOf(this.payload, this.state, this.film) : pythonOf(this.payload, this.state, this.source.model, this.editTexts));
    });
    click("copy-link", () => this.copy(`${location.href.split("#")[0]}#${hashOf(this.state)}`));
    click("edit-mute", () => this.apply([...this.edits, scaleEdit(this.selection, Number(byId("edit-factor").value))]));
    click("edit-query", () => { if (this.payload) this.apply([...this.edits, hideQueryEdit(queryOf(this.payload, this.state))]); });
    click("edit-swap", () => {
      const name = byId("edit-other").value, { source } = this;
      if (!(source instanceof ServerSource)) return;
      const other = name ? { image: name } : source.previous;
      if (this.edits.some(isSwap) && JSON.stringify(other) !== JSON.stringify(source.other)) {
        byId("edit-error").textContent = "all patches come from one picture: remove those of the other first";
        return;
      }
      source.other = other;
      this.apply([...this.edits, swapEdit(byId("edit-site").value, byId("edit-part").value)]);
    });
    click("edit-hide", () => this.takeBrush("hide"));
    click("edit-favour", () => this.takeBrush("favour"));
    click("edit-add", () => this.apply([...this.edits, byId("edit-text").value.trim()]));
    click("edit-undo", () => { const last = this.past.pop(); if (last) this.apply(last, false); });
    click("edit-save", () => saveFile(new Blob([editsFile(this.editTexts.filter((text) => !isSwap(text)))], { type: "application/json" }), "edits.json"));
    byId("edit-factor").addEventListener("input", () => { byId("edit-factor-name").textContent = byId("edit-factor").value; });
    byId("edit-text").addEventListener("keydown", (event) => { if (event.key === "Enter") byId("edit-add").click(); });
    byId("file").addEventListener("change", () => { const file = byId("file").files?.[0]; if (file) this.open(file); });
    byId("offered").addEventListener("change", () => (byId("offered").value ? this.open(byId("offered").value) : this.toStep({})));
    const number = (/** @type {string} */ id) => Number(byId(id).value);
    byId("step").addEventListener("input", () => this.toStep({ step: number("step") }));
    byId("other-step").addEventListener("input", () => this.toStep({ otherStep: number("other-step") }));
    byId("run-name").addEventListener("change", () => this.toStep({ run: number("run-name"), image: 0, step: -1, query: -1 }));
    byId("run-image").addEventListener("change", () => this.toStep({ image: number("run-image"), query: -1 }));
    byId("beside").addEventListener("change", () => this.toStep({ otherRun: number("beside") }));
    click("play-steps", () => this.playSteps());
    addEventListener("resize", () => { this.stage.fit(); this.before.fit(); });
    addEventListener("hashchange", () => {
      this.state = stateOf(location.hash);
      if (this.payload?.header.numbers) this.showSnapshot();
      else this.render();
    });
    addEventListener("dragover", (event) => { if (this.source.canOpen) { event.preventDefault(); document.body.classList.add("dropping"); } });
    addEventListener("dragleave", () => document.body.classList.remove("dropping"));
    addEventListener("drop", (event) => {
      document.body.classList.remove("dropping");
      const file = event.dataTransfer?.files[0];
      if (this.source.canOpen && file) { event.preventDefault(); this.open(file); }
    });
  }

  /** Drag on the picture to hide or favour a region. @param {"hide" | "favour"} kind */
  takeBrush(kind) {
    this.brush = this.brush === kind ? null : kind;
    this.fillEdits();
  }

  bindStage() {
    const { canvas } = this.stage;
    /** @type {{x: number, y: number} | null} */
    let grabbed = null;
    let moved = false;
    canvas.addEventListener("pointermove", (event) => {
      if (!this.payload) return;
      const point = this.stage.pointAt(event);
      byId("under").textContent = weightAt(this.payload, this.shownState, this.looked ?? null, point);
      if (this.brushFrom) {
        this.brushTo = point;
        return this.soon();
      }
      if (grabbed) {
        moved ||= Math.hypot(point.x - grabbed.x, point.y - grabbed.y) * this.stage.scale > 4 * devicePixelRatio;
        if (moved && this.stage.zoom.scale > 1) {
          this.stage.panBy(grabbed.x - point.x, grabbed.y - point.y);
          if (this.left) { this.before.zoom = this.stage.zoom; this.before.draw(); }
        }
        return;
      }
      const pointed = this.state.kind === "point" || this.state.kind === "incoming";
      if (pointed && this.follows) {
        Object.assign(this.state, point);
        this.soon();
      } else if (!pointed) this.hover(this.queryUnder(point));
    });
    canvas.addEventListener("pointerleave", () => { this.hover(null); byId("under").textContent = ""; });
    canvas.addEventListener("pointerdown", (event) => {
      const point = this.stage.pointAt(event);
      canvas.setPointerCapture(event.pointerId);
      if (this.brush) this.brushFrom = this.brushTo = point;
      else grabbed = point;
      moved = false;
    });
    canvas.addEventListener("pointerup", (event) => {
      const point = this.stage.pointAt(event), from = this.brushFrom, kind = this.brush;
      grabbed = null;
      if (from && kind) {
        this.brushFrom = this.brushTo = this.brush = null;
        const region = regionOf(from, point), clipped = this.clipped(region);
        if (clipped) this.apply([...this.edits, regionEdit(this.selection, clipped, kind === "hide" ? null : 2)]);
        else this.render();
        return;
      }
      if (!moved) this.clicked(point);
    });
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.stage.zoomBy(Math.exp(-event.deltaY / 400), this.stage.pointAt(event));
      this.before.zoom = this.stage.zoom;
      if (this.left) this.before.draw();
    }, { passive: false });
  }

  /** A region within the picture; null where nothing is left. @param {number[]} region */
  clipped(region) {
    if (!this.payload) return null;
    const { width, height } = this.payload.header;
    const inside = [Math.max(0, region[0]), Math.max(0, region[1]), Math.min(width, region[2]), Math.min(height, region[3])];
    return inside[2] - inside[0] >= 1 && inside[3] - inside[1] >= 1 ? inside : null;
  }

  /** Pick the detection under a point, or pin the point. @param {{x: number, y: number}} point */
  clicked(point) {
    if (!this.payload) return;
    const pointed = this.state.kind === "point" || this.state.kind === "incoming";
    if (pointed && !this.follows && Math.hypot(point.x - this.state.x, point.y - this.state.y) * this.stage.scale < 8 * devicePixelRatio) {
      this.follows = true; // a click on the pinned point frees it
      return;
    }
    const query = pointed ? null : this.queryUnder(point);
    if (query !== null) return this.pick(query);
    const kind = pointed ? this.state.kind : sitesOf(this.payload, { ...this.state, kind: "point" }).length ? "point" : "incoming";
    this.follows = false;
    this.hovered = null;
    this.change({ kind, ...point });
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    const target = /** @type {HTMLElement} */ (event.target);
    if (event.ctrlKey || event.metaKey || event.altKey || target.matches("input:not([type='checkbox'], [type='radio'], [type='range']), select, textarea")) return;
    const { state } = this, arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const arrow = arrows[/** @type {keyof typeof arrows} */ (event.key)];
    if (arrow && !target.matches("input")) {
      if (event.shiftKey) this.stage.panBy((arrow[0] * (this.stage.header?.width ?? 1)) / 10 / this.stage.zoom.scale, (arrow[1] * (this.stage.header?.height ?? 1)) / 10 / this.stage.zoom.scale);
      else this.step(arrow[0], arrow[1]);
      event.preventDefault();
      return;
    }
    const heads = this.looked?.site.heads ?? 1, levels = this.payload?.header.levels.length ?? 1;
    const centre = { x: (this.stage.header?.width ?? 0) / 2, y: (this.stage.header?.height ?? 0) / 2 };
    /** @type {Record<string, () => void>} */
    const acts = {
      "[": () => this.nextLayer(-1), "]": () => this.nextLayer(1),
      h: () => this.change({ head: typeof state.head === "number" ? (state.head + 1) % heads : 0 }), H: () => this.change({ head: "mean" }),
      l: () => this.change({ level: typeof state.level === "number" ? (state.level + 1 < levels ? state.level + 1 : "all") : 0 }),
      n: () => this.nextDetection(1), p: () => this.nextDetection(-1),
      a: () => this.change({ every: !state.every }), c: () => this.change({ cells: !state.cells }),
      ",": () => this.nextStep(-1), ".": () => this.nextStep(1),
      "+": () => this.stage.zoomBy(1.5, centre), "-": () => this.stage.zoomBy(1 / 1.5, centre), 0: () => this.stage.moveTo(1, 0, 0),
      "?": () => byId("help").click(),
    };
    Object.keys(KINDS).forEach((kind, i) => { acts[String(i + 1)] = () => this.change({ kind: /** @type {State["kind"]} */ (kind) }); });
    if (event.key === " " && !target.matches("button, input")) {
      event.preventDefault();
      this.play();
    } else if (acts[event.key]) acts[event.key]();
  }
}

/** @param {HTMLElement} select @param {string[][]} choices value and text */
function fill(select, choices) {
  const value = /** @type {HTMLSelectElement} */ (select).value;
  select.replaceChildren(...choices.map(([name, text]) => made("option", { value: name }, text)));
  if (choices.some(([name]) => name === value)) /** @type {HTMLSelectElement} */ (select).value = value;
}

/** @param {HTMLElement} table @param {string[][]} rows */
function fillTable(table, rows) {
  table.replaceChildren(...rows.map((cells) => {
    const line = made("tr");
    line.append(...cells.map((cell, i) => made(i ? "td" : "th", {}, cell)));
    return line;
  }));
}

/** @param {{x: number, y: number}} a @param {{x: number, y: number}} b */
function regionOf(a, b) {
  return [Math.min(a.x, b.x), Math.min(a.y, b.y), Math.max(a.x, b.x), Math.max(a.y, b.y)];
}

/** Start the page with what the document holds. */
async function start() {
  const info = JSON.parse(byId("page-info").textContent ?? "{}");
  const embedded = /** @type {HTMLElement[]} */ ([...document.querySelectorAll('script[type="text/x-payload"]')]);
  const source = info.server ? new ServerSource(info.server) : info.published ? await BrowserSource.open(info.published) : new EmbeddedSource(info, embedded);
  const app = new App(/** @type {import("./sources.js").Source} */ (source));
  Object.assign(window, { detrscope: { app, attentionRow, bestPairs, shortNumber, changesOf, detections, incomingAttention, look, maskOf, mergeHeads, parseEdit, resized, rowAsGrid, sceneOf, sizeFor, stateOf, tokenAt } }); // for tests and the curious
  if (source.runs) return app.showSnapshot();
  const payload = await source.first();
  if (!payload) {
    byId("open").hidden = false;
    byId("caption").textContent = "open or drop a picture";
    return;
  }
  await app.show(payload);
  const edited = source instanceof EmbeddedSource && source.offered[1]?.endsWith(" (edited)");
  if (edited) await app.show(await source.at(1));
}

start().catch((error) => { byId("caption").textContent = `cannot be shown: ${error.message}`; });
