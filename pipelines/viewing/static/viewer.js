// An archive on the screen: its preview at once, then level after level, what is in sight first.

import { getJson, getValues } from "./api.js";
import { usualRange } from "./colour.js";
import { Controls, number } from "./controls.js";
import { Pane } from "./pane.js";
import { world } from "./planes.js";
import { Space } from "./space.js";

const KEPT_VOXELS = 1 << 23; // in slices that were fetched
const MOST_ZOOM = 32;

/** Slices that were fetched, the latest of them, by archive, variable, box and level. */
class Slices {
  constructor() {
    this.kept = new Map();
    this.voxels = 0;
  }

  get(key) {
    const found = this.kept.get(key);
    if (found) {
      this.kept.delete(key);
      this.kept.set(key, found);
    }
    return found;
  }

  set(key, slice) {
    this.kept.set(key, slice);
    this.voxels += slice.values.length;
    for (const [old, dropped] of this.kept) {
      if (this.voxels <= KEPT_VOXELS || old === key) break;
      this.kept.delete(old);
      this.voxels -= dropped.values.length;
    }
  }
}

export class Viewer {
  /** page: has say(text), trouble(error) and bytes(total). */
  constructor(page) {
    this.page = page;
    this.slices = new Slices();
    this.controls = new Controls(this);
    this.space = new Space(this);
    this.panes = [];
    this.running = new AbortController();
  }

  async open(at, name) {
    this.at = at;
    const archive = await getJson("archive", { at });
    this.archive = archive;
    this.page.title(archive.name, archive.bytes);
    if (!archive.variables.length) {
      document.getElementById("viewer").hidden = true;
      this.page.say("the archive holds no volume; `psc-archive restore` gives its files back");
      return;
    }
    const named = archive.variables.find((variable) => variable.name === name);
    await this.choose((named ?? archive.variables[0]).name);
  }

  close() {
    this.running.abort();
    this.space.clear();
  }

  /** Show a variable: its preview as soon as it is here, then its levels. */
  async choose(name) {
    this.running.abort();
    const { at } = this;
    const variable = await getJson("variable", { at, variable: name });
    this.variable = variable;
    this.levels = [];
    this.level = 0;
    this.zoom = 1;
    this.position = [...variable.planes[0].start].map((start, axis) =>
      variable.planes[0].axes.includes(axis) ? Math.floor(variable.shape[axis] / 2) : start);
    this.settled = false;
    this.over = null;
    this.pointer = null;
    this.panes = variable.planes.map((plane) => new Pane(this, plane));
    this.active = this.panes[0];
    this.controls.setUp(variable, this.archive.variables);
    document.getElementById("what").textContent = variable.title;
    this.page.panes(this.panes);
    for (const pane of this.panes) pane.place();
    if (variable.damage.length) this.page.trouble({ message: variable.damage.join("; ") });
    await this.fetchPreviews();
    await this.fetchLevels();
    this.space.offer(variable);
    await this.load();
  }

  async fetchPreviews() {
    const { variable, at } = this;
    await Promise.all(variable.previews.map(async (preview) => {
      try {
        const found = await getValues("preview", { at, variable: variable.name, path: preview.path });
        preview.values = found.values;
      } catch (error) {
        this.page.trouble(error);
        return;
      }
      if (variable === this.variable) this.drawPreviews();
    }));
  }

  drawPreviews() {
    for (const pane of this.panes) if (pane.picture?.level == null) pane.showPreview(this.variable.previews);
    this.fitWindow();
  }

  async fetchLevels() {
    const { variable, at } = this;
    try {
      const found = await getJson("levels", { at, variable: variable.name });
      if (variable !== this.variable) return;
      this.levels = found.levels;
      this.level = found.levels.length - 1;
      this.controls.setLevels(found);
      if (found.damage.length) this.page.trouble({ message: found.damage.join("; ") });
    } catch (error) {
      this.page.trouble(error);
    }
  }

  // -- levels ---------------------------------------------------------------------------

