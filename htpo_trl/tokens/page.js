"use strict";
// The page stands without this script; here tokens are drawn when they come near the viewport, explained and filtered.
// Texts of the model are only ever set as textContent.

const data = JSON.parse(document.getElementById("data").textContent);
const main = document.querySelector("main");
const form = document.querySelector("form");
const tip = document.getElementById("tip");
const articles = [...main.children];
// What objectives, groups, rules and effects are called, is in the legends and in the key.
const objectives = [...document.querySelectorAll(".legend")].map((legend) => {
  const column = (i) => [...legend.tBodies[0].rows].map((row) => row.cells[i].textContent);
  return { name: legend.caption.textContent, groups: column(1), rules: column(2) };
});
const effects = document.querySelectorAll(".key .t:not(.none)");
const effectNames = Object.fromEntries([...effects].map((token) => [token.classList[1].slice(1), token.textContent]));
const numbers = new Intl.NumberFormat("en");

const column = (text, Type) => new Type(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);

function draw(article) {
  const completion = data[article.dataset.place];
  article.querySelector("summary").textContent = `prompt: ${completion.prompt.slice(0, 200)}`;
  article.querySelector("pre").textContent = completion.prompt;
  for (const name of ["entropy", "ratio", "advantage"]) completion[name] = column(completion[name], Float32Array);
  completion.ids = column(completion.ids, Int32Array);
  article.querySelectorAll(".tokens").forEach((pane, o) => {
    const outcome = completion.outcomes[o];
    outcome.groups = column(outcome.groups, Int8Array);
    outcome.effects = column(outcome.effects, Int8Array);
    outcome.weights = column(outcome.weights, Float32Array);
    const tokens = new DocumentFragment();
    completion.tokens.forEach((text, i) => {
      const token = document.createElement("span");
      token.className = `t ${outcome.groups[i] < 0 ? "none" : `g${outcome.groups[i]}`} e${outcome.effects[i]}`;
      // A break stands behind its token: within, it would leave an edge of it on the next line.
      const breaks = text.endsWith("\n");
      token.textContent = breaks ? text.slice(0, -1) : text;
      tokens.append(token, breaks ? "\n" : "");
    });
    pane.append(tokens);
  });
  article.style.minHeight = "";
}

const near = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      near.unobserve(entry.target);
      draw(entry.target);
    }
  },
  { rootMargin: "1200px" },
);

// One token is explained at a time, in every column.
let shown = null;

function hide() {
  for (const token of document.querySelectorAll(".here")) token.classList.remove("here");
  tip.hidden = true;
  shown = null;
}

function show(token) {
  if (token === shown) return;
  hide();
  shown = token;
  const article = token.closest("article");
  const completion = data[article.dataset.place];
  const i = Array.prototype.indexOf.call(token.parentElement.children, token);
  for (const pane of article.querySelectorAll(".tokens")) pane.children[i].classList.add("here");

  const table = document.createElement("table");
  const row = (name, values, tag = "td") => {
    const line = table.insertRow();
    for (const [kind, text] of [["th", name], ...values.map((value) => [tag, value])]) {
      line.append(Object.assign(document.createElement(kind), { textContent: text }));
    }
  };
  const { outcomes } = completion;
  const value = (number, digits) => number.toFixed(digits);
  row("token", [`${i + 1} of ${completion.tokens.length}, id ${completion.ids[i]}`]);
  row("entropy H", [`${value(completion.entropy[i], 4)} nats`]);
  row("ratio r", [value(completion.ratio[i], 4)]);
  row("advantage Â", [value(completion.advantage[i], 4)]);
  if (outcomes.length > 1) row("", objectives.map((objective) => objective.name), "th");
  row("group", outcomes.map((outcome, o) => objectives[o].groups[outcome.groups[i]] ?? "none"));
  row("objective", outcomes.map((outcome, o) => objectives[o].rules[outcome.groups[i]] ?? "J_PPO"));
  row("applied", outcomes.map((outcome) => applied(outcome, completion, i)));
  row("effective weight", outcomes.map(({ weights }) => (Number.isNaN(weights[i]) ? "none" : value(weights[i], 4))));
  const text = Object.assign(document.createElement("code"), { textContent: completion.tokens[i] });
  text.className = token.classList[1];
  tip.replaceChildren(text, table);
  tip.hidden = false;
  place(token);
}

