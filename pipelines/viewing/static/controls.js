// The form beside the pictures: level, places, window, overlay, zoom.

/** A number as people write it. */
export function number(value) {
  if (!Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  return size !== 0 && (size >= 1e6 || size < 1e-4) ? value.toExponential(3) : String(Number(value.toPrecision(6)));
}

const MOST_LABELS = 32;

/** Whether there are so few different values that they are labels. */
function areLabels(arrays) {
  const seen = new Set();
  for (const array of arrays) {
    for (const value of array) if (!Number.isNaN(value) && seen.add(value).size > MOST_LABELS) return false;
  }
  return seen.size > 1;
}

const form = () => document.getElementById("controls");
const byId = (id) => document.getElementById(id);

function option(value, text = value) {
  return Object.assign(document.createElement("option"), { value, textContent: text });
}

export class Controls {
  constructor(viewer) {
    this.viewer = viewer;
    this.window = { low: 0, high: 1 };
    const parts = form().elements;
    this.parts = parts;
    form().addEventListener("submit", (event) => event.preventDefault());
    parts.variable.addEventListener("change", () => viewer.choose(parts.variable.value));
    parts.level.addEventListener("input", () => {
      viewer.level = Number(parts.level.value);
      this.showLevel();
      viewer.load();
    });
    parts.preset.addEventListener("change", () => {
      this.choosePreset();
      if (this.variable.colours) this.showSamples();
    });
    for (const part of [parts.low, parts.high]) {
      part.addEventListener("input", () => {
        if (!Number.isFinite(part.valueAsNumber)) return;
        const mixed = this.colours;
        parts.preset.value = "own";
        this.setWindow({ low: parts.low.valueAsNumber, high: parts.high.valueAsNumber });
        if (mixed) this.showSamples();
        else viewer.redraw();
      });
    }
    parts.overlay.addEventListener("change", () => viewer.load());
    parts.strength.addEventListener("input", () => viewer.redraw());
    parts.in.addEventListener("click", () => viewer.zoomBy(2));
    parts.out.addEventListener("click", () => viewer.zoomBy(0.5));
  }

  get overlay() {
    return this.parts.overlay.value;
  }

  /** Whether values are names of things, each with a colour of its own. */
  get labels() {
    return this.parts.preset.value === "labels";
  }

  /** Whether all samples of a colour are drawn at once. */
  get colours() {
    return this.parts.preset.value === "colours";
  }

  get strength() {
    return Number(this.parts.strength.value);
  }

  setUp(variable, variables) {
    const { parts } = this;
    this.variable = variable;
    parts.variable.replaceChildren(...variables.map((v) => option(v.name, `${v.name} (${v.shape.join(" × ")})`)));
    parts.variable.value = variable.name;
    byId("variable-row").hidden = variables.length < 2;
    parts.level.max = 0;
    parts.overlay.value = "";
    byId("level-text").textContent = "";
    byId("scale").className = `scale ${variable.palette}`;
    const presets = [option("auto", "usual range"), ...Object.keys(variable.windows).map((name) => option(name))];
    if (!variable.dtype.startsWith("float")) presets.push(option("labels", "a colour for each label"));
    if (variable.colours) presets.unshift(option("colours", variable.colours.alpha ? "colours, without alpha" : "colours"));
    parts.preset.replaceChildren(...presets, option("own", "your own"));
    parts.preset.value = variable.colours ? "colours" : variable.labels ? "labels" : "soft tissue" in variable.windows ? "soft tissue" : "auto";
    if (parts.preset.value !== "auto") this.choosePreset();
    this.showOverlay("", null);
    this.setZoom(1);
    this.makeSliders(variable);
  }

  makeSliders(variable) {
    const map = variable.planes.length === 1 ? variable.planes[0].axes : [];
    this.sliders = variable.axes.map((axis, number_) => {
      if (axis.size < 2 || map.includes(number_)) return null;
      const input = Object.assign(document.createElement("input"), { type: "range", min: 0, max: axis.size - 1, name: `axis-${number_}` });
      const text = document.createElement("output");
      const label = document.createElement("label");
      label.append(axis.dim, input, text);
      input.addEventListener("input", () => {
        const position = [...this.viewer.position];
        position[number_] = Number(input.value);
        const pane = this.viewer.panes.find((each) => each.through === number_);
        this.viewer.moved(position, pane);
      });
      return { label, input, text };
    });
    byId("sliders").replaceChildren(...this.sliders.filter(Boolean).map((slider) => slider.label));
    if (variable.colours && this.sliders[0]) this.sliders[0].label.hidden = this.colours;
    this.setPosition(this.viewer.position);
  }

  setPosition(position) {
    this.sliders.forEach((slider, axis) => {
      if (!slider) return;
      slider.input.value = position[axis];
      slider.text.textContent = this.placeText(axis, position[axis], false);
      slider.input.setAttribute("aria-valuetext", slider.text.textContent);
    });
  }

  /** What a place along an axis is called: its date or coordinate, else its number. */
  placeText(axis, at, named = true) {
    const { dim, labels, values, unit } = this.variable.axes[axis];
    const dimension = named ? `${dim} ` : "";
    if (labels?.[at]) return `${dimension}${labels[at]}`;
    if (values?.[at] != null && !this.variable.affine) return `${dimension}${number(values[at])}${unit ? ` ${unit}` : ""}`;
    return `${dimension}${at}`;
  }

  setLevels({ levels, methods, promises }) {
    this.levels = levels;
    this.parts.level.max = Math.max(0, levels.length - 1);
    this.parts.level.value = this.viewer.level;
    this.parts.level.disabled = levels.length < 2;
    this.showLevel();
    const lines = promises.map(([, text]) => text);
    if (methods.length) lines.push(`coded by ${methods.join(", ")}`);
    byId("promises").replaceChildren(...lines.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
  }

  showLevel() {
    const row = this.levels[this.viewer.level];
    if (!row) return;
    const error = row.max_error === 0 ? ", exact" : row.max_error != null ? `, largest error ${number(row.max_error)} ${this.variable.slope === 1 ? this.variable.unit : "stored units"}` : "";
    const text = `${this.viewer.levelText(this.viewer.level)}${row.bpv == null ? "" : `, ${Number(row.bpv.toPrecision(3))} bits per voxel`}${error}`;
    byId("level-text").textContent = text;
    this.parts.level.setAttribute("aria-valuetext", text);
  }

  /** Colours, or one sample of them: both are read anew, since they are other slices. */
  showSamples() {
    const slider = this.sliders[0];
    if (slider && this.variable.colours) slider.label.hidden = this.colours;
    this.viewer.settled = false;
    for (const pane of this.viewer.panes) pane.place();
    this.viewer.load();
  }

  choosePreset() {
    const { preset } = this.parts;
    const found = this.variable.windows[preset.value];
    if (found) this.setWindow({ low: found[0], high: found[1] });
    if (preset.value === "colours") this.setWindow({ low: 0, high: this.variable.colours.top });
    if (preset.value === "auto") this.viewer.fitWindow();
    else this.viewer.redraw();
  }

  /** Take the usual window of decoded values, or colours where there are but a few integers. */
  fit(find, arrays) {
    if (this.parts.preset.value !== "auto") return;
    this.setWindow(find());
    if (!this.variable.dtype.startsWith("float") && areLabels(arrays)) this.parts.preset.value = "labels";
  }

  setWindow({ low, high }) {
    this.window = { low, high };
    if (document.activeElement !== this.parts.low) this.parts.low.value = number(low);
    if (document.activeElement !== this.parts.high) this.parts.high.value = number(high);
    byId("scale-low").textContent = number(low);
    byId("scale-high").textContent = `${number(high)} ${this.variable.unit}`;
  }

  showOverlay(what, over) {
    byId("overlay-scale").hidden = !what;
    byId("overlay-high").textContent = over ? `${number(over.top)} ${this.variable.unit}` : "none at this level";
  }

  setZoom(zoom) {
    byId("zoom-text").textContent = `${zoom} ×`;
  }
}
