"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const [ID, PATHS, WIDTH, HEIGHT, SIZE, FORMAT, FLAGS, LEADER, ALIKE, REASON, DECIDED, PERSON] =
  Array(12).keys();
const PAGE = 120; // pictures on a page, or a few more: groups stay whole
const pictures = data.pictures;
const element = (id) => document.getElementById(id);
const words = (flag) => flag.replaceAll("_", " ");

// groups: the best picture first, then the others in their order
const groups = new Map();
pictures.forEach((picture, place) => {
  if (!groups.has(picture[LEADER])) groups.set(picture[LEADER], []);
  groups.get(picture[LEADER])[place === picture[LEADER] ? "unshift" : "push"](place);
});

// choices: id -> true, false, or null, which takes a decision back; kept over a reload
const key = `elf-curate ${data.root} ${location.pathname}`;
const choices = new Map();
try {
  const ids = new Map(pictures.map((picture) => [picture[ID], picture]));
  for (const [id, keep] of JSON.parse(localStorage.getItem(key) || "[]")) {
    if (ids.has(id) && !holds(ids.get(id), keep)) choices.set(id, keep);
  }
} catch { /* no storage for files here: the choices last as long as the page */ }

// whether that is decided already, by a person
function holds(picture, keep) {
  return (picture[PERSON] ? picture[DECIDED] : null) === keep;
}

function decision(picture) {
  if (choices.has(picture[ID])) return choices.get(picture[ID]);
  return picture[DECIDED];
}

function choose(picture, keep) {
  if (holds(picture, keep)) choices.delete(picture[ID]);
  else choices.set(picture[ID], keep);
}

const chosen = () => JSON.stringify([...choices]);
let saved = ""; // what was chosen when it was saved

function remember() {
  try {
    localStorage.setItem(key, chosen());
  } catch { /* see above */ }
}

const views = [
  ["Near duplicates", (p) => groups.get(p[LEADER]).length > 1, true],
  ["Proposed drops", (p) => p[REASON] !== "" && !p[PERSON]],
  ...data.flags.map((flag, number) => [words(flag), (p) => p[FLAGS].includes(number)]),
  ["Copies", (p) => p[PATHS].length > 1],
  ["Decided", (p) => decision(p) !== null],
  ["All", () => true],
  ["Unreadable", null],
];
let view = views.findIndex(([, has]) => has && pictures.some(has));
if (view < 0) view = views.length - (data.bad.length ? 1 : 2);
let page = 0;
let shown = []; // lists of places: groups, or single pictures

function matches(picture, text) {
  return picture[ID].includes(text) || picture[PATHS].some((path) => path.toLowerCase().includes(text));
}

function select() {
  const [, has, grouped] = views[view];
  const text = element("search").value.trim().toLowerCase();
  if (!has) return [];
  if (grouped) {
    return [...groups.values()].filter((places) =>
      places.length > 1 && places.some((place) => matches(pictures[place], text)));
  }
  return pictures.flatMap((p, place) => has(p) && matches(p, text) ? [[place]] : []);
}

// pages of whole groups
function paged(lists) {
  const pages = [[]];
  let count = 0;
  for (const list of lists) {
    if (count && count + list.length > PAGE) {
      pages.push([]);
      count = 0;
    }
    pages.at(-1).push(list);
    count += list.length;
  }
  return pages;
}

