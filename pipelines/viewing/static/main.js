// The page: a list of archives or one of them, what was read, and what is wrong.

import { getJson, onBytesRead } from "./api.js";
import { List, sizeText } from "./list.js";
import { Viewer } from "./viewer.js";

const PATIENCE_MS = 1000;
const COMPILING = "compiling the decoder for this machine, once after an installation; that may take a minute or two";
const byId = (id) => document.getElementById(id);

const page = {
  total: null,
  title(name, bytes) {
    byId("name").textContent = name;
    document.title = name;
    this.total = bytes;
    byId("bytes").textContent = "";
  },
  bytes(read) {
    byId("bytes").textContent = `${sizeText(read)} read${this.total === null ? "" : `, the archive has ${sizeText(this.total)}`}`;
    byId("bytes").dataset.read = read;
  },
  said: "",
  say(text) {
    this.said = text;
    byId("status").textContent = text;
  },
  trouble(error) {
    byId("trouble").textContent = error.message;
    byId("trouble").hidden = false;
  },
  value(text) {
    byId("value").textContent = text;
  },
  panes(panes) {
    byId("panes").replaceChildren(...panes.map((pane) => pane.element), byId("space"));
    byId("panes").classList.toggle("one", panes.length === 1);
  },
};

const list = new List(page);
const viewer = new Viewer(page);
let isCollection = false;

/** Say why it takes long, where the server is at what it does but once. */
async function explain() {
  const text = page.said;
  if (!text.endsWith("…")) return;
  const { compiling } = await getJson("work", {}).catch(() => ({ compiling: false }));
  if (text === page.said) byId("status").textContent = compiling ? `${text} ${COMPILING}` : text;
}

async function go() {
  const at = decodeURIComponent(location.hash.slice(1));
  byId("trouble").hidden = true;
  viewer.close();
  byId("list").hidden = !isCollection || Boolean(at);
  byId("viewer").hidden = isCollection && !at;
  byId("back").hidden = !(isCollection && at);
  if (isCollection && !at) {
    await list.show();
    return;
  }
  page.say("opening …");
  try {
    await viewer.open(at);
  } catch (error) {
    page.say("");
    byId("viewer").hidden = true;
    page.trouble(error);
  }
}

onBytesRead((count) => page.bytes(count));
page.say("opening …");
setInterval(explain, PATIENCE_MS);
isCollection = await list.show();
addEventListener("hashchange", go);
await go();
