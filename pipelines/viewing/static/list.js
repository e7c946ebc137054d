// The archives of a folder: rows of the catalogue, with its own filters.

import { getJson } from "./api.js";
import { number } from "./controls.js";

const byId = (id) => document.getElementById(id);

export function sizeText(bytes) {
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (bytes < 1000) return `${unit === "B" ? bytes : bytes.toFixed(1)} ${unit}`;
    bytes /= 1000;
  }
  return `${bytes.toFixed(1)} TB`;
}

/** Conditions as `psc-archive ls --where` takes them. */
export function conditions(fields) {
  const made = [];
  if (fields.modality.value) made.push(`modality=${fields.modality.value}`);
  if (fields.mode.value) made.push(`mode=${fields.mode.value}`);
  if (fields.from.value) made.push(`created>=${fields.from.value}`);
  if (fields.to.valueAsNumber) {
    const next = new Date(fields.to.valueAsNumber + 24 * 3600 * 1000); // the day itself is meant, too
    made.push(`created<${next.toISOString().slice(0, 10)}`);
  }
  if (fields.least.value) made.push(`bytes>=${fields.least.valueAsNumber * 1e6}`);
  if (fields.most.value) made.push(`bytes<=${fields.most.valueAsNumber * 1e6}`);
  return made;
}

export class List {
  constructor(page) {
    this.page = page;
    this.form = byId("filters");
    this.form.addEventListener("input", () => this.show());
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.asked = 0;
  }

  /** Fill the table; whether the target is a folder of archives at all. */
  async show() {
    const asked = ++this.asked;
    const fields = this.form.elements;
    const parameters = { where: conditions(fields), sort: fields.sort.value };
    if (fields.reverse.checked) parameters.reverse = 1;
    let found;
    try {
      found = await getJson("list", parameters);
    } catch (error) {
      this.page.trouble(error);
      return true;
    }
    if (asked !== this.asked) return true;
    if (!found.collection) return false;
    this.page.title(found.name, null);
    this.offerModalities(found.rows);
    byId("rows").replaceChildren(...found.rows.map((row) => this.row(row)));
    byId("rows").dataset.asked = parameters.where.join(" ");
    const filtered = parameters.where.length ? " that fit" : "";
    byId("count").textContent = `${found.rows.length} archive${found.rows.length === 1 ? "" : "s"}${filtered}`;
    this.page.say("");
    return true;
  }

  offerModalities(rows) {
    const select = this.form.elements.modality;
    const known = new Set([...select.options].map((one) => one.value));
    for (const row of rows) {
      if (row.modality && !known.has(row.modality)) {
        known.add(row.modality);
        select.append(Object.assign(document.createElement("option"), { textContent: row.modality }));
      }
    }
  }

  row(row) {
    const line = document.createElement("tr");
    const cells = [
      row.modality ?? row.kind ?? "", row.mode ?? row.state, row.shape ? `${row.shape.join(" × ")} ${row.dtype}` : "",
      row.bytes === undefined ? "" : sizeText(row.bytes), row.ratio ? number(Number(row.ratio.toPrecision(3))) : "",
      (row.created ?? "").slice(0, 10), (row.checked ?? "").slice(0, 10),
    ];
    const first = document.createElement("td");
    if (row.state === "retired") first.textContent = `${row.name} (removed on purpose)`;
    else first.append(Object.assign(document.createElement("a"), { href: `#${encodeURIComponent(row.name)}`, textContent: row.name }));
    line.append(first, ...cells.map((text) => Object.assign(document.createElement("td"), { textContent: text })));
    return line;
  }
}
