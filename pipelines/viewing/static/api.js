// What the server is asked for. Everything an archive says comes as data and stays data.

const TYPES = {
  int8: Int8Array, uint8: Uint8Array, int16: Int16Array, uint16: Uint16Array,
  int32: Int32Array, uint32: Uint32Array, int64: BigInt64Array, uint64: BigUint64Array,
  float32: Float32Array, float64: Float64Array,
};

/** An answer of the server that says what is wrong. */
export class Trouble extends Error {
  constructor(kind, message) {
    super(message);
    this.kind = kind;
  }
}

const listeners = [];

/** Call a function with the bytes of the archive that were read, whenever that is known anew. */
export function onBytesRead(listener) {
  listeners.push(listener);
}

function tellBytes(count) {
  for (const listener of listeners) listener(Number(count));
}

export function address(what, parameters) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    for (const one of Array.isArray(value) ? value : [value]) query.append(name, one);
  }
  return `api/${what}?${query}`;
}

async function ask(what, parameters, signal) {
  let answer;
  try {
    answer = await fetch(address(what, parameters), { signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Trouble("no-server", "the server does not answer; is psc-archive view still running?");
  }
  if (answer.ok) return answer;
  let said = { kind: "refused", message: `the server refused (${answer.status})` };
  if (answer.status === 422) said = (await answer.json()).error;
  throw new Trouble(said.kind, said.message);
}

export async function getJson(what, parameters, signal) {
  const found = await (await ask(what, parameters, signal)).json();
  if (found.bytes_read !== undefined) tellBytes(found.bytes_read);
  return found;
}

/** Values as a typed array in C order, with shape; sigma and lost voxels where the server has them. */
export async function getValues(what, parameters, signal) {
  const answer = await ask(what, parameters, signal);
  const body = await answer.arrayBuffer();
  tellBytes(answer.headers.get("X-Bytes-Read"));
  const shape = answer.headers.get("X-Shape").split(",").map(Number);
  const count = shape.reduce((a, b) => a * b, 1);
  const Type = TYPES[answer.headers.get("X-Dtype")];
  const found = { shape, values: new Type(body, 0, count), sigma: null, lost: null };
  let offset = count * Type.BYTES_PER_ELEMENT;
  for (const part of (answer.headers.get("X-Also") ?? "").split(" ").filter(Boolean)) {
    const Part = part === "sigma" ? Float32Array : Uint8Array;
    const bytes = body.slice(offset, offset + count * Part.BYTES_PER_ELEMENT);
    found[part] = new Part(bytes);
    offset += bytes.byteLength;
  }
  return found;
}
