// Which voxels a picture shows, and how they lie on the screen.

/** Physical values of stored ones: special and not finite ones are NaN. */
export function physical(values, variable) {
  const special = new Set(variable.special.filter((value) => value !== null));
  const made = new Float64Array(values.length);
  for (let n = 0; n < values.length; n++) {
    const value = Number(values[n]);
    const known = Number.isFinite(value) && !special.has(value);
    made[n] = known ? value * variable.slope + variable.intercept : NaN;
  }
  return made;
}

/** Values of a box, one slice thick, as rows and columns of a picture. */
export function oriented(flat, shape, plane) {
  const [down, right] = plane.axes;
  const strides = new Array(shape.length).fill(1);
  for (let axis = shape.length - 2; axis >= 0; axis--) strides[axis] = strides[axis + 1] * shape[axis + 1];
  const [rows, columns] = [shape[down], shape[right]];
  const made = new flat.constructor(rows * columns);
  for (let row = 0; row < rows; row++) {
    const from = (plane.flips[0] ? rows - 1 - row : row) * strides[down];
    for (let column = 0; column < columns; column++) {
      const at = from + (plane.flips[1] ? columns - 1 - column : column) * strides[right];
      made[row * columns + column] = flat[at];
    }
  }
  return made;
}

/** The part of a slice that is in sight: start and stop of both axes of a plane, as array indices. */
export function inSight(variable, plane, position, zoom) {
  return plane.axes.map((axis) => {
    const size = variable.shape[axis];
    const extent = Math.max(1, Math.ceil(size / zoom));
    const start = Math.min(Math.max(0, position[axis] - Math.floor(extent / 2)), size - extent);
    return [start, start + extent];
  });
}

const DEGREES = [2, 5, 10, 15, 30, 45, 60, 90, 180]; // between lines of a map
const NEARLY = 1e-9; // of a step, that coordinates may be off

export const SAMPLES = [0, 1, 2]; // of colours, along the first axis

/** A box of the array as the server takes it: the slice at a position, cut to what is in sight. */
export function boxText(plane, position, sight, inColour) {
  const ranges = position.map((at, axis) => (inColour && axis === 0 ? [0, SAMPLES.length] : [at, at + 1]));
  plane.axes.forEach((axis, n) => { ranges[axis] = sight[n]; });
  return ranges.map(([start, stop]) => `${start}:${stop}`).join(",");
}

/** Array indices along both axes of a plane for a place in a picture, given as shares of it. */
export function indicesAt(plane, sight, shares) {
  return shares.map((share, n) => {
    const [start, stop] = sight[n];
    const along = plane.flips[n] ? 1 - share : share;
    return Math.min(stop - 1, Math.max(start, start + Math.floor(along * (stop - start))));
  });
}

/** Where an index along an axis of a plane lies in a picture: 0 to 1, the middle of its voxel. */
export function shareOf(plane, sight, n, index) {
  const [start, stop] = sight[n];
  const along = (index + 0.5 - start) / (stop - start);
  return plane.flips[n] ? 1 - along : along;
}

/** The smallest round number that is not below one. */
function roundStep(least, unit) {
  const known = unit.startsWith("degrees") && least > 1 ? DEGREES.find((step) => step >= least) : undefined;
  const power = 10 ** Math.floor(Math.log10(least));
  return known ?? power * [1, 2, 5, 10].find((n) => n * power >= least * (1 - NEARLY));
}

/**
 * Round coordinates of an axis in sight, at most so many: where (in indices, with fractions) and what.
 * Null where the axis has no numbers, they neither rise nor fall, or fewer than two round ones are in sight.
 */
