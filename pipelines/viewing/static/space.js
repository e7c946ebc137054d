// Three planes and 3-D by NiiVue, where the browser has WebGL 2; the plain slices do without it.

import { address } from "./api.js";
import { category } from "./colour.js";

const SMALL = 1 << 21; // voxels of a volume that is drawn without being asked for
const MOST_LABELS = 4096; // that have a colour of their own in 3-D
const FAINTEST = 8; // of 255, how opaque the largest label is
const CROSS = [1, 0.8, 0.2, 0.8]; // as on the slices

const byId = (id) => document.getElementById(id);

function hasWebGL2() {
  try {
    return Boolean(document.createElement("canvas").getContext("webgl2"));
  } catch {
    return false;
  }
}

/** 0 to 255 for each label: the smallest hides what is behind it, the largest hardly does. */
function opacities(values, count) {
  const sizes = new Array(count).fill(0);
  for (const value of values) sizes[value] += 1;
  const there = sizes.slice(1).filter(Boolean);
  if (there.length < 2) return sizes.map((_, n) => (n ? 255 : 0));
  const [least, most] = [Math.min(...there), Math.max(...there)].map(Math.log);
  return sizes.map((size, n) => {
    if (!n || !size) return 0;
    const share = most > least ? (Math.log(size) - least) / (most - least) : 0;
    return Math.max(1, Math.round(255 * (FAINTEST / 255) ** share));
  });
}

export class Space {
  constructor(viewer) {
    this.viewer = viewer;
    this.section = byId("space");
    this.text = byId("space-text");
    this.buttons = byId("space-buttons");
    this.canvas = byId("space-canvas");
    this.niivue = null;
    this.section.querySelector("[name=sharpen]").addEventListener("click", () => this.load(viewer.level));
    this.section.querySelector("[name=layout]").addEventListener("change", () => this.arrange());
  }

  clear() {
    this.section.hidden = true;
  }

  /** Offer 3-D of a variable that is in space: its preview at once, a level when it is asked for. */
  async offer(variable) {
    this.section.hidden = !variable.solid;
    this.shown = null;
    if (!variable.solid) return;
    delete this.canvas.dataset.shown;
    if (!(await this.start())) return;
    const small = variable.previews.some((preview) => !preview.slices.length && Math.min(...preview.shape.slice(-3)) > 1);
    const voxels = variable.shape.slice(-3).reduce((product, size) => product * size, 1);
    if (small) await this.load(null);
    else if (voxels <= SMALL) await this.load(this.viewer.level);
    else this.text.textContent = "This archive has no small preview in space: sharpen to load the whole volume.";
  }

  async start() {
    if (this.niivue) return true;
    const give_up = (text) => {
      this.text.textContent = text;
      this.canvas.parentElement.hidden = true;
      this.buttons.hidden = true;
      return false;
    };
    if (!hasWebGL2()) return give_up("This browser has no WebGL 2, so there is no 3-D; the slices do without.");
    let library;
    try {
      library = await import("./niivue.js");
    } catch {
      return give_up("NiiVue is not part of this installation, so there is no 3-D; the slices do without.");
    }
    this.niivue = new library.Niivue({
      logLevel: "error", isColorbar: false, dragAndDropEnabled: false, show3Dcrosshair: true,
      crosshairColor: CROSS, crosshairWidth: 0.4,
    });
    await this.niivue.attachToCanvas(this.canvas);
    this.arrange();
    return true;
  }

  arrange() {
    if (!this.niivue) return;
    const planes = this.section.querySelector("[name=layout]").value === "planes";
    this.niivue.setSliceType(planes ? this.niivue.sliceTypeMultiplanar : this.niivue.sliceTypeRender);
  }

  /** Draw the volume of a level; null is the preview. */
  async load(level) {
    const { at, variable, position } = this.viewer;
    const parameters = { at, variable: variable.name, lead: position.slice(0, -3).join(",") };
    if (level !== null) parameters.level = level;
    this.text.textContent = "loading …";
    try {
      const answer = await fetch(address("volume", parameters));
      if (!answer.ok) {
        this.text.textContent = answer.status === 422 ? (await answer.json()).error.message : "it cannot be loaded";
        return;
      }
      const url = URL.createObjectURL(await answer.blob());
      const colormap = this.viewer.controls.labels ? "random" : variable.palette === "grey" ? "gray" : "viridis";
      await this.niivue.loadVolumes([{ url, name: "volume.nii", colormap }]);
      URL.revokeObjectURL(url);
      this.colourLabels();
    } catch (error) {
      this.text.textContent = `NiiVue cannot show this volume (${error.message})`;
      return;
    }
    this.setWindow(this.viewer.controls.window);
    this.moved(position);
    this.canvas.dataset.shown = level ?? "preview";
    this.text.textContent = level === null ? "From the preview; nothing more was read." : `From ${this.viewer.levelText(level)}.`;
  }

  /**
   * Give labels the colours that they have on the slices; 0 is not drawn. What is large is seen
   * through, so that it does not hide what is inside.
   */
  colourLabels() {
    const volume = this.niivue.volumes[0];
    if (!this.viewer.controls.labels || volume.global_min < 0 || volume.global_max >= MOST_LABELS) return;
    const numbers = Array.from({ length: volume.global_max + 1 }, (_, n) => n);
    const [R, G, B] = [0, 1, 2].map((part) => numbers.map((n) => category(n)[part]));
    volume.setColormapLabel({ R, G, B, A: opacities(volume.img, numbers.length), I: numbers });
    this.niivue.updateGLVolume();
  }

  setWindow({ low, high }) {
    const volume = this.niivue?.volumes[0];
    if (!volume || this.viewer.controls.labels) return;
    volume.cal_min = low;
    volume.cal_max = high;
    this.niivue.updateGLVolume();
  }

  moved(position) {
    const { affine } = this.viewer.variable;
    if (!this.niivue?.volumes.length || !affine) return;
    const at = [...position.slice(-3), 1];
    const mm = affine.slice(0, 3).map((row) => row.reduce((sum, value, n) => sum + value * at[n], 0));
    this.niivue.scene.crosshairPos = this.niivue.mm2frac(mm);
    this.niivue.drawScene();
  }
}
