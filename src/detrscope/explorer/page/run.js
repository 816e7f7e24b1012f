// A training on the page: which snapshot of which run is shown, which one beside it, and the curves.

import { drawChart } from "./curves.js";

/** @typedef {import("./payload.js").Payload} Payload */
/** @typedef {import("./state.js").State} State */
/**
 * @typedef {{name: string, path: string, images: string[], steps: {step: number, epoch: number}[], of: number,
 *   charts: import("./curves.js").Chart[]}} RunInfo
 * @typedef {{run: number, image: number, step: number}} Place
 * @typedef {{base: Payload, payload: Payload, name: string}} Snapshot
 */

const KEPT = 600; // snapshots in memory

/** The snapshots of trainings; each is read once, however often it is shown. */
class Runs {
  /** @param {RunInfo[]} infos @param {(name: string) => Promise<Payload>} read by "run image" or "run image step" */
  constructor(infos, read) {
    this.infos = infos;
    this.read = read;
    /** @type {Map<string, Promise<Payload>>} */
    this.known = new Map();
  }

  /** @param {string} name */
  get(name) {
    const found = this.known.get(name) ?? this.read(name);
    this.known.delete(name);
    this.known.set(name, found); // the last ones are kept
    found.catch(() => this.known.delete(name));
    for (const old of this.known.keys()) {
      if (this.known.size <= KEPT) break;
      this.known.delete(old);
    }
    return found;
  }

  /** @param {Place} place @returns {Promise<Snapshot>} */
  async at({ run, image, step }) {
    const [base, payload] = await Promise.all([this.get(`${run} ${image}`), this.get(`${run} ${image} ${step}`)]);
    return { base, payload, name: this.describe(run, step) };
  }

  /** @param {number} run @param {number} step */
  describe(run, step) {
    const { name, steps } = this.infos[run], at = steps[step];
    return `${name}, ${at.step ? `step ${at.step}, epoch ${Number(at.epoch.toPrecision(3))}` : "before training"}`;
  }

  /** The snapshot that a state names, as far as there is one. @param {State} state @returns {Place} */
  placeOf(state) {
    const run = Math.min(Math.max(0, Math.trunc(state.run)), this.infos.length - 1), { images, steps } = this.infos[run];
    return { run, image: within(state.image, images.length), step: within(state.step < 0 ? steps.length - 1 : state.step, steps.length) };
  }

  /** The snapshot beside it: of the image of the same name; null where none is wanted. @param {State} state @returns {Place | null} */
  besideOf(state) {
    if (state.otherRun < 0 || state.otherRun >= this.infos.length) return null;
    const run = Math.trunc(state.otherRun), { images, steps } = this.infos[run], { run: first, image } = this.placeOf(state);
    const same = images.indexOf(this.infos[first].images[image]);
    return same < 0 ? null : { run, image: same, step: within(state.otherStep, steps.length) };
  }

  /** The snapshot nearest to an epoch. @param {number} run @param {number} epoch */
  nearest(run, epoch) {
    const { steps } = this.infos[run];
    return steps.reduce((best, one, index) => (Math.abs(one.epoch - epoch) < Math.abs(steps[best].epoch - epoch) ? index : best), 0);
  }

  /** Draw the curves. @param {HTMLElement} into @param {Place} place @param {Place | null} beside @param {(step: number) => void} onStep */
  drawCurves(into, place, beside, onStep) {
    const info = this.infos[place.run], other = beside ? this.infos[beside.run] : null;
    const last = Math.max(info.steps[info.steps.length - 1].epoch, other && other !== info ? other.steps[other.steps.length - 1].epoch : 0);
    into.replaceChildren(...info.charts.filter(({ lines }) => lines.length).map((chart) => drawChart(
      chart, other && other !== info ? other.charts.find(({ title }) => title === chart.title) : undefined, last, info.steps[place.step].epoch,
      beside && other ? other.steps[beside.step].epoch : null, (epoch) => onStep(this.nearest(place.run, epoch)),
    )));
  }
}

/** @param {number} index @param {number} count */
function within(index, count) {
  return Math.min(Math.max(0, Math.trunc(index)), count - 1);
}

export { Runs };