  /** Fetch what is in sight, level after level up to the chosen one, the active picture first. */
  async load() {
    this.running.abort();
    this.running = new AbortController();
    const { signal } = this.running;
    const order = [this.active, ...this.panes.filter((pane) => pane !== this.active)];
    for (const pane of order) this.showBest(pane);
    try {
      for (let level = 0; level <= this.level; level++) {
        await this.step(order[0], level, signal);
        await Promise.all(order.slice(1).map((pane) => this.step(pane, level, signal)));
      }
      await this.loadOverlay(signal);
      this.page.say(this.summary());
      if (this.zoom > 1) await this.fetchAround(order[0], signal);
    } catch (error) {
      if (error.name !== "AbortError") this.page.trouble(error);
    }
  }

  /** What came of it, in a line. */
  summary() {
    if (!this.levels.length) return "only the preview can be shown";
    const text = this.levelText(this.level);
    const levels = this.panes.map((pane) => pane.picture?.level ?? -1);
    if (levels.every((level) => level >= this.level)) return `shown: ${text}`;
    if (levels.some((level) => level >= 0)) return `shown in part: ${text}; what is missing says why`;
    return `${text}: cannot be shown, the pictures say why`;
  }

  key(pane, level) {
    return `${this.at}\n${this.variable.name}\n${pane.boxText}\n${level}`;
  }

  /** What is here already: the finest level up to the chosen one, else the preview. */
  showBest(pane) {
    for (let level = this.level; level >= 0; level--) {
      const kept = this.slices.get(this.key(pane, level));
      if (kept) return pane.show(pane.fromValues(kept, level), this.levelText(level));
    }
    const stale = pane.canvas.dataset.box !== pane.boxText || pane.picture?.level > this.level;
    if (!pane.showPreview(this.variable.previews)) {
      if (stale) pane.picture = null;
      pane.say("loading …");
    }
    return undefined;
  }

  async step(pane, level, signal) {
    const shown = pane.picture?.level;
    if (pane.canvas.dataset.box === pane.boxText && shown != null && shown >= level) return;
    this.page.say(`loading ${this.levelText(level)} …`);
    try {
      const found = await this.fetch(pane, level, signal);
      pane.show(pane.fromValues(found, level), this.levelText(level));
      if (this.pointer) this.pointed(...this.pointer);
      if (!this.settled) this.fitWindow();
      if (level === this.level) this.settled = true;
    } catch (error) {
      if (error.name === "AbortError") throw error;
      if (error.kind === "roi-too-large") pane.sayTooLarge();
      else pane.say(error.message, true);
      pane.canvas.dataset.failed = error.kind;
    }
  }

  async fetch(pane, level, signal) {
    const key = this.key(pane, level);
    const kept = this.slices.get(key);
    if (kept) return kept;
    const asked = { at: this.at, variable: this.variable.name, box: pane.boxText, level };
    const found = await getValues("region", asked, signal);
    this.slices.set(key, found);
    return found;
  }

  /** The rest of a slice of which part is in sight, so that zooming out needs nothing. */
  async fetchAround(pane, signal) {
    const { zoom } = this;
    this.zoom = 1;
    const whole = { boxText: pane.boxText };
    this.zoom = zoom;
    if (signal.aborted) return;
    await this.fetch(whole, this.level, signal).catch((error) => {
      if (error.kind !== "roi-too-large") throw error; // it is shown in parts alone
    });
  }

  levelText(level) {
    const row = this.levels[level];
    if (!row) return "the preview";
    const name = row.name ? ` (${row.name})` : "";
    if (this.levels.length === 1) return `the only level${name}`;
    return `level ${level} of ${this.levels.length - 1}${name}`;
  }

  // -- what is drawn --------------------------------------------------------------------

  style(picture) {
    const { controls, variable } = this;
    const over = this.overlayOf(picture);
    return {
      palette: variable.palette, labels: controls.labels, window: controls.window,
      colours: controls.colours ? variable.colours : null,
      over: over && this.over ? { values: over, top: this.over.top, strength: controls.strength } : null,
    };
  }

  /** Values of the overlay for a picture; null where there are none. */
  overlayOf(picture) {
    if (this.controls.overlay === "sigma") return picture.sigma;
    if (this.controls.overlay !== "difference") return null;
    return picture.difference ?? null;
  }