function make(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function address(path) {
  return data.base + (data.links[path] || path.split("/").map(encodeURIComponent).join("/"));
}

function amount(bytes) {
  return bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

function card(place) {
  const picture = pictures[place];
  const name = picture[PATHS][0];
  const image = make("img", {
    loading: "lazy", decoding: "async", alt: name,
    src: `thumbnails/${picture[ID].slice(0, 2)}/${picture[ID]}.jpg`,
  });
  const open = make("button", { className: "shot", title: "Open" }, image);
  open.onclick = () => show(place);
  const text = make("figcaption", {},
    make("span", { className: "name", title: picture[PATHS].join("\n") }, name),
    `${picture[WIDTH]} × ${picture[HEIGHT]} · ${picture[FORMAT]} · ${amount(picture[SIZE])}`);
  if (picture[REASON]) text.append(make("span", { className: "why" }, picture[REASON]));
  const flags = picture[FLAGS].map((number) => make("span",
    { className: data.drops.includes(data.flags[number]) ? "bad" : "" }, words(data.flags[number])));
  if (place === picture[LEADER] && groups.get(place).length > 1) {
    flags.unshift(make("span", { className: "best" }, "best"));
  }
  if (picture[PATHS].length > 1) flags.push(make("span", {}, `${picture[PATHS].length} copies`));
  if (picture[DECIDED] !== null) flags.push(make("span", {}, picture[PERSON] ? "decided" : "accepted"));
  if (flags.length) text.append(make("div", { className: "flags" }, ...flags));
  const buttons = make("div", { className: "verdict" });
  for (const [keep, label] of [[true, "Keep"], [false, "Drop"]]) {
    const button = make("button", {}, label);
    button.dataset.verdict = keep;
    button.onclick = () => judge(place, keep);
    buttons.append(button);
  }
  const made = make("figure", { className: "card" }, open, text, buttons);
  made.dataset.place = place;
  mark(made, picture);
  return made;
}

// colours by what holds: a choice, a decision, or else the proposal
function mark(made, picture) {
  const keep = decision(picture);
  const proposed = keep === null && picture[REASON] !== "";
  made.classList.toggle("keep", keep === true);
  made.classList.toggle("drop", keep === false || proposed);
  made.classList.toggle("proposed", proposed);
  for (const button of made.querySelectorAll("[data-verdict]")) {
    button.setAttribute("aria-pressed", String(keep) === button.dataset.verdict);
  }
}

// the same button again takes a choice back, or a person's decision
function judge(place, keep) {
  const picture = pictures[place];
  if (choices.get(picture[ID]) === keep) choices.delete(picture[ID]);
  else choose(picture, !choices.has(picture[ID]) && holds(picture, keep) ? null : keep);
  refresh();
}

function refresh() {
  for (const made of document.querySelectorAll(".card")) mark(made, pictures[made.dataset.place]);
  if (element("viewer").open) mark(element("viewer"), pictures[open[0][open[1]]]);
  const drops = pictures.filter((p) =>
    decision(p) === false || (decision(p) === null && p[REASON] !== "")).length;
  element("summary").textContent =
    `${pictures.length} pictures, ${drops} to drop; ${choices.size} choices` +
    (choices.size ? (saved === chosen() ? ", saved" : ", not saved yet") : "");
  element("save").disabled = element("undo").disabled = !choices.size;
  element("save").textContent = `Save decisions${choices.size ? ` (${choices.size})` : ""}`;
  remember();
}

function draw() {
  element("root").textContent = data.root;
  element("views").replaceChildren(...views.flatMap(([name, has], number) => {
    const count = has ? pictures.filter(has).length : data.bad.length;
    if (!count && number !== view && name !== "All") return [];
    const button = make("button", {}, name, make("b", {}, count));
    button.setAttribute("aria-pressed", number === view);
    button.onclick = () => { view = number; page = 0; draw(); };
    return [button];
  }));
  shown = select();
  const pages = paged(shown);
  page = Math.min(page, pages.length - 1);
  const sheet = element("sheet");
  if (!views[view][1]) {
    const rows = data.bad.map(([name, reason]) =>
      make("tr", {}, make("td", {}, name), make("td", {}, reason)));
    sheet.replaceChildren(make("table", {}, make("tbody", {}, ...rows)));
  } else if (!shown.length) {
    sheet.replaceChildren(make("p", { className: "note" }, "No pictures here."));
  } else if (views[view][2]) {
    sheet.replaceChildren(...pages[page].map((places) => make("section", { className: "group" },
      make("h2", {}, `${places.length} alike`),
      make("div", { className: "cards" }, ...places.map(card)))));
  } else {
    const places = pages[page].flat();
    sheet.replaceChildren(make("div", { className: "cards" }, ...places.map(card)));
  }
  const go = (to) => () => { page = to; draw(); scrollTo(0, 0); };
  element("pages").replaceChildren(...(pages.length < 2 ? [] : [
    make("button", { disabled: page === 0, onclick: go(page - 1) }, "‹ Back"),
    make("span", {}, `page ${page + 1} of ${pages.length}`),
    make("button", { disabled: page === pages.length - 1, onclick: go(page + 1) }, "Next ›"),
  ]));
  refresh();
}

// the viewer: full size, in place, so that near duplicates can be flicked through
let open = [[], 0];
function show(place) {
  const grouped = groups.get(pictures[place][LEADER]);
  const list = views[view][2] && grouped.length > 1 ? grouped : shown.flat();
  open = [list, list.indexOf(place)];
  if (!element("viewer").open) element("viewer").showModal();
  look();
}

function look() {
  const picture = pictures[open[0][open[1]]];
  element("full").src = address(picture[PATHS][0]);
  element("place").textContent = `${open[1] + 1}/${open[0].length} · ${picture[PATHS][0]} · ` +
    `${picture[WIDTH]} × ${picture[HEIGHT]} · ${picture[FORMAT]}`;
  mark(element("viewer"), picture);
}

function go(step) {
  open[1] = (open[1] + step + open[0].length) % open[0].length;
  look();
}

function save() {
  const paths = new Map(pictures.map((picture) => [picture[ID], picture[PATHS][0]]));
  const lines = [...choices].map(([id, keep]) =>
    JSON.stringify({ id, keep, path: paths.get(id) }) + "\n");
  const link = make("a", {
    href: URL.createObjectURL(new Blob(lines, { type: "application/jsonl" })),
    download: "elf-decisions.jsonl",
  });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  saved = chosen();
  refresh();
}

element("accept").onclick = () => {
  for (const place of shown.flat()) {
    const picture = pictures[place];
    if (picture[REASON] && !picture[PERSON] && !choices.has(picture[ID])) choose(picture, false);
  }
  refresh();
};
element("keep").onclick = () => {
  for (const place of shown.flat()) choose(pictures[place], true);
  refresh();
};
element("undo").onclick = () => { choices.clear(); draw(); };
element("save").onclick = save;
element("search").oninput = () => { page = 0; draw(); };
element("close").onclick = () => element("viewer").close();
for (const button of document.querySelectorAll("[data-go]")) {
  button.onclick = () => go(Number(button.dataset.go));
}
for (const button of document.querySelectorAll("#viewer [data-verdict]")) {
  button.onclick = () => judge(open[0][open[1]], button.dataset.verdict === "true");
}
addEventListener("keydown", (event) => {
  if (!element("viewer").open) return;
  if (event.ctrlKey || event.metaKey || event.altKey) return; // the browser's: Ctrl+D, Alt+Left
  if (event.key === "ArrowLeft") go(-1);
  if (event.key === "ArrowRight") go(1);
  if (event.key === "k") judge(open[0][open[1]], true);
  if (event.key === "d") judge(open[0][open[1]], false);
});
draw();
