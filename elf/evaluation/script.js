"use strict";
// each picture's data stand in the page once; other places refer to them
for (const image of document.querySelectorAll("img[data-same]")) {
  image.src = document.getElementById(image.dataset.same).src;
}

const viewer = document.getElementById("viewer");
const shots = [...document.querySelectorAll(".shot")];
let list = []; // the pictures of the section that was opened
let at = 0;

function show(shot) {
  const image = shot.querySelector("img");
  const large = document.getElementById("large");
  large.src = image.src;
  large.alt = image.alt;
  large.className = image.className;
  document.getElementById("caption").textContent = image.alt;
  document.getElementById("place").textContent = `${at + 1} / ${list.length}`;
}

function go(step) {
  at = (at + step + list.length) % list.length;
  show(list[at]);
}

// the same prompt and seed by another variant, so that two can be flicked between
function turn(step) {
  const same = [];
  for (const shot of shots) {
    const { of, picture } = shot.dataset;
    if (of === list[at].dataset.of && !same.some((each) => each.dataset.picture === picture)) {
      same.push(shot);
    }
  }
  same.sort((one, other) => one.dataset.rank - other.dataset.rank);
  const now = same.findIndex((each) => each.dataset.picture === list[at].dataset.picture);
  const next = same[(now + step + same.length) % same.length];
  const there = list.findIndex((each) => each.dataset.picture === next.dataset.picture);
  if (there >= 0) at = there;
  else list[at] = next;
  show(list[at]);
}

for (const shot of shots) {
  shot.addEventListener("click", () => {
    list = [...shot.closest("section").querySelectorAll(".shot")];
    at = list.indexOf(shot);
    viewer.showModal();
    show(shot);
  });
}
viewer.addEventListener("click", (event) => {
  const { go: step, turn: round } = event.target.dataset;
  if (step) go(Number(step));
  else if (round) turn(Number(round));
  else if (event.target.id === "close") viewer.close();
});
viewer.addEventListener("keydown", (event) => {
  const keys = { ArrowLeft: [go, -1], ArrowRight: [go, 1], ArrowUp: [turn, -1], ArrowDown: [turn, 1] };
  const [move, step] = keys[event.key] || [];
  if (!move) return;
  event.preventDefault();
  move(step);
});