  async loadOverlay(signal) {
    const what = this.controls.overlay;
    if (what === "difference" && this.levels.length) {
      const best = this.levels.length - 1;
      for (const pane of this.panes) {
        if (pane.picture?.level == null) continue;
        const truth = pane.fromValues(await this.fetch(pane, best, signal), best);
        pane.picture.difference = pane.picture.values.map((value, n) => value - truth.values[n]);
      }
    }
    const found = this.panes.map((pane) => pane.picture && this.overlayOf(pane.picture)).filter(Boolean);
    const top = found.length ? usualRange(found.map((values) => values.map(Math.abs))).high : 0;
    const any = found.some((values) => values.some((value) => value !== 0));
    this.over = what && any ? { top } : null;
    this.controls.showOverlay(what, this.over);
    this.redraw();
  }

  fitWindow() {
    const drawn = this.panes.map((pane) => pane.picture).filter(Boolean);
    const exact = drawn.filter((picture) => this.levels[picture.level]?.max_error === 0);
    this.controls.fit(() => usualRange(drawn.map((picture) => picture.values)), exact.map((picture) => picture.values));
    this.redraw();
  }

  redraw() {
    document.getElementById("scale").hidden = this.controls.labels || this.controls.colours; // which run from no low to no high
    for (const pane of this.panes) pane.draw();
    this.space.setWindow(this.controls.window);
  }

  // -- what people do -------------------------------------------------------------------

  moved(position, pane) {
    this.active = pane ?? this.active;
    const same = position.every((at, axis) => at === this.position[axis]);
    this.position = position;
    this.controls.setPosition(position);
    for (const each of this.panes) each.place();
    if (!same) {
      this.space.moved(position);
      this.load();
    }
  }

  zoomBy(factor) {
    const zoom = factor ? Math.min(MOST_ZOOM, Math.max(1, this.zoom * factor)) : 1;
    if (zoom === this.zoom) return;
    this.zoom = zoom;
    this.controls.setZoom(zoom);
    for (const pane of this.panes) pane.place();
    this.load();
  }

  /** Say what is at a place of a pane: index, place in the world, value and sigma with unit. */
  pointed(pane, position) {
    const { variable } = this;
    this.pointer = [pane, position];
    const places = variable.dims.map((dim, axis) => this.controls.placeText(axis, position[axis]));
    const parts = [places.slice(this.controls.colours ? 1 : 0).join(", ")];
    const mm = world(variable, position);
    if (mm) parts.push(`x ${mm[0].toFixed(1)}, y ${mm[1].toFixed(1)}, z ${mm[2].toFixed(1)} mm (RAS+)`);
    parts.push(this.valueText(pane, position));
    this.page.value(parts.filter(Boolean).join(" · "));
  }

  valueText(pane, position) {
    const { picture } = pane;
    if (!picture) return "";
    const { variable } = this;
    const [row, column] = pane.plane.axes.map((axis, n) => {
      const [start, stop] = pane.sight[n];
      const along = (position[axis] - start + 0.5) / (stop - start);
      const share = pane.plane.flips[n] ? 1 - along : along;
      return Math.floor(share * (n ? picture.columns : picture.rows));
    });
    const at = row * picture.columns + column;
    if (!(row >= 0 && row < picture.rows && column >= 0 && column < picture.columns)) return "";
    if (picture.lost?.[at]) return "damaged: cannot be read";
    if (Number.isNaN(picture.values[at])) return "nothing was measured here";
    if (picture.samples) {
      const names = variable.colours.luma ? ["Y", "Cb", "Cr"] : ["red", "green", "blue"];
      const said = names.map((name, n) => `${name} ${number(picture.samples[n][at])}`).join(", ");
      return picture.level === null ? `about ${said} (preview)` : `${said}${this.levels[picture.level]?.max_error === 0 ? " (exact)" : ""}`;
    }
    const value = number(picture.values[at]);
    if (this.controls.labels) {
      const meaning = variable.meanings[value];
      return `label ${value}${meaning ? ` (${meaning})` : ""}`;
    }
    if (picture.level === null) return `about ${value} ${variable.unit} (preview)`;
    const exact = this.levels[picture.level]?.max_error === 0;
    const sigma = picture.sigma ? ` ± ${number(picture.sigma[at])} (one sigma)` : "";
    const more = picture.difference ? `, best level ${number(picture.values[at] - picture.difference[at])}` : "";
    return `${value} ${variable.unit}${exact ? " (exact)" : sigma}${more}`;
  }
}
