// The picture: image, map over it, boxes, points; zoom and pan.

import { cellSize, insideCells } from "./geometry.js";
import { colourPixels, textColourOn } from "./colours.js";

/** @typedef {import("./payload.js").Header} Header */
/** @typedef {{box: number[], colour: string, label?: string, dashed?: boolean, width?: number, fill?: number}} ShownBox */
/** @typedef {{x: number, y: number, size: number, colour: string, ring?: boolean}} ShownPoint */
/**
 * What a stage shows; pixels of the original throughout.
 * @typedef {{
 *   map: {height: number, width: number, values: Float32Array, range: {low: number, high: number}, colours: import("./colours.js").ColourMap, opacity: number} | null,
 *   masks: OffscreenCanvas[], boxes: ShownBox[], points: ShownPoint[], cross: {x: number, y: number} | null, region: number[] | null,
 *   pale: boolean, smooth: boolean}} Scene
 */

const MOST_ZOOM = 40;
const HIGHEST = 82; // percent of the window's height

class Stage {
  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.canvas = canvas;
    /** @type {CanvasImageSource | null} */
    this.image = null;
    /** @type {Header | null} */
    this.header = null;
    /** @type {Scene | null} */
    this.scene = null;
    this.zoom = { scale: 1, x: 0, y: 0 }; // x, y: corner of the visible part, in pixels of the original
  }

  /** The image that everything lies over. @param {CanvasImageSource} image @param {Header} header */
  setImage(image, header) {
    const other = !this.header || this.header.width !== header.width || this.header.height !== header.height;
    this.image = image;
    this.header = header;
    if (other) this.zoom = { scale: 1, x: 0, y: 0 };
    this.fit();
  }

  /** Give the canvas the shape of the image and the resolution of the screen. */
  fit() {
    if (!this.header) return;
    this.canvas.style.maxWidth = `calc(${HIGHEST}vh * ${this.header.width / this.header.height})`;
    const width = Math.max(1, Math.round(this.canvas.clientWidth * devicePixelRatio));
    const height = Math.max(1, Math.round((width * this.header.height) / this.header.width));
    this.canvas.style.aspectRatio = `${this.header.width} / ${this.header.height}`;
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
    }
    this.draw();
  }

  /** Pixels of the canvas per pixel of the original. */
  get scale() {
    return (this.canvas.width / (this.header?.width ?? 1)) * this.zoom.scale;
  }

  /** A place on the screen as pixels of the original. @param {{clientX: number, clientY: number}} event */
  pointAt(event) {
    const rect = this.canvas.getBoundingClientRect();
    return {
      x: ((event.clientX - rect.left) * (this.canvas.width / rect.width)) / this.scale + this.zoom.x,
      y: ((event.clientY - rect.top) * (this.canvas.height / rect.height)) / this.scale + this.zoom.y,
    };
  }

  /** Zoom about a point of the original. @param {number} factor @param {{x: number, y: number}} point */
  zoomBy(factor, point) {
    const scale = Math.min(MOST_ZOOM, Math.max(1, this.zoom.scale * factor)), kept = this.zoom.scale / scale;
    this.moveTo(scale, point.x - (point.x - this.zoom.x) * kept, point.y - (point.y - this.zoom.y) * kept);
  }

  /** Move the visible part. @param {number} dx @param {number} dy pixels of the original */
  panBy(dx, dy) {
    this.moveTo(this.zoom.scale, this.zoom.x + dx, this.zoom.y + dy);
  }

  /** @param {number} scale @param {number} x @param {number} y */
  moveTo(scale, x, y) {
    const { width, height } = this.header ?? { width: 1, height: 1 };
    const within = (/** @type {number} */ at, /** @type {number} */ size) => Math.min(size - size / scale, Math.max(0, at));
    this.zoom = { scale, x: within(x, width), y: within(y, height) };
    this.draw();
  }

  /** @param {Scene} scene */
  show(scene) {
    this.scene = scene;
    this.draw();
  }

  draw() {
    const context = this.canvas.getContext("2d");
    if (!context || !this.image || !this.header) return;
    const { header, scene, scale, zoom } = this;
    context.setTransform(scale, 0, 0, scale, -zoom.x * scale, -zoom.y * scale);
    context.imageSmoothingEnabled = zoom.scale < 8;
    context.filter = scene?.pale ? "grayscale(1) brightness(0.8) contrast(0.75) brightness(1.25)" : "none";
    context.drawImage(this.image, 0, 0, header.width, header.height);
    context.filter = "none";
    if (!scene) return;
    if (scene.map) this.drawMap(context, scene.map, scene.smooth);
    for (const mask of [...scene.masks].reverse()) this.drawMask(context, mask);
    for (const box of [...scene.boxes].reverse()) this.drawBox(context, box);
    for (const point of scene.points) this.drawPoint(context, point);
    if (scene.cross) this.drawCross(context, scene.cross);
    if (scene.region) this.drawBox(context, { box: scene.region, colour: "#ffffff", dashed: true, fill: 0.25 });
  }

  /** @param {CanvasRenderingContext2D} context @param {NonNullable<Scene["map"]>} map @param {boolean} smooth */
  drawMap(context, map, smooth) {
    const header = /** @type {Header} */ (this.header);
    const [rows, columns] = insideCells(header, [map.height, map.width]), [width, height] = cellSize(header, [map.height, map.width]);
    const pixels = colourPixels(map.values, map.range, map.colours, map.opacity);
    const small = new OffscreenCanvas(map.width, map.height);
    small.getContext("2d")?.putImageData(new ImageData(pixels, map.width, map.height), 0, 0);
    context.save();
    context.beginPath();
    context.rect(header.crop[0], header.crop[1], header.crop[2] - header.crop[0], header.crop[3] - header.crop[1]);
    context.clip();
    context.imageSmoothingEnabled = smooth;
    context.imageSmoothingQuality = "high";
    context.drawImage(small, 0, 0, columns, rows, header.crop[0], header.crop[1], columns * width, rows * height);
    context.restore();
  }

  /** @param {CanvasRenderingContext2D} context @param {OffscreenCanvas} mask over the part of the image that the model saw */
  drawMask(context, mask) {
    const [x0, y0, x1, y1] = /** @type {Header} */ (this.header).crop;
    context.imageSmoothingEnabled = true;
    context.imageSmoothingQuality = "high";
    context.drawImage(mask, x0, y0, x1 - x0, y1 - y0);
  }

  /** @param {CanvasRenderingContext2D} context @param {ShownBox} shown */
  drawBox(context, shown) {
    const [x0, y0, x1, y1] = shown.box, pixel = devicePixelRatio / this.scale, width = (shown.width ?? 2) * pixel;
    context.setLineDash(shown.dashed ? [5 * pixel, 4 * pixel] : []);
    context.lineWidth = width + 2 * pixel;
    context.strokeStyle = "rgba(0, 0, 0, 0.45)";
    context.strokeRect(x0, y0, x1 - x0, y1 - y0);
    context.lineWidth = width;
    context.strokeStyle = shown.colour;
    context.strokeRect(x0, y0, x1 - x0, y1 - y0);
    context.setLineDash([]);
    if (shown.fill) {
      context.globalAlpha = shown.fill;
      context.fillStyle = shown.colour;
      context.fillRect(x0, y0, x1 - x0, y1 - y0);
      context.globalAlpha = 1;
    }
    if (!shown.label) return;
    const size = 12 * pixel, visible = { x: this.zoom.x, y: this.zoom.y };
    context.font = `${size}px system-ui, sans-serif`;
    const wide = context.measureText(shown.label).width + 6 * pixel;
    const left = Math.max(visible.x, Math.min(x0, visible.x + this.canvas.width / this.scale - wide));
    const top = y0 - size * 1.35 >= visible.y ? y0 - size * 1.35 : Math.max(visible.y, y0);
    context.fillStyle = shown.colour;
    context.fillRect(left, top, wide, size * 1.35);
    context.fillStyle = shown.colour.startsWith("#") ? textColourOn(shown.colour) : "#000";
    context.fillText(shown.label, left + 3 * pixel, top + size * 1.02);
  }

  /** @param {CanvasRenderingContext2D} context @param {ShownPoint} shown */
  drawPoint(context, shown) {
    const pixel = devicePixelRatio / this.scale;
    context.beginPath();
    context.arc(shown.x, shown.y, shown.size * pixel, 0, 2 * Math.PI);
    if (shown.ring) {
      context.lineWidth = 2 * pixel;
      context.strokeStyle = shown.colour;
      context.stroke();
      return;
    }
    context.fillStyle = shown.colour;
    context.fill();
    context.lineWidth = 0.6 * pixel;
    context.strokeStyle = "rgba(0, 0, 0, 0.6)";
    context.stroke();
  }

  /** @param {CanvasRenderingContext2D} context @param {{x: number, y: number}} at */
  drawCross(context, at) {
    const pixel = devicePixelRatio / this.scale, arm = 9 * pixel;
    for (const [colour, width] of /** @type {[string, number][]} */ ([["#000", 4], ["#fff", 2]])) {
      context.lineWidth = width * pixel;
      context.strokeStyle = colour;
      context.beginPath();
      context.moveTo(at.x - arm, at.y);
      context.lineTo(at.x + arm, at.y);
      context.moveTo(at.x, at.y - arm);
      context.lineTo(at.x, at.y + arm);
      context.stroke();
    }
  }
}

export { Stage };