function applied({ groups, effects, weights }, completion, i) {
  if (Number.isNaN(weights[i])) return "not trained on";
  if (effects[i]) return effectNames[effects[i]];
  const clipped = weights[i] === 0 && completion.advantage[i] !== 0;
  return `${groups[i] < 0 ? "no verdict: " : ""}J_PPO${clipped ? ", clipped" : ""}`;
}

function place(token) {
  const box = token.getClientRects()[0];
  const below = box.bottom + 10 + tip.offsetHeight < innerHeight;
  tip.style.left = `${Math.max(4, Math.min(box.left, innerWidth - tip.offsetWidth - 12))}px`;
  tip.style.top = `${below ? box.bottom + 10 : Math.max(4, box.top - tip.offsetHeight - 10)}px`;
}

main.addEventListener("mouseover", ({ target }) => (target.matches(".t") ? show(target) : hide()));
main.addEventListener("mouseleave", hide);
main.addEventListener("focusin", ({ target }) => {
  if (target.matches(".tokens:focus-visible") && target.firstElementChild) show(target.firstElementChild);
});
main.addEventListener("focusout", hide);
addEventListener("scroll", () => shown && place(shown), { passive: true });
main.addEventListener("keydown", (event) => {
  const pane = event.target;
  if (!pane.matches(".tokens") || !pane.firstElementChild) return;
  const current = shown?.parentElement === pane ? shown : pane.firstElementChild;
  const token = {
    ArrowRight: current.nextElementSibling,
    ArrowLeft: current.previousElementSibling,
    Home: pane.firstElementChild,
    End: pane.lastElementChild,
  }[event.key];
  if (event.key === "Escape") hide();
  if (!token) return;
  event.preventDefault();
  token.scrollIntoView({ block: "nearest" });
  show(token);
});

let group = null;

function filter() {
  const { difficulty, correctness, changed } = form.elements;
  const sum = (outcome) => {
    const counts = outcome.counts[changed.checked ? 1 : 0];
    return group === null ? counts.reduce((a, b) => a + b, 0) : counts[group];
  };
  const searches = group !== null || changed.checked;
  const totals = objectives.map(() => 0);
  let completions = 0;
  hide();
  articles.forEach((article, i) => {
    const { kind, outcomes } = data[i];
    const tokens = outcomes.map(sum);
    article.hidden =
      (difficulty.value && difficulty.value !== kind[0]) ||
      (correctness.value && correctness.value !== kind[1]) ||
      (searches && !tokens.some(Boolean));
    if (article.hidden) return;
    completions += 1;
    tokens.forEach((n, o) => (totals[o] += n));
  });
  if (group === null) delete main.dataset.group;
  else main.dataset.group = group;
  main.classList.toggle("only-changed", changed.checked);
  for (const row of document.querySelectorAll(".legend [data-group]")) {
    row.querySelector("button").setAttribute("aria-pressed", row.dataset.group === group);
  }
  const tokens = totals.map((n, o) => (totals.length > 1 ? `${objectives[o].name}: ` : "") + numbers.format(n));
  form.querySelector("output").textContent =
    `${completions} of ${articles.length} completions, tokens in groups: ${tokens.join("; ")}`;
}

document.querySelector("header").addEventListener("click", ({ target }) => {
  const row = target.closest(".legend [data-group]");
  if (!row) return;
  group = group === row.dataset.group ? null : row.dataset.group;
  filter();
});
form.addEventListener("input", filter);
form.addEventListener("submit", (event) => event.preventDefault());
form.querySelector("button").addEventListener("click", () => {
  group = null;
  form.reset();
  filter();
});

articles.forEach((article, i) => {
  const { tokens, outcomes } = data[i];
  // Room for the tokens before they are drawn, so that the scrollbar hardly jumps: some twenty to a line.
  const lines = 3 + (tokens.length * outcomes.length) / 20;
  article.style.minHeight = `${Math.round(28 * lines)}px`;
  near.observe(article);
});
filter();
