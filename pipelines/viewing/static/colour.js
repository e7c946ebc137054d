// From values to pixels: one pixel for each value, windows in physical units.

const STOPS = {
  grey: [[0, 0, 0], [255, 255, 255]],
  heat: [[8, 8, 30], [70, 20, 110], [160, 40, 100], [225, 90, 60], [250, 165, 40], [252, 250, 190]],
  field: [[20, 25, 80], [35, 90, 150], [50, 145, 150], [95, 190, 125], [190, 220, 80], [253, 245, 190]],
};
const CATEGORIES = 12;
const LIGHTS = [[140, 100], [85, 60], [195, 55]]; // of each five: five steps nearly close the circle
const NOT_A_NUMBER = [120, 120, 120];
const LOST = [[200, 30, 110], [60, 10, 40]]; // a chequerboard, which no data looks like

const palettes = {};

/** 256 colours, dark to light, as numbers r, g, b one after another. */
export function palette(name) {
  if (!palettes[name]) {
    const stops = STOPS[name];
    const made = new Uint8Array(256 * 3);
    for (let n = 0; n < 256; n++) {
      const at = (n / 255) * (stops.length - 1);
      const low = Math.min(Math.floor(at), stops.length - 2);
      for (let c = 0; c < 3; c++) {
        const [a, b] = [stops[low][c], stops[low + 1][c]];
        made[3 * n + c] = Math.round(a + (b - a) * (at - low));
      }
    }
    palettes[name] = made;
  }
  return palettes[name];
}

/** The colour of a label: 0 is black, neighbours are far apart. */
export function category(value) {
  if (value === 0) return [0, 0, 0];
  const number = ((value % CATEGORIES) + CATEGORIES) % CATEGORIES;
  const turn = (number * 0.381966) % 1;
  const [centre, span] = LIGHTS[Math.floor(number / 5)];
  return [0, 1 / 3, 2 / 3].map((phase) => Math.round(centre + span * Math.cos(2 * Math.PI * (turn + phase))));
}

/** Where a value lies in a window: 0 to 255. */
export function place(value, { low, high }) {
  const share = (value - low) / (high - low || 1);
  return Math.round(Math.min(1, Math.max(0, share)) * 255);
}

/** The values between which all but one in a hundred lie. */
export function usualRange(arrays) {
  const known = [];
  for (const array of arrays) {
    const step = Math.max(1, Math.floor(array.length / 50000));
    for (let n = 0; n < array.length; n += step) if (Number.isFinite(array[n])) known.push(array[n]);
  }
  if (!known.length) return { low: 0, high: 1 };
  known.sort((a, b) => a - b);
  const at = (share) => known[Math.min(known.length - 1, Math.floor(share * known.length))];
  const [low, high] = [at(0.005), at(0.995)];
  return high > low ? { low, high } : { low, high: low + 1 };
}

/** Red, green and blue of a pixel, 0 to 255, of its samples; colours: { luma, top }. */
export function mixed(samples, n, { luma, top }) {
  let [r, g, b] = samples.map((sample) => sample[n] / top);
  if (luma) { // Y, Cb and Cr of DICOM
    const [y, blue, red] = [r, g - 0.5, b - 0.5];
    [r, g, b] = [y + 1.402 * red, y - 0.344136 * blue - 0.714136 * red, y + 1.772 * blue];
  }
  return [r, g, b].map((share) => Math.round(255 * Math.min(1, Math.max(0, share))));
}

/**
 * Fill the pixels (RGBA) of a picture.
 *
 * picture: rows, columns, values (NaN: nothing was measured), lost (1: cannot be read), samples of colours
 * style: palette, window, labels, colours, and over: { values, top, strength } or null
 */
export function paint(pixels, picture, style) {
  const colours = palette(style.palette);
  const heat = palette("heat");
  const { values, lost, columns } = picture;
  for (let n = 0; n < values.length; n++) {
    let r, g, b;
    if (lost && lost[n]) {
      const dark = ((n % columns >> 2) + (Math.floor(n / columns) >> 2)) % 2;
      [r, g, b] = LOST[dark];
    } else if (Number.isNaN(values[n])) {
      [r, g, b] = NOT_A_NUMBER;
    } else if (style.colours && picture.samples) {
      [r, g, b] = mixed(picture.samples, n, style.colours);
    } else if (style.labels) {
      [r, g, b] = category(values[n]);
    } else {
      const at = 3 * place(values[n], style.window);
      r = colours[at]; g = colours[at + 1]; b = colours[at + 2];
    }
    if (style.over && !(lost && lost[n]) && Number.isFinite(style.over.values[n])) {
      const share = Math.min(1, Math.abs(style.over.values[n]) / style.over.top);
      const weight = style.over.strength * share;
      const at = 3 * Math.round(share * 255);
      r += (heat[at] - r) * weight;
      g += (heat[at + 1] - g) * weight;
      b += (heat[at + 2] - b) * weight;
    }
    pixels[4 * n] = r;
    pixels[4 * n + 1] = g;
    pixels[4 * n + 2] = b;
    pixels[4 * n + 3] = 255;
  }
}
