// One picture: a canvas with one pixel for each value, its edges, cross-hair and keys.

import { paint } from "./colour.js";
import { boxText, coloursFromPreview, fromPreview, indicesAt, inSight, oriented, physical, roundTicks, SAMPLES, shareOf } from "./planes.js";

const TICKS = 5;
const LONGEST = 20; // times as long as wide, on the screen

/** What is written at a coordinate of an axis. */
function coordinateText(value, unit) {
  return `${Number(value.toPrecision(5))}${unit.startsWith("degrees") ? "°" : ""}`;
}

/** Places along an axis in sight, as indices, and what is written there: round coordinates, else names or numbers. */
function ticksOf(axis, sight) {
  const { labels, values, unit } = axis;
  const round = labels ? null : roundTicks(axis, sight, TICKS);
  if (round) return round.map(([at, value]) => [at, coordinateText(value, unit)]);
  const [start, stop] = sight;
  const count = Math.min(TICKS, stop - start);
  const places = [...Array(count).keys()].map((k) => start + Math.round((k * (stop - start - 1)) / Math.max(1, count - 1)));
  if (labels) return places.map((index) => [index, labels[index]]);
  if (!values) return places.map((index) => [index, String(index)]);
  return places.filter((index) => values[index] !== null).map((index) => [index, coordinateText(values[index], unit)]);
}

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export class Pane {
  /**
   * viewer: has variable, position, zoom, slices (a cache), style(picture) and pointed(), moved(), zoomBy().
   */
  constructor(viewer, plane) {
    this.viewer = viewer;
    this.plane = plane;
    this.picture = null; // what is drawn
    this.canvas = make("canvas", { tabIndex: 0 });
    this.canvas.setAttribute("role", "img");
    this.canvas.dataset.plane = plane.title;
    this.title = make("h2");
    this.state = make("p", { className: "state" });
    this.cross = ["down", "across"].map((way) => make("div", { className: `cross ${way}` }));
    this.box = make("div", { className: "picture" }, this.canvas, ...this.cross);
    this.frame = make("div", { className: "frame" }, this.box, ...this.edges());
    this.names = make("p", { className: "names", textContent: this.axesText() });
    this.element = make("section", { className: "pane" }, this.title, this.names, this.frame, this.state);
    this.listen();
  }

  /** Letters or numbers at the edges: directions of a body, or ticks of a map. */
  edges() {
    if (!this.viewer.variable.affine) {
      this.ticks = { down: make("div", { className: "ticks down" }), across: make("div", { className: "ticks across" }) };
      return [this.ticks.down, this.ticks.across];
    }
    const places = ["left", "right", "above", "below"];
    return places.map((place, n) => make("span", { className: place, textContent: this.plane.edges[n] }));
  }

  /** What a map has downwards and to the right; a body has letters instead. */
  axesText() {
    if (this.viewer.variable.affine) return "";
    const [down, right] = this.plane.axes.map((axis) => {
      const { dim, unit } = this.viewer.variable.axes[axis];
      return unit && !unit.startsWith("degrees") ? `${dim} (${unit})` : dim;
    });
    return `${this.plane.flips[0] ? "↑" : "↓"} ${down}, → ${right}`;
  }

  listen() {
    const { canvas, viewer } = this;
    const shares = (event) => {
      const area = canvas.getBoundingClientRect();
      return [(event.clientY - area.top) / area.height, (event.clientX - area.left) / area.width];
    };
    canvas.addEventListener("pointermove", (event) => {
      viewer.pointed(this, this.positionAt(shares(event)));
      if (event.buttons === 1) viewer.moved(this.positionAt(shares(event)), this);
    });
    canvas.addEventListener("pointerdown", (event) => viewer.moved(this.positionAt(shares(event)), this));
    canvas.addEventListener("pointerleave", () => viewer.pointed(this, viewer.position));
    canvas.addEventListener("focus", () => viewer.pointed(this, viewer.position));
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      if (event.ctrlKey || event.metaKey) viewer.zoomBy(event.deltaY < 0 ? 2 : 0.5);
      else this.leaf(Math.sign(event.deltaY));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    const along = (n, steps) => this.step(this.plane.axes[n], this.plane.flips[n] ? -steps : steps);
    const keys = {
      ArrowUp: () => along(0, -1), ArrowDown: () => along(0, 1),
      ArrowLeft: () => along(1, -1), ArrowRight: () => along(1, 1),
      PageUp: () => this.leaf(-1), PageDown: () => this.leaf(1),
      "+": () => this.viewer.zoomBy(2), "=": () => this.viewer.zoomBy(2),
      "-": () => this.viewer.zoomBy(0.5), 0: () => this.viewer.zoomBy(0),
    };
    if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    keys[event.key]();
    this.viewer.pointed(this, this.viewer.position);
  }

  /** The axis that a slice is cut across: the last one with several places that is not in it. */
  get through() {
    const { shape } = this.viewer.variable;
    const first = this.viewer.controls.colours ? 1 : 0;
    for (let axis = shape.length - 1; axis >= first; axis--) {
      if (!this.plane.axes.includes(axis) && shape[axis] > 1) return axis;
    }
    return null;
  }

  leaf(steps) {
    if (this.through !== null) this.step(this.through, steps);
  }

  step(axis, steps) {
    const { shape } = this.viewer.variable;
    const position = [...this.viewer.position];
    position[axis] = Math.min(shape[axis] - 1, Math.max(0, position[axis] + steps));
    this.viewer.moved(position, this);
  }

  get sight() {
    return inSight(this.viewer.variable, this.plane, this.viewer.position, this.viewer.zoom);
  }

  get boxText() {
    return boxText(this.plane, this.viewer.position, this.sight, this.viewer.controls.colours);
  }

  positionAt(shares) {
    const position = [...this.viewer.position];
    const found = indicesAt(this.plane, this.sight, shares);
    this.plane.axes.forEach((axis, n) => { position[axis] = found[n]; });
    return position;
  }

  /** The picture of decoded values, as the server sent them for the box of this pane. */
  fromValues(found, level) {
    const { variable } = this.viewer;
    const [down, right] = this.plane.axes;
    if (this.viewer.controls.colours) return this.fromSamples(found, level);
    const turn = (flat) => flat && oriented(flat, found.shape, this.plane);
    const sigma = found.sigma && Float64Array.from(found.sigma, (s) => s * Math.abs(variable.slope));
    return {
      rows: found.shape[down], columns: found.shape[right], level,
      values: turn(physical(found.values, variable)), sigma: turn(sigma), lost: turn(found.lost),
    };
  }

  /** The same of colours, whose samples came one after another. */
  fromSamples({ values, lost, shape }, level) {
    const size = values.length / SAMPLES.length;
    const one = [1, ...shape.slice(1)];
    const of = (flat, n) => oriented(flat.subarray(n * size, (n + 1) * size), one, this.plane);
    const samples = SAMPLES.map((n) => physical(of(values, n), this.viewer.variable));
    const missing = lost && SAMPLES.map((n) => of(lost, n));
    const [down, right] = this.plane.axes;
    return {
      rows: shape[down], columns: shape[right], level, samples, values: samples[1], sigma: null,
      lost: missing && missing[0].map((flag, n) => flag | missing[1][n] | missing[2][n]),
    };
  }

  /** Draw the finest preview that has this slice; whether there is one. */
  showPreview(previews) {
    const { variable, position } = this.viewer;
    for (const preview of previews) {
      if (!preview.values) continue;
      const cut = this.viewer.controls.colours ? coloursFromPreview : fromPreview;
      const picture = cut(preview, variable, this.plane, position, this.sight);
      if (picture) {
        this.show(picture, "preview");
        return true;
      }
    }
    return false;
  }

  show(picture, said) {
    if (!performance.getEntriesByName("first-picture").length) performance.mark("first-picture");
    this.picture = picture;
    this.draw();
    this.say(picture.lost ? `${said}; the chequered part is damaged and cannot be read` : said, Boolean(picture.lost));
    this.canvas.dataset.level = picture.level ?? "preview";
    this.canvas.dataset.box = this.boxText;
  }

  say(text, bad = false) {
    this.state.textContent = text;
    this.state.classList.toggle("bad", bad);
  }

  /** More values than come at once: the preview stays until part of it is looked at. */
  sayTooLarge() {
    const [rows, columns] = this.sight.map(([start, stop]) => stop - start);
    const shown = this.picture ? "this is the preview" : "there is no preview";
    this.say(`${columns} × ${rows} is too large to be decoded at once, ${shown}; zoom in to see a part decoded`, !this.picture);
  }

  draw() {
    const { picture, canvas } = this;
    if (!picture) return;
    canvas.width = picture.columns;
    canvas.height = picture.rows;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    const image = context.createImageData(picture.columns, picture.rows);
    paint(image.data, picture, this.viewer.style(picture));
    context.putImageData(image, 0, 0);
    this.box.classList.toggle("smooth", picture.level === null && !this.viewer.controls.labels);
    this.place();
  }

  /** Sizes, cross-hair and texts for where the viewer is. */
  place() {
    const { variable, position } = this.viewer;
    const { sight, plane } = this;
    const [height, width] = sight.map(([start, stop], n) => (stop - start) * plane.pitch[n]);
    const ratio = Math.min(LONGEST, Math.max(1 / LONGEST, width / height));
    const scale = ratio === width / height ? "" : "not to scale";
    this.names.textContent = [this.axesText(), scale].filter(Boolean).join("; ");
    this.box.style.aspectRatio = `${ratio}`;
    this.frame.style.maxWidth = `calc(${65 * ratio}vh + ${this.ticks ? 6 : 3}em)`; // with what is at its edges
    this.cross[1].style.top = `${100 * shareOf(plane, sight, 0, position[plane.axes[0]])}%`;
    this.cross[0].style.left = `${100 * shareOf(plane, sight, 1, position[plane.axes[1]])}%`;
    for (const line of this.cross) line.hidden = variable.affine === null;
    const axis = this.through;
    const at = axis === null ? "" : `, ${variable.dims[axis]} ${position[axis] + 1} of ${variable.shape[axis]}`;
    this.title.textContent = `${plane.title}${at}`;
    this.canvas.setAttribute("aria-label", `${variable.name}, ${this.title.textContent}`);
    if (this.ticks) this.placeTicks(sight);
  }

  placeTicks(sight) {
    ["down", "across"].forEach((way, n) => {
      const axis = this.viewer.variable.axes[this.plane.axes[n]];
      const marks = ticksOf(axis, sight[n]).map(([at, text]) => {
        const mark = make("span", { textContent: text });
        mark.style[n ? "left" : "top"] = `${100 * shareOf(this.plane, sight, n, at)}%`;
        return mark;
      });
      this.ticks[way].replaceChildren(...marks);
      this.ticks[way].title = `${axis.dim}${axis.unit ? `, ${axis.unit}` : ""}`;
    });
  }
}