export function roundTicks({ values, unit }, [start, stop], most) {
  const seen = values ? values.slice(start, stop) : [];
  const apart = seen.slice(1).map((value, n) => value - seen[n]);
  const way = Math.sign(apart[0]);
  if (!way || !seen.every(Number.isFinite) || apart.some((step) => Math.sign(step) !== way)) return null;
  const [low, high] = way > 0 ? [seen[0], seen.at(-1)] : [seen.at(-1), seen[0]];
  const step = roundStep((high - low) / (most - 1), unit);
  const ticks = [];
  for (let n = Math.ceil(low / step - NEARLY); n * step <= high + NEARLY * step; n++) {
    const value = Math.min(high, Math.max(low, n * step));
    const after = Math.max(1, seen.findIndex((other) => way * other >= way * value));
    ticks.push([start + after + (value - seen[after]) / apart[after - 1], n * step]);
  }
  return ticks.length > 1 ? ticks : null;
}

/** World coordinates in mm of an array position; null for what is not in space. */
export function world(variable, position) {
  if (!variable.affine) return null;
  const at = [...position.slice(-3), 1];
  return variable.affine.slice(0, 3).map((row) => row.reduce((sum, value, n) => sum + value * at[n], 0));
}

/**
 * A slice of a preview as a picture; null where the preview does not have that slice.
 * preview: as the server describes it, with values (uint8).
 */
export function fromPreview(preview, variable, plane, position, sight) {
  const ndim = variable.shape.length;
  const lead = Math.max(0, ndim - 3);
  const small = preview.shape.slice(-3);
  const size = small[0] * small[1] * small[2];
  const wanted = position.slice(0, lead);
  const pick = preview.picks.length ? nearest(preview.picks, wanted) : 0;
  if (preview.picks.length && preview.slices.length && preview.picks[pick].some((at, axis) => at !== wanted[axis])) return null;
  const through = ndim - 3; // axis of the array that whole slices are cut across
  if (preview.slices.length && plane.axes.includes(through)) return null;
  if (preview.inside.some((at, axis) => at !== position[axis])) return null;
  const ranges = [0, 1, 2].map((axis) => {
    const own = axis - 3 + ndim; // axis of the array
    const at = own < 0 ? 0 : position[own];
    const n = plane.axes.indexOf(own);
    const [start, stop] = n < 0 ? [at, at + 1] : sight[n];
    if (axis === 0 && preview.slices.length) {
      const number = own < 0 ? 0 : preview.slices.indexOf(at);
      return [number, number + 1];
    }
    const first = Math.floor((start - preview.first[axis]) / preview.steps[axis]);
    const last = Math.ceil((stop - preview.first[axis]) / preview.steps[axis]);
    return n < 0 ? [first, first + 1] : [first, Math.min(last, small[axis])];
  });
  if (ranges.some(([start, stop], axis) => start < 0 || start >= small[axis] || stop <= start)) return null;
  const shape = ranges.map(([start, stop]) => stop - start);
  const cut = new Float64Array(shape[0] * shape[1] * shape[2]);
  let n = 0;
  for (let z = ranges[0][0]; z < ranges[0][1]; z++)
    for (let y = ranges[1][0]; y < ranges[1][1]; y++)
      for (let x = ranges[2][0]; x < ranges[2][1]; x++) {
        const value = preview.values[pick * size + (z * small[1] + y) * small[2] + x];
        const stored = value * preview.scale + preview.offset;
        cut[n++] = value === preview.nothing ? NaN : stored * variable.slope + variable.intercept;
      }
  const axes = plane.axes.map((axis) => axis + 3 - ndim);
  const turned = { ...plane, axes };
  return {
    rows: shape[axes[0]], columns: shape[axes[1]], values: oriented(cut, shape, turned),
    sigma: null, lost: null, level: null,
  };
}

/** All samples of a slice of a preview as a picture; null where it does not have them. */
export function coloursFromPreview(preview, variable, plane, position, sight) {
  const pictures = SAMPLES.map((sample) => fromPreview(preview, variable, plane, [sample, ...position.slice(1)], sight));
  if (pictures.includes(null)) return null;
  return { ...pictures[1], samples: pictures.map((picture) => picture.values) };
}

function nearest(picks, wanted) {
  const away = picks.map((pick) => pick.reduce((sum, at, n) => sum + Math.abs(at - (wanted[n] ?? 0)), 0));
  return away.indexOf(Math.min(...away));
}
